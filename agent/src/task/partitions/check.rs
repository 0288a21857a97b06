//! Step `check-disk`: the disk must be the one that is named, with the table that was planned with, and
//! what is in the partitions must be allowed to go. Nothing is written.

use crate::{
    disk::{BOOT_LABEL, Device, uuid_of},
    task::{
        DiskSource, StepLog, check_disk,
        first_blocks::{self, Withheld},
        fix_up,
        plan::{Family, NamedDisk},
        spread::{Part, Spread, window},
    },
};
use anyhow::{Context, bail, ensure};
use metalcast_formats::{
    bpb,
    probe::{self, Contents, Kind},
    whole_disk::{self, Extent},
};
use metalcast_shared::{
    manifest::Manifest,
    table::FoundTable,
    to_agent::{DeployPartitions, Overwrite},
};
use std::io::Cursor;

/// The number of the boot partition, and the first one of a slot, in every layout.
const BOOT_NUMBER: u16 = 1;
const FIRST_SLOT: u16 = 5;

pub(super) fn run<'d>(
    order: &'d DeployPartitions,
    manifest: &'d Manifest,
    source: &dyn DiskSource,
    log: &StepLog<'_>,
) -> anyhow::Result<Spread<'d>> {
    let (disk, path) = check_disk::find(&order.disk, log)?;
    let device = log.machine().open(&path)?;
    check_disk::same_size(&disk, &device)?;
    let places = whole_disk::places(&same_table(order, &device)?);
    let named = NamedDisk { path, selector: order.disk.clone() };
    let placed = (&order.partitions[..], &order.swaps[..]);
    let mut spread = Spread::of(named, manifest, placed, &places)?;
    for extent in spread.extents() {
        may_overwrite(order, extent, &device, log)?;
    }
    look_around(&spread, &places, &device, log)?;
    order.grow.iter().try_for_each(|number| spread.place(*number).map(drop))?;
    for part in &mut spread.parts {
        part.withheld = withheld(&part.partition.filesystem);
    }
    let sector_bytes = device.sector_bytes();
    // The images are asked for with the disk in their hands.
    drop(device);
    check_images(&spread, sector_bytes, source, log)?;
    Ok(spread)
}

/// What of the first sector waits until all else is there. An XFS begins in it, and has no boot code.
fn withheld(filesystem: &str) -> Withheld {
    match (Family::of(filesystem), filesystem) {
        (Some(family), _) => family.boot_code(),
        // It has to be known by its tools, if it grows.
        (None, "ntfs") => Withheld::Code,
        (None, _) => Withheld::Sector,
    }
}

/// The disk's table, which must be the one that was planned with.
fn same_table(order: &DeployPartitions, device: &Device<'_>) -> anyhow::Result<FoundTable> {
    let now = whole_disk::found(&mut device.file(), device.bytes(), device.sector_bytes())
        .context("reading the partition table")?
        .context("the disk has no partition table that is whole; nothing was written")?;
    if let Some(difference) = order.table.difference(&now) {
        bail!(
            "the disk's partition table is another one than when the job was made: {difference}; \
             nothing was written; make the job again"
        );
    }
    Ok(now)
}

/// Whether what is in a partition may be given up.
fn may_overwrite(
    order: &DeployPartitions,
    extent: &Extent,
    device: &Device<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let (number, found) = (extent.number, window(device, extent)?.look()?);
    if let Some(why) = found.part_of() {
        bail!("partition {number} cannot be overwritten: {why}; take it out of that first");
    }
    match found {
        Contents::Blank => Ok(()),
        found if order.overwrite >= Overwrite::AnySlot => {
            log.note(format!("lost is what partition {number} holds: {found}"));
            Ok(())
        }
        found => bail!(
            "partition {number} is not blank but holds {found}; nothing will be written without leave \
             to overwrite it"
        ),
    }
}

/// What the rest of the disk says: slots of ours have a way of their own, and a suspended system wakes up
/// with what it remembers of partitions that have changed since.
fn look_around(
    spread: &Spread<'_>,
    places: &[Extent],
    device: &Device<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let is_target = |number: u16| spread.extents().any(|extent| extent.number == number);
    for extent in places {
        let (number, found) = (extent.number, window(device, extent)?.look()?);
        let labelled = found.find(Kind::Ext4).and_then(|ext4| ext4.label.as_deref());
        if number == BOOT_NUMBER && labelled == Some(BOOT_LABEL) {
            let slot = spread.extents().find(|extent| extent.number >= FIRST_SLOT);
            if let Some(Extent { number, .. }) = slot {
                bail!(
                    "partition {number} is a slot of Metalcast: deploy to it with --slot {number}"
                );
            }
            ensure!(!is_target(number), "partition {number} is the boot partition of Metalcast");
        }
        if found.find(Kind::Hibernated).is_some() && !is_target(number) {
            log.note(format!(
                "a system is suspended in partition {number}: it must not be woken up, for it remembers \
                 partitions as they were"
            ));
        }
    }
    Ok(())
}

/// That volumes have sectors of the disk's size, and that the kernel will not take one filesystem for
/// another.
fn check_images(
    spread: &Spread<'_>,
    sector_bytes: u32,
    source: &dyn DiskSource,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let own = spread.extents().map(|extent| spread.disk.node(extent.number, log));
    let others = fix_up::others(&own.collect::<Result<Vec<_>, _>>()?, log)?;
    let all = |_: &Part<'_>| true;
    spread.restore(source, all, log, |restores, _, log| {
        for (restore, part) in restores.iter().zip(&spread.parts) {
            let (name, number) = (&part.partition.name, part.extent.number);
            let head = first_blocks::head(restore, log)?;
            let unit = head.first_chunk().and_then(bpb::sector_bytes);
            if let Some(unit) = unit.filter(|unit| *unit != sector_bytes) {
                bail!(
                    "{name} is of a disk with logical sectors of {unit} bytes, this one has sectors of \
                     {sector_bytes} bytes"
                );
            }
            let bytes = head.len() as u64;
            let found = probe::probe(&mut Cursor::new(head), 0, bytes)?;
            let uuid = uuid_of(&found).filter(|uuid| others.contains(uuid));
            let Some(uuid) = uuid else { continue };
            ensure!(
                found.find(Kind::Btrfs).is_none(),
                "{name} is a btrfs with UUID {uuid}, as another one on this node: the kernel would take \
                 one for the other"
            );
            log.note(format!(
                "partition {number} will have UUID {uuid}, as another one on this node: what looks for \
                 it by that finds either"
            ));
        }
        Ok(())
    })
}
