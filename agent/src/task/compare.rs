//! What is in a slot or on a disk, against the image and what a deploy left: a step of the deploy remembers
//! what is not the image's any more, and a task of its own compares later. The disk is only read.
//!
//! ```text
//! deploy  ... -> record:  used blocks that are not the image's -> AsLeft, kept by the controller
//! compare check-disk (held) -> survey (what the deploy left) -> compare -> Comparison
//! ```

mod areas;
mod blocks;
mod place;
mod record;
mod spots;
mod tally;

pub(super) use record::{LeftPart, run as record, slot as record_slot};

use super::{DiskSource, StepLog, capture, check_disk, note_memory, plan::manifest_of};
use crate::disk::Device;
use anyhow::{Context as _, bail, ensure};
use metalcast_shared::{
    as_left::{Area, AsLeft, Comparison, LeftBlocks, LeftPartition},
    manifest::{Manifest, Partition},
    to_agent::{Capture, CaptureSource, Compare, CompareSource, Packed},
};
use place::Place;
use spots::Slot;

/// Gets what a deploy left from the controller.
pub type FetchLeft<'f> = dyn Fn(Packed) -> anyhow::Result<Vec<u8>> + 'f;

/// A disk that is held, and what was put there.
pub(super) struct Held {
    device: Device<'static>,
    manifest: Manifest,
    /// First byte and length of the slot, if one is compared.
    slot: Option<(u64, u64)>,
}

/// What is compared.
pub(super) struct Surveyed<'h> {
    areas: Vec<Area>,
    parts: Vec<Part<'h>>,
    is_known: bool,
}

/// A slot, or a partition of a disk.
struct Part<'h> {
    partition: &'h Partition,
    start: u64,
    bytes: u64,
    left: Option<LeftBlocks>,
}

/// Step `check-disk`: finds the disk and holds it.
pub(super) fn check(
    order: &Compare,
    manifest_key: &[u8],
    log: &StepLog<'_>,
) -> anyhow::Result<Held> {
    let manifest = manifest_of(&order.image, &order.manifest, manifest_key)?;
    let CompareSource::Slot { layout, slot, .. } = &order.source else {
        let (disk, path) = check_disk::find(&order.disk, log)?;
        let device = Device::hold_to_read(&path)
            .context("it must not change while it is compared: end what uses it")?;
        check_disk::same_size(&disk, &device)?;
        return Ok(Held { device, manifest, slot: None });
    };
    let source = capture::check(
        &Capture {
            disk: order.disk.clone(),
            source: CaptureSource::Slot { layout: layout.clone(), slot: *slot },
            name: format!("slot{slot}"),
            force: false,
            raw: false,
            tar: false,
        },
        log,
    )?;
    let slot = source.partitions.first().map(|part| (part.start, part.bytes));
    Ok(Held { device: source.medium, manifest, slot })
}

/// Step `survey`: what the deploy left, and where.
pub(super) fn survey<'h>(
    order: &Compare,
    held: &'h Held,
    fetch: &FetchLeft<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<Surveyed<'h>> {
    let left = match order.as_left {
        Some(packed) => AsLeft::decode(&fetch(packed).context("what the deploy left")?)?,
        None => AsLeft::default(),
    };
    let is_known = order.as_left.is_some();
    let AsLeft { areas, partitions } = left;
    let parts = match (&order.source, held.slot) {
        (CompareSource::Slot { slot, partition, .. }, Some((start, bytes))) => {
            let left = partitions.into_iter().find(|one| one.number == *slot);
            let left = left.filter(|left| left.partition == *partition);
            vec![held.part(partition, (start, bytes), left.and_then(|left| left.blocks))?]
        }
        (CompareSource::Slot { .. }, None) => bail!("the slot has no place"),
        (CompareSource::Disk, _) => {
            ensure!(is_known, "it is not known what the deploy left on the disk: deploy it again");
            let part = |left: LeftPartition| {
                held.part(&left.partition, (left.start, left.bytes), left.blocks)
            };
            partitions.into_iter().map(part).collect::<anyhow::Result<_>>()?
        }
    };
    for Part { partition, left, .. } in &parts {
        match left {
            Some(left) => log.note(format!(
                "the deploy left {} chunks of {} that differ",
                left.chunks.len(),
                partition.name
            )),
            None if partition.is_archive() => bail!(
                "it is not known what the deploy left, and of a tar archive nothing lies in a place of \
                 its own: deploy it again, and that is remembered"
            ),
            None => {}
        }
    }
    Ok(Surveyed { areas, parts, is_known })
}

/// Step `compare`: reads all that is, or was, in use.
pub(super) fn run(
    order: &Compare,
    held: &Held,
    Surveyed { areas, parts, is_known }: Surveyed<'_>,
    source: &dyn DiskSource,
    log: &StepLog<'_>,
) -> anyhow::Result<Comparison> {
    held.device.drop_caches()?;
    let mut all =
        Comparison { has_as_left: is_known, ..areas::compare(&areas, &held.device, log)? };
    let mut progress = Progress::of(parts.iter().map(|part| part.partition));
    for part in parts {
        let of_part = Place::of(&held.device, &part, log)?.compare(
            &part,
            &*source.partition(&part.partition.name),
            &mut progress,
            log,
        )?;
        match order.source {
            CompareSource::Slot { .. } => all = of_part,
            CompareSource::Disk => all.add(&part.partition.name, part.start, of_part),
        }
    }
    log.note(all.to_string());
    all.drift.first.iter().take(NAMED).for_each(|range| log.note(range.to_string()));
    note_memory(log);
    Ok(all)
}

/// Ranges that are noted; the comparison itself has more.
const NAMED: usize = 8;

/// Bytes that were read, and that will be as far as it is known: of partitions that were not looked at yet, what
/// the image has of them.
#[derive(Default)]
struct Progress {
    done: u64,
    total: u64,
}

impl Progress {
    fn of<'p>(partitions: impl Iterator<Item = &'p Partition>) -> Self {
        Self { done: 0, total: partitions.map(Partition::used_bytes).sum() }
    }

    /// How much of a partition is used is known now.
    fn correct(&mut self, partition: &Partition, slot: &Slot<'_>) {
        self.total = self.total.saturating_sub(partition.used_bytes()) + slot.used_bytes();
    }

    fn add(&mut self, bytes: u64, log: &StepLog<'_>) {
        self.done += bytes;
        log.progress(self.done, self.total, 0);
    }
}

impl Held {
    fn part(
        &self,
        name: &str,
        (start, bytes): (u64, u64),
        left: Option<LeftBlocks>,
    ) -> anyhow::Result<Part<'_>> {
        let partition = self.manifest.partition(name);
        let partition = partition
            .with_context(|| format!("{} has no partition {name}", self.manifest.revision))?;
        let fits = left
            .as_ref()
            .is_none_or(|left| left.is_new || left.block_bytes == partition.block_bytes);
        ensure!(fits, "what the deploy left has blocks of another size than the image");
        Ok(Part { partition, start, bytes, left })
    }
}
