//! Step `record` of a deploy: reads all used blocks once more and hands the controller what is not the
//! image's.

use super::{
    Progress, areas,
    place::{self, Use},
    spots::{FromImage, Slot, Spot},
};
use crate::{
    disk::Device,
    task::{
        ChunkSource, StepLog,
        plan::{Image, Target},
        readers,
    },
};
use anyhow::{Context, bail, ensure};
use metalcast_formats::layout::SECTOR_BYTES;
use metalcast_shared::{
    as_left::{AsLeft, LeftBlocks, LeftChunk, LeftPartition, MAX_AS_LEFT_BYTES, MAX_PRINTS, print},
    hash::Hash,
    manifest::Partition,
};

/// A partition that a deploy has filled.
pub(in crate::task) struct LeftPart<'p> {
    /// Its number on the disk.
    pub(in crate::task) number: u16,
    /// What was put there.
    pub(in crate::task) partition: &'p Partition,
    /// Its first byte on the disk.
    pub(in crate::task) start: u64,
    /// Its length in bytes.
    pub(in crate::task) bytes: u64,
    /// What the image has in it.
    pub(in crate::task) source: &'p dyn ChunkSource,
}

/// What was left in a slot.
pub(in crate::task) fn slot(
    image: &Image<'_>,
    target: &Target,
    source: &dyn ChunkSource,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let part = LeftPart {
        number: target.slot.number,
        partition: image.partition(),
        start: target.slot.start_lba * SECTOR_BYTES,
        bytes: target.slot.sectors * SECTOR_BYTES,
        source,
    };
    run(|| Ok((target.open(log)?, Vec::new())), &[part], log)
}

/// What was left in some partitions of a disk, and in areas outside of them (first byte and length), both of which
/// `open` gives. All is complete by now: that it is not remembered does not fail the deploy.
pub(in crate::task) fn run<'c>(
    open: impl FnOnce() -> anyhow::Result<(Device<'c>, Vec<(u64, u32)>)>,
    parts: &[LeftPart<'_>],
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let remembered = open().and_then(|(device, areas)| remember(&device, &areas, parts, log));
    if let Err(error) = remembered {
        log.check_cancel()?;
        log.note(format!("what was left is not remembered: {error:#}"));
    }
    Ok(())
}

fn remember(
    device: &Device<'_>,
    areas: &[(u64, u32)],
    parts: &[LeftPart<'_>],
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let keep = log.keep().context("there is no controller that would")?;
    device.drop_caches()?;
    let mut left = AsLeft { areas: areas::look(device, areas)?, partitions: Vec::new() };
    let progress = Progress::of(parts.iter().map(|part| part.partition));
    let mut account = Account { progress, ..Account::default() };
    for part in parts {
        let (size, prints) = (account.size, account.prints);
        let blocks = match account.blocks(device, part, log) {
            Ok(blocks) => Some(blocks),
            Err(error) => {
                log.check_cancel()?;
                // It takes no room from the others.
                (account.size, account.prints) = (size, prints);
                log.note(format!(
                    "how {} was left is not remembered, verify will count fix-ups as drift: {error:#}",
                    part.partition.name
                ));
                None
            }
        };
        let LeftPart { number, partition, start, bytes, .. } = *part;
        let partition = partition.name.clone();
        left.partitions.push(LeftPartition { number, partition, start, bytes, blocks });
    }
    if left.areas.is_empty() && left.partitions.iter().all(|one| one.blocks.is_none()) {
        return Ok(());
    }
    left.partitions.sort_unstable_by_key(|one| one.number);
    let encoded = left.encode();
    keep(&encoded)?;
    let known = left.partitions.iter().filter_map(|one| one.blocks.as_ref());
    log.note(format!(
        "{} bytes read; {} of its chunks are not the image's, which takes {} bytes to remember",
        account.progress.done,
        known.map(|blocks| blocks.chunks.len()).sum::<usize>(),
        encoded.len()
    ));
    Ok(())
}

/// What was read and will be sent so far.
#[derive(Default)]
struct Account {
    progress: Progress,
    size: usize,
    prints: usize,
}

impl Account {
    fn blocks(
        &mut self,
        device: &Device<'_>,
        part: &LeftPart<'_>,
        log: &StepLog<'_>,
    ) -> anyhow::Result<LeftBlocks> {
        let LeftPart { partition, start, bytes, source, .. } = *part;
        let wanted = (!partition.is_archive()).then_some(partition.block_bytes);
        let map = match place::used(device, (start, bytes), partition, wanted)? {
            Use::Known(map) => Some(map),
            Use::Unknown => None,
            Use::Another(name, has) => bail!("a {name} with blocks of {has} bytes is there"),
        };
        let (block_bytes, total_blocks) =
            map.as_ref().map_or((partition.block_bytes, partition.total_blocks), |map| {
                (map.block_bytes, map.used.blocks())
            });
        let is_new = partition.is_archive();
        let of_image = (!is_new).then_some(FromImage { partition, source });
        let slot = Slot::new(device.window(start, bytes)?, of_image, map.as_ref(), None)?;
        self.progress.correct(partition, &slot);
        let mut left = LeftBlocks { block_bytes, total_blocks, is_new, chunks: Vec::new() };
        slot.each_batch(&mut |batch| {
            readers::each(
                batch.spots,
                |spot| differing(&slot, spot),
                |spot, differing| {
                    log.check_cancel()?;
                    self.progress.add(slot.bytes_of(spot), log);
                    left.chunks.extend(differing.map(|chunk| self.take(chunk)).transpose()?);
                    Ok(())
                },
            )
        })?;
        left.chunks.sort_unstable_by_key(|chunk| chunk.index);
        Ok(left)
    }

    fn take(&mut self, mut chunk: LeftChunk) -> anyhow::Result<LeftChunk> {
        self.prints += chunk.prints.len();
        if self.prints > MAX_PRINTS {
            chunk.prints = Vec::new();
        }
        self.size += encoded_bytes(&chunk);
        ensure!(
            self.size <= MAX_AS_LEFT_BYTES as usize - REST_BYTES,
            "more than {MAX_AS_LEFT_BYTES} bytes would be needed for it"
        );
        Ok(chunk)
    }
}

/// Room for areas and the names of partitions.
const REST_BYTES: usize = 512 << 10;

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
