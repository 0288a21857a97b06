//! Step `record` of a deploy to a slot: reads all used blocks once more and hands the controller
//! what is not the image's.

use super::spots::{FromImage, Slot, Spot};
use crate::task::{
    ChunkSource, StepLog,
    plan::{Image, Target},
    readers,
};
use anyhow::{Context, ensure};
use metalcast_formats::{layout::SECTOR_BYTES, region::Region, used};
use metalcast_shared::{
    as_left::{AsLeft, LeftChunk, MAX_AS_LEFT_BYTES, MAX_PRINTS, print},
    hash::Hash,
};

/// Most blocks of a filesystem that is remembered: half a TiB in blocks of 4 KiB. Their map takes 16 MiB,
/// which a deploy has left.
const MAX_BLOCKS: u64 = 1 << 27;

/// The system is complete by now: that it is not remembered how it was left does not fail the deploy.
pub(in crate::task) fn run(
    image: &Image<'_>,
    target: &Target,
    source: &dyn ChunkSource,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    if let Err(error) = remember(image, target, source, log) {
        log.check_cancel()?;
        log.note(format!(
            "what was left is not remembered, verify will count fix-ups as drift: {error:#}"
        ));
    }
    Ok(())
}

fn remember(
    image: &Image<'_>,
    target: &Target,
    source: &dyn ChunkSource,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let keep = log.keep().context("there is no controller that would")?;
    let device = target.open(log)?;
    let start = target.slot.start_lba * SECTOR_BYTES;
    let bytes = target.slot.sectors * SECTOR_BYTES;
    let least = if image.partition().is_archive() { 4096 } else { image.partition().block_bytes };
    ensure!(
        bytes / u64::from(least) <= MAX_BLOCKS,
        "filesystems of more than {MAX_BLOCKS} blocks are too large for that"
    );
    let map = used::read(&mut Region::new(&device, start, bytes), bytes)?;
    ensure!(map.unclean.is_empty(), "{}", map.unclean.join("; "));
    let partition = image.partition();
    let is_new = partition.is_archive() || map.block_bytes != partition.block_bytes;
    let of_image = (!is_new).then_some(FromImage { partition, source });
    let slot = Slot::new(target.slot(&device)?, of_image, Some(&map), None)?;
    let (block_bytes, total_blocks) = (map.block_bytes, map.used.blocks());
    let mut left = AsLeft { block_bytes, total_blocks, is_new, chunks: Vec::new() };
    let (mut done, total, mut size, mut prints) = (0, slot.used_bytes(), 0, 0);
    slot.each_batch(&mut |batch| {
        readers::each(
            batch.spots,
            |spot| differing(&slot, spot),
            |spot, differing| {
                log.check_cancel()?;
                done += slot.bytes_of(spot);
                log.progress(done, total, 0);
                let Some(mut chunk) = differing else { return Ok(()) };
                prints += chunk.prints.len();
                if prints > MAX_PRINTS {
                    chunk.prints = Vec::new();
                }
                size += encoded_bytes(&chunk);
                ensure!(
                    size <= MAX_AS_LEFT_BYTES as usize,
                    "more than {MAX_AS_LEFT_BYTES} bytes would be needed for it"
                );
                left.chunks.push(chunk);
                Ok(())
            },
        )
    })?;
    left.chunks.sort_unstable_by_key(|chunk| chunk.index);
    let encoded = left.encode();
    keep(&encoded)?;
    log.note(format!(
        "{done} bytes read; {} of its chunks are not the image's, which takes {} bytes to remember",
        left.chunks.len(),
        encoded.len()
    ));
    Ok(())
}

/// What is in a range, unless it is what the image has there.
fn differing(slot: &Slot<'_>, spot: &Spot<'_>) -> anyhow::Result<Option<LeftChunk>> {
    if slot.is_as_expected(spot)? {
        return Ok(None);
    }
    let data = slot.read(spot.index, &spot.now)?;
    let prints = data.chunks(slot.block_bytes as usize).map(print).collect();
    let (index, runs, hash) = (spot.index, spot.now.clone(), Hash::of(&data));
    Ok(Some(LeftChunk { index, runs, hash, prints }))
}

/// At most so many: numbers of 32 bits take up to 5, those of 64 up to 10.
fn encoded_bytes(chunk: &LeftChunk) -> usize {
    64 + chunk.runs.len() * 6 + chunk.prints.len() * 10
}
