//! What is in a slot, against the image and what a deploy left: a step of the deploy remembers what is
//! not the image's any more, and a task of its own compares later. The slot is only read.
//!
//! ```text
//! deploy  ... -> record:  used blocks that are not the image's -> AsLeft, kept by the controller
//! compare check-disk (held) -> survey (which blocks are used) -> compare -> Comparison
//! ```

mod blocks;
mod record;
mod spots;
mod tally;

pub(super) use record::run as record;

use super::{ChunkSource, StepLog, capture, note_memory, plan::manifest_of, readers};
use crate::disk::Device;
use anyhow::{Context as _, bail, ensure};
use metalcast_formats::{
    capture::Source,
    region::Region,
    used::{self, Places, UsedMap},
};
use metalcast_shared::{
    as_left::{AsLeft, Comparison},
    manifest::Partition,
    to_agent::{Capture, CaptureSource, CompareSlot, Packed},
};
use spots::{FromImage, Slot, Spot};
use tally::Tally;

/// Gets what a deploy left from the controller.
pub type FetchLeft<'f> = dyn Fn(Packed) -> anyhow::Result<Vec<u8>> + 'f;

/// A slot that is held, with what is known of it.
pub(super) struct Held {
    source: Source<Device<'static>>,
    partition: Partition,
}

/// What a slot is compared with, and what is used of it.
pub(super) struct Surveyed {
    left: Option<AsLeft>,
    map: Option<UsedMap>,
    places: Option<Places>,
    remarks: Vec<String>,
}

/// Step `check-disk`: finds the disk, which must have the layout, and holds it.
pub(super) fn check(
    order: &CompareSlot,
    manifest_key: &[u8],
    log: &StepLog<'_>,
) -> anyhow::Result<Held> {
    let manifest = manifest_of(&order.image, &order.manifest, manifest_key)?;
    let partition = manifest.partition(&order.partition).cloned();
    let partition = partition
        .with_context(|| format!("{} has no partition {}", order.image, order.partition))?;
    let (layout, slot) = (order.layout.clone(), order.slot);
    let source = capture::check(
        &Capture {
            disk: order.disk.clone(),
            source: CaptureSource::Slot { layout, slot },
            name: format!("slot{slot}"),
            force: false,
            raw: false,
            tar: false,
        },
        log,
    )?;
    Ok(Held { source, partition })
}

/// Step `survey`: which blocks are used, and what the deploy left.
pub(super) fn survey(
    order: &CompareSlot,
    held: &Held,
    fetch: &FetchLeft<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<Surveyed> {
    let partition = &held.partition;
    let mut remarks = Vec::new();
    let left = match order.as_left {
        Some(packed) => {
            let left = AsLeft::decode(&fetch(packed).context("what the deploy left")?)?;
            let fits = left.is_new || left.block_bytes == partition.block_bytes;
            ensure!(fits, "what the deploy left has blocks of another size than the image");
            log.note(format!("the deploy left {} chunks that differ", left.chunks.len()));
            Some(left)
        }
        None if partition.is_archive() => {
            bail!(
                "it is not known what the deploy left, and of a tar archive nothing lies in a place of \
                 its own: deploy it again, and that is remembered"
            );
        }
        None => {
            remarks.push(
                "it is not known what the deploy left: its fix-ups count as drift".to_owned(),
            );
            None
        }
    };
    let block_bytes = left.as_ref().map_or(partition.block_bytes, |left| left.block_bytes);
    let (start, bytes) = held.place();
    let mut region = Region::new(&held.source.medium, start, bytes);
    let map = match used::read(&mut region, bytes) {
        Ok(map) if map.block_bytes == block_bytes => {
            let name = map.program;
            log.note(format!("{name}, {} MiB of {} are used", map.used_bytes() >> 20, bytes >> 20));
            remarks.extend(map.unclean.iter().map(|why| {
                format!("{name}: {why}; what it says of its blocks may not be the latest")
            }));
            Some(map)
        }
        Ok(map) => {
            let (name, has) = (map.program, map.block_bytes);
            remarks.push(format!("another filesystem is there ({name}, blocks of {has} bytes)"));
            None
        }
        Err(error) => {
            remarks.push(format!("{:#}", anyhow::Error::from(error)));
            None
        }
    };
    let places = map.as_ref().and_then(|_| used::places(&mut region, bytes).ok().flatten());
    remarks.iter().for_each(|remark| log.note(remark));
    Ok(Surveyed { left, map, places, remarks })
}

/// Step `compare`: reads all that is, or was, in use.
pub(super) fn run(
    held: &Held,
    surveyed: Surveyed,
    source: &dyn ChunkSource,
    log: &StepLog<'_>,
) -> anyhow::Result<Comparison> {
    held.source.medium.drop_caches()?;
    let (start, bytes) = held.place();
    let Surveyed { left, map, places, remarks } = surveyed;
    let is_new = left.as_ref().is_some_and(|left| left.is_new);
    let image = (!is_new).then_some(FromImage { partition: &held.partition, source });
    let place = held.source.medium.window(start, bytes)?;
    let slot = Slot::new(place, image, map.as_ref(), left.as_ref())?;
    let mut tally = Tally::new(slot.block_bytes, places.as_ref());
    let total = slot.used_bytes();
    let mut done = 0;
    slot.each_batch(&mut |batch| {
        let (mut found, mut unequal) = (Vec::new(), Vec::new());
        let is_equal = |spot: &Spot<'_>| slot.is_as_expected(spot);
        readers::each(batch.spots, is_equal, |spot, is_equal| {
            log.check_cancel()?;
            done += slot.bytes_of(spot);
            log.progress(done, total, 0);
            match is_equal && !spot.is_of_both() {
                true => found.extend(slot.all_of(spot)),
                false => unequal.push(spot),
            }
            Ok(())
        })?;
        found.extend(blocks::compare(&slot, batch, &unequal, log)?);
        found.sort_unstable_by_key(|found| found.first);
        found.into_iter().for_each(|found| tally.add(found));
        Ok(())
    })?;
    let comparison = tally.end(left.is_some(), remarks);
    log.note(comparison.to_string());
    comparison.drift.first.iter().take(NAMED).for_each(|range| log.note(range.to_string()));
    note_memory(log);
    Ok(comparison)
}

/// Ranges that are noted; the comparison itself has more.
const NAMED: usize = 8;

impl Held {
    /// Where the slot is on its disk, and how long.
    fn place(&self) -> (u64, u64) {
        self.source.partitions.first().map_or((0, 0), |part| (part.start, part.bytes))
    }
}
