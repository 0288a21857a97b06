//! Step `first-blocks`: the first MiB of each place, once all else is on the disk and verified. From
//! here on there are filesystems; a slot's boot code stays blank, so that it still cannot be started.

use super::{StepLog, restore::Restore};
use crate::disk::{Device, MIB};
use anyhow::{Context, ensure};
use metalcast_formats::grub::blank_boot_code;
use metalcast_shared::{hash::Hash, manifest::Chunk, transfer::PageTransfer};
use std::sync::{Mutex, PoisonError};

/// What is left out of a first sector until nothing else is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withheld {
    /// Nothing: it starts no system, or something else keeps it from being started.
    Nothing,
    /// Boot code and 55AA; what tools want to know of the volume is there.
    Code,
    /// All of it.
    Sector,
}

impl Withheld {
    /// Takes it out of an image's first bytes.
    pub(super) fn take_out(self, data: &mut [u8]) {
        let Some(sector) = data.first_chunk_mut() else { return };
        match self {
            Self::Nothing => {}
            Self::Code => *sector = blank_boot_code(sector),
            Self::Sector => sector.fill(0),
        }
    }
}

/// Chunks of a first MiB, with their data.
type Fetched = Vec<(Chunk, Vec<u8>)>;

pub(super) fn run(
    restores: &[Restore<'_>],
    device: &Device<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let mut written = 0;
    for restore in restores {
        log.check_cancel()?;
        written += write(restore, fetch(restore, log)?, device)?;
    }
    log.note(format!("{written} chunks written"));
    Ok(())
}

/// The first MiB of an image's partition as it will be, zeros where nothing is used.
pub(super) fn head(restore: &Restore<'_>, log: &StepLog<'_>) -> anyhow::Result<Vec<u8>> {
    let mut head = vec![0; MIB.min(restore.partition.device_bytes) as usize];
    for (chunk, data) in fetch(restore, log)? {
        let mut data = &data[..];
        for (at, bytes) in chunk.extents(restore.partition) {
            let (extent, rest) = data.split_at_checked(bytes).context("a chunk is too short")?;
            let place = usize::try_from(at).ok().and_then(|at| head.get_mut(at..));
            for (to, from) in place.into_iter().flatten().zip(extent) {
                *to = *from;
            }
            data = rest;
        }
    }
    Ok(head)
}

fn fetch(restore: &Restore<'_>, log: &StepLog<'_>) -> anyhow::Result<Fetched> {
    // A partition without a used block has no page.
    if restore.pages() == 0 {
        return Ok(Vec::new());
    }
    let page = restore.page(0)?;
    let mut wanted = PageTransfer::new(u16::try_from(page.chunks.len())?);
    for (position, chunk) in (0u16..).zip(&page.chunks) {
        if !restore.is_deferred(chunk) {
            wanted.written(position);
        }
    }
    let arrived = Mutex::new(Vec::new());
    let keep = |chunk: &Chunk, _: &[u8], data: &[u8]| {
        let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.push((chunk.clone(), data.to_vec()));
        Ok(())
    };
    restore.pump(0, &page, log).run(&mut wanted, &keep, &mut |_| Ok(()))?;
    let mut chunks = arrived.into_inner().unwrap_or_else(PoisonError::into_inner);
    chunks.sort_by_key(|(chunk, _)| chunk.index);
    Ok(chunks)
}

fn write(restore: &Restore<'_>, mut chunks: Fetched, device: &Device<'_>) -> anyhow::Result<usize> {
    for (chunk, data) in &mut chunks {
        let first_byte = chunk.extents(restore.partition).next().map(|(at, _)| at);
        if first_byte == Some(0) {
            restore.withheld.take_out(data);
        }
        restore.place.write_extents(chunk.extents(restore.partition), data)?;
    }
    device.flush()?;
    device.drop_caches()?;
    for (chunk, data) in &chunks {
        let back = restore.place.hash(chunk.extents(restore.partition))?;
        ensure!(
            back == Hash::of(data),
            "the first MiB of {} reads back differently from what was written",
            restore.name
        );
    }
    Ok(chunks.len())
}
