//! Step `transfer`: gets every chunk but those of the first MiB onto the disk. What is there already
//! is not fetched, zeros are written without being sent.

use super::{
    StepLog,
    pump::Arrived,
    restore::{self, Restore},
};
use crate::disk::{Device, MIB};
use metalcast_shared::{
    manifest::{Chunk, Page},
    transfer::PageTransfer,
};

/// Chunks of a page that are compared with the disk first. If the disk has none of them, the rest of
/// the page is not compared: reading a foreign disk only costs time.
const SAMPLE: usize = 32;

/// Bytes written between flushes: bounds the dirty memory, and makes progress mean something.
const FLUSH_BYTES: u64 = 64 * MIB;

/// Bytes of used blocks, by how they came onto the disk.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    fetched: u64,
    wire: u64,
    zero: u64,
    kept: u64,
    unflushed: u64,
    total: u64,
}

impl Counts {
    fn done(&self) -> u64 {
        self.fetched + self.zero + self.kept
    }
}

pub(super) fn run(
    restores: &[Restore<'_>],
    device: &Device<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let mut counts = Counts { total: restore::used_bytes(restores), ..Counts::default() };
    for restore in restores {
        for number in 0..restore.pages() {
            log.check_cancel()?;
            let page = restore.page(number)?;
            let mut transfer = PageTransfer::new(u16::try_from(page.chunks.len())?);
            local(restore, &page, &mut transfer, &mut counts, log)?;
            restore.pump(number, &page, log).run(
                &mut transfer,
                &|chunk, _, data| {
                    restore.place.write_extents(chunk.extents(restore.partition), data)
                },
                &mut |arrived| count(device, &mut counts, arrived, log),
            )?;
        }
    }
    device.flush()?;
    log.note(format!(
        "{} bytes fetched ({} on the wire), {} zero, {} were on the disk already",
        counts.fetched, counts.wire, counts.zero, counts.kept
    ));
    Ok(())
}

/// Marks what need not be fetched: what comes later, what is there, what is zero.
fn local(
    restore: &Restore<'_>,
    page: &Page,
    transfer: &mut PageTransfer,
    counts: &mut Counts,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let partition = restore.partition;
    let is_there = |chunk: &Chunk| -> anyhow::Result<bool> {
        Ok(restore.place.hash(chunk.extents(partition))? == chunk.data_hash)
    };
    let every = (page.chunks.len() / SAMPLE).max(1);
    let mut compare = false;
    for chunk in page.chunks.iter().step_by(every) {
        if !restore.is_deferred(chunk) && is_there(chunk)? {
            compare = true;
            break;
        }
    }
    for (position, chunk) in (0u16..).zip(&page.chunks) {
        log.check_cancel()?;
        let bytes = chunk.data_bytes(partition) as u64;
        if restore.is_deferred(chunk) {
            transfer.written(position);
        } else if compare && is_there(chunk)? {
            counts.kept += bytes;
            transfer.written(position);
        } else if chunk.zero {
            for (offset, length) in chunk.extents(partition) {
                restore.place.zero_at(offset, length as u64)?;
            }
            counts.zero += bytes;
            transfer.written(position);
        } else {
            continue;
        }
        log.progress(counts.done(), counts.total, counts.wire);
    }
    Ok(())
}

fn count(
    device: &Device<'_>,
    counts: &mut Counts,
    arrived: Arrived,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    counts.fetched += arrived.data_bytes;
    counts.wire += arrived.wire_bytes;
    counts.unflushed += arrived.data_bytes;
    if counts.unflushed >= FLUSH_BYTES {
        counts.unflushed = 0;
        device.flush()?;
    }
    log.progress(counts.done(), counts.total, counts.wire);
    Ok(())
}
