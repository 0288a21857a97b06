//! Step `check-disk`: finds the disk by its identity, looks at what is on it and refuses what the task
//! may not overwrite. Nothing is written, but that a damaged boot partition of ours is repaired.

mod standing;

pub(super) use standing::has_only_an_empty_table;

use super::{
    StepLog, driver,
    plan::{BootState, Image, SlotAddress, TableState, Target, window},
};
use crate::disk::{BOOT_DRIVER, Device};
use anyhow::{Context, bail, ensure};
use metalcast_formats::{
    grub::{self, SlotBoot},
    layout::{self, DiskPlan, PlannedPartition, Role, SECTOR_BYTES},
    probe::Contents,
};
use metalcast_shared::{
    disk::{Disk, DiskSelector},
    to_agent::{Overwrite, SelectSlot},
};
use std::path::PathBuf;

/// For a deploy.
pub(super) fn deploy(image: &Image<'_>, log: &StepLog<'_>) -> anyhow::Result<Target> {
    let deploy = image.deploy;
    let address = SlotAddress { disk: &deploy.disk, layout: &deploy.layout, slot: deploy.slot };
    let located = locate(address, log)?;
    driver::require(image.family.driver())?;
    let what = format!("{} of {}", deploy.partition, deploy.image);
    fits(&what, image.partition().device_bytes, &located.slot)?;
    let target = standing::of(located, address, deploy.overwrite, log)?;
    if let TableState::AsPlanned(_) = target.table {
        standing::may_overwrite(&target, deploy.overwrite, log)?;
        log.note(format!("the disk has layout {}", deploy.layout.name));
    }
    Ok(target)
}

/// For starting another slot.
pub(super) fn select(select: &SelectSlot, log: &StepLog<'_>) -> anyhow::Result<Target> {
    let address = SlotAddress { disk: &select.disk, layout: &select.layout, slot: select.slot };
    let target = startable(address, log)?;
    let writing = standing::slot_state(&target, log)?.writing;
    ensure!(!writing, "slot {} cannot be started: it is not complete", select.slot);
    Ok(target)
}

/// For the table alone.
pub(super) fn table(
    address: SlotAddress<'_>,
    overwrite: Overwrite,
    log: &StepLog<'_>,
) -> anyhow::Result<Target> {
    standing::table(locate(address, log)?, address, overwrite, log)
}

/// For table, boot partition and swap, whatever is in the slots.
pub(super) fn disk(
    address: SlotAddress<'_>,
    overwrite: Overwrite,
    log: &StepLog<'_>,
) -> anyhow::Result<Target> {
    standing::of(locate(address, log)?, address, overwrite, log)
}

/// For work on a disk that has the layout and our boot partition.
pub(super) fn installed(address: SlotAddress<'_>, log: &StepLog<'_>) -> anyhow::Result<Target> {
    let located = locate(address, log)?;
    let device = log.machine().open(&located.path)?;
    if standing::planned_table(&device, &located.plan)?.is_none() {
        bail!(
            "the disk does not have layout {}: {}",
            address.layout.name,
            standing::table_text(&device, &located.plan)
        );
    }
    drop(device);
    let target = standing::of(located, address, Overwrite::BlankOnly, log)?;
    ensure!(target.boot == BootState::Ours, "the disk has no boot partition of Metalcast");
    Ok(target)
}

/// For a new content of a slot of such a disk.
pub(super) fn overwritable(
    address: SlotAddress<'_>,
    overwrite: Overwrite,
    log: &StepLog<'_>,
) -> anyhow::Result<Target> {
    let target = installed(address, log)?;
    standing::may_overwrite(&target, overwrite, log)?;
    Ok(target)
}

/// For a slot of which the old content was cleared away and no new one can be started yet.
pub(super) fn cleared(address: SlotAddress<'_>, log: &StepLog<'_>) -> anyhow::Result<Target> {
    let target = installed(address, log)?;
    let writing = standing::slot_state(&target, log)?.writing;
    let is_clear = writing && !has_boot_sector(&target, log)?;
    ensure!(is_clear, "slot {} was not cleared for a new content", address.slot);
    Ok(target)
}

/// For a slot with a boot sector.
pub(super) fn startable(address: SlotAddress<'_>, log: &StepLog<'_>) -> anyhow::Result<Target> {
    let target = installed(address, log)?;
    ensure!(
        has_boot_sector(&target, log)?,
        "slot {} cannot be started: its boot sector is blank",
        address.slot
    );
    Ok(target)
}

/// Whether something that needs so many bytes can be put into the slot.
pub(super) fn fits(what: &str, needed_bytes: u64, slot: &PlannedPartition) -> anyhow::Result<()> {
    let slot_bytes = slot.sectors * SECTOR_BYTES;
    ensure!(
        needed_bytes <= slot_bytes,
        "{what} needs {needed_bytes} bytes, slot {} has {slot_bytes}",
        slot.number
    );
    Ok(())
}

/// What is in a slot now.
pub(super) fn content(target: &Target, log: &StepLog<'_>) -> anyhow::Result<Contents> {
    window(&target.open(log)?, &target.slot)?.look()
}

/// A disk that is there, and where on it the slot is or will be.
struct Located {
    disk: Disk,
    path: PathBuf,
    plan: DiskPlan,
    slot: PlannedPartition,
}

fn locate(address: SlotAddress<'_>, log: &StepLog<'_>) -> anyhow::Result<Located> {
    let SlotAddress { disk: selector, layout, slot } = address;
    let (disk, path) = find(selector, log)?;
    let device = log.machine().open(&path)?;
    same_size(&disk, &device)?;
    let plan = layout::compute(layout, device.bytes(), device.sector_bytes())?;
    let slot = *plan
        .partition(slot)
        .filter(|partition| partition.role == Role::Slot)
        .with_context(|| format!("layout {} has no slot {slot}", layout.name))?;
    driver::require(BOOT_DRIVER)?;
    Ok(Located { disk, path, plan, slot })
}

/// The disk that is meant, and where it is.
pub(super) fn find(selector: &DiskSelector, log: &StepLog<'_>) -> anyhow::Result<(Disk, PathBuf)> {
    let machine = log.machine();
    let disks = (machine.disks)().context("looking at the disks")?;
    let disk = selector.select(&disks)?.clone();
    log.note(disk.to_string());
    // The name comes from sysfs; it is one component of a path there.
    let path = machine.dev.join(&disk.name);
    Ok((disk, path))
}

/// Fails if what was opened is another disk than the one that was found.
pub(super) fn same_size(disk: &Disk, device: &Device<'_>) -> anyhow::Result<()> {
    ensure!(
        device.bytes() == disk.bytes,
        "{} has {} bytes now, it had {} a moment ago",
        disk.name,
        device.bytes(),
        disk.bytes
    );
    Ok(())
}

/// Whether the menu would find something to start: in the slot or in front of it.
fn has_boot_sector(target: &Target, log: &StepLog<'_>) -> anyhow::Result<bool> {
    let device = target.open(log)?;
    for boot in SlotBoot::both(&target.slot).into_iter().flatten() {
        let mut sector = [0; SECTOR_BYTES as usize];
        device.whole().read_at(&mut sector, boot.pbr_lba() * SECTOR_BYTES)?;
        if !grub::is_blank(&sector) {
            return Ok(true);
        }
    }
    Ok(false)
}
