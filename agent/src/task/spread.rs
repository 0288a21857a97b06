//! Partitions of an image, each with its place on one disk: what a whole disk and partitions that a disk
//! has already have in common.

use super::{
    DiskSource, StepLog, driver,
    first_blocks::Withheld,
    grow::Place,
    plan::{EXTENDED_BYTES, Family, NamedDisk, announce},
    restore::Restore,
    swap,
};
use crate::disk::{Device, MIB, Window};
use anyhow::{Context, ensure};
use metalcast_formats::whole_disk::{Extent, Role};
use metalcast_shared::{
    manifest::{Manifest, Partition},
    to_agent::Placed,
    whole_disk::Swap,
};
use metalcast_sys::block::Partition as KernelPartition;
use uuid::Uuid;

/// All of an image that goes onto a disk.
pub(super) struct Spread<'d> {
    pub(super) disk: NamedDisk,
    pub(super) parts: Vec<Part<'d>>,
    /// Partitions that become swap.
    pub(super) swaps: Vec<(Extent, &'d Swap)>,
}

/// A partition of the image, and its place.
#[derive(Clone, Copy)]
pub(super) struct Part<'d> {
    pub(super) extent: Extent,
    pub(super) partition: &'d Partition,
    /// What step `first-blocks` leaves out.
    pub(super) withheld: Withheld,
}

impl<'d> Spread<'d> {
    /// Sees that each has a place of its own among `places` that it fits into, and that what is mounted
    /// later has a driver.
    pub(super) fn of(
        disk: NamedDisk,
        manifest: &'d Manifest,
        (placed, swaps): (&[Placed], &'d [Swap]),
        places: &[Extent],
    ) -> anyhow::Result<Self> {
        let mut taken: Vec<u16> = Vec::new();
        let mut take = |number: u16| {
            ensure!(!taken.contains(&number), "two contents for partition {number}");
            taken.push(number);
            let place = places.iter().find(|place| place.number == number);
            let place = place.with_context(|| format!("the table has no partition {number}"))?;
            ensure!(place.role != Role::Extended, "partition {number} is an extended one");
            Ok(*place)
        };
        let mut parts = Vec::new();
        for Placed { number, partition: name } in placed {
            let partition = manifest.partition(name);
            let partition = partition
                .with_context(|| format!("{} has no partition {name}", manifest.revision))?;
            let extent = take(*number)?;
            let (needed, bytes) = (partition.device_bytes, extent.bytes);
            ensure!(needed <= bytes, "{name} needs {needed} bytes, partition {number} has {bytes}");
            if let Some(family) = Family::of(&partition.filesystem) {
                driver::require(family.driver())?;
            }
            parts.push(Part { extent, partition, withheld: Withheld::Nothing });
        }
        let swaps = swaps.iter().map(|swap| anyhow::Ok((take(swap.number)?, swap)));
        let swaps = swaps.collect::<Result<_, _>>()?;
        Ok(Self { disk, parts, swaps })
    }

    /// Where something goes, swap included.
    pub(super) fn extents(&self) -> impl Iterator<Item = &Extent> {
        self.parts.iter().map(|part| &part.extent).chain(self.swaps.iter().map(|(place, _)| place))
    }

    /// The place of a partition of the image.
    pub(super) fn place(&self, number: u16) -> anyhow::Result<Place<'_>> {
        let part = self.parts.iter().find(|part| part.extent.number == number);
        let part = part.with_context(|| format!("nothing goes into partition {number}"))?;
        Ok(Place::of(&self.disk, &part.extent))
    }

    /// Takes a step with the partitions for which `which` holds.
    pub(super) fn restore(
        &self,
        source: &dyn DiskSource,
        which: impl Fn(&Part<'_>) -> bool,
        log: &StepLog<'_>,
        run: impl FnOnce(&[Restore<'_>], &Device<'_>, &StepLog<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let device = self.disk.open(log)?;
        let chosen: Vec<_> = self.parts.iter().filter(|part| which(part)).collect();
        let sources: Vec<_> =
            chosen.iter().map(|part| source.partition(&part.partition.name)).collect();
        let restores: anyhow::Result<Vec<Restore<'_>>> = chosen
            .iter()
            .zip(&sources)
            .map(|(part, source)| {
                Ok(Restore {
                    partition: part.partition,
                    source: source.as_ref(),
                    place: window(&device, &part.extent)?,
                    name: format!("partition {}", part.extent.number),
                    withheld: part.withheld,
                })
            })
            .collect();
        match &restores?[..] {
            [] => Ok(()),
            restores => run(restores, &device, log),
        }
    }

    /// Step `format`: swap under the names that the image's systems know it by. `is_theirs` says whether
    /// these are in the image.
    pub(super) fn make_swap(
        &self,
        is_theirs: impl Fn(&Swap) -> bool,
        log: &StepLog<'_>,
    ) -> anyhow::Result<()> {
        let device = self.disk.open(log)?;
        for (extent, one) in &self.swaps {
            let id = one.uuid.unwrap_or_else(Uuid::new_v4);
            swap::make(&device, &window(&device, extent)?, id, &one.label)
                .with_context(|| format!("making swap of partition {}", one.number))?;
            let known = if is_theirs(one) { "as in the image" } else { "a new one" };
            log.note(format!("swap partition {} formatted, UUID {id} ({known})", one.number));
        }
        Ok(())
    }
}

/// The part of the disk that a partition covers.
pub(super) fn window<'w>(device: &'w Device<'_>, extent: &Extent) -> anyhow::Result<Window<'w>> {
    device.window(extent.start_bytes, extent.bytes)
}

/// Zeroes the first and the last MiB of a partition, by which filesystems are recognised: an old one must
/// not shine through. The caller flushes.
pub(super) fn blank_edges(device: &Device<'_>, extent: &Extent) -> anyhow::Result<()> {
    let place = window(device, extent)?;
    let edge = place.bytes().min(MIB);
    place.zero_at(0, edge)?;
    place.zero_at(place.bytes() - edge, edge)
}

/// Has the kernel know the partitions of a table.
pub(super) fn announce_all(device: &Device<'_>, places: &[Extent]) -> anyhow::Result<()> {
    let kernel = |extent: &Extent| KernelPartition {
        number: u32::from(extent.number),
        start_bytes: extent.start_bytes,
        length_bytes: match extent.role {
            Role::Extended => EXTENDED_BYTES,
            Role::Data | Role::Esp => extent.bytes,
        },
    };
    announce(device, &places.iter().map(kernel).collect::<Vec<_>>())
}
