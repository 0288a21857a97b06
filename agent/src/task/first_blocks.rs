//! Step `first-blocks`: the first MiB, once all else is on the disk and verified. From here on the
//! slot has a filesystem; its boot code stays blank, so that it still cannot be started.

use super::{
    ChunkSource, StepLog,
    plan::{Family, Image, Target},
    pump::Pump,
};
use anyhow::ensure;
use metalcast_formats::grub::blank_boot_code;
use metalcast_shared::{manifest::Chunk, transfer::PageTransfer};
use std::sync::{Mutex, PoisonError};

pub(super) fn run(
    image: &Image<'_>,
    target: &Target,
    source: &dyn ChunkSource,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let page = image.page(0, source)?;
    let mut wanted = PageTransfer::new(u16::try_from(page.chunks.len())?);
    for (position, chunk) in (0u16..).zip(&page.chunks) {
        if !image.is_deferred(chunk) {
            wanted.written(position);
        }
    }
    let arrived = Mutex::new(Vec::new());
    let keep = |chunk: &Chunk, data: &[u8]| {
        let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.push((chunk.clone(), data.to_vec()));
        Ok(())
    };
    let pump = Pump { image, number: 0, page: &page, source, log };
    pump.run(&mut wanted, &keep, &mut |_| Ok(()))?;

    let device = target.open(log)?;
    let slot = target.slot(&device)?;
    let mut chunks = arrived.into_inner().unwrap_or_else(PoisonError::into_inner);
    chunks.sort_by_key(|(chunk, _)| chunk.index);
    for (chunk, data) in &mut chunks {
        let first_byte = chunk.extents(image.partition()).next().map(|(at, _)| at);
        if first_byte == Some(0) {
            blank(image.family, data);
        }
        slot.write_extents(chunk.extents(image.partition()), data)?;
    }
    device.flush()?;
    device.drop_caches()?;
    for (chunk, data) in &chunks {
        let back = slot.hash(chunk.extents(image.partition()))?;
        ensure!(
            back == metalcast_shared::hash::Hash::of(data),
            "the first MiB of slot {} reads back differently from what was written",
            target.slot.number
        );
    }
    log.note(format!("{} chunks written, boot code left blank", chunks.len()));
    Ok(())
}

/// Takes the boot code out of an image's first bytes, where the filesystem leaves that to it.
pub(super) fn blank(family: Family, data: &mut [u8]) {
    if family.kind().leaves_sector_0_free()
        && let Some(sector) = data.first_chunk_mut()
    {
        *sector = blank_boot_code(sector);
    }
}
