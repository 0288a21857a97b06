//! Step `check-disk`: finds the disk by its identity, looks at what is on it and refuses what the task
//! may not overwrite. Nothing is written, but that a damaged boot partition of ours is repaired.

use super::{
    StepLog, driver,
    plan::{BootState, Image, TableState, Target, announce, window},
    swap,
};
use crate::disk::{Access, BOOT_DRIVER, BOOT_LABEL, BootPartition, Device, SlotRecord, Window};
use anyhow::{Context, bail, ensure};
use metalcast_formats::{
    grub,
    layout::{self, DiskPlan, PlannedPartition, Role, SECTOR_BYTES},
    mbr,
    probe::{Contents, Found, Kind, WINDOW_BYTES},
};
use metalcast_shared::{
    disk::{Disk, DiskSelector},
    layout::Layout,
    to_agent::{Overwrite, SelectSlot},
};
use std::path::PathBuf;

/// For a deploy.
pub(super) fn deploy(image: &Image<'_>, log: &StepLog<'_>) -> anyhow::Result<Target> {
    let deploy = image.deploy;
    let Place { disk, path, plan, slot } = place(&deploy.disk, &deploy.layout, deploy.slot, log)?;
    for name in [BOOT_DRIVER, image.family.driver()] {
        driver::require(name)?;
    }
    let slot_bytes = slot.sectors * SECTOR_BYTES;
    let needed = image.partition().device_bytes;
    ensure!(
        needed <= slot_bytes,
        "{} of {} needs {needed} bytes, slot {} has {slot_bytes}",
        deploy.partition,
        deploy.image,
        slot.number
    );
    let selector = deploy.disk.clone();
    let device = log.machine().open(&path)?;
    let Some(signature) = planned_table(&device, &plan)? else {
        may_partition(&disk, &device, &plan, deploy.overwrite)?;
        let (table, boot) = (TableState::ToBeWritten, BootState::ToBeFormatted);
        return Ok(Target { disk: path, selector, plan, slot, table, boot, make_swap: true });
    };
    announce(&device, &plan)?;
    let boot = boot_state(&device, &plan, deploy.overwrite)?;
    let make_swap = wants_swap(&device, &plan, deploy.overwrite, log)?;
    let found = window(&device, &slot)?.look()?;
    drop(device);
    let table = TableState::AsPlanned(signature);
    let mut target = Target { disk: path, selector, plan, slot, table, boot, make_swap };
    check_boot(&mut target, deploy.overwrite, log)?;
    may_overwrite(&target, &found, deploy.overwrite, log)?;
    log.note(format!("the disk has layout {}", deploy.layout.name));
    Ok(target)
}

/// For starting another slot.
pub(super) fn select(select: &SelectSlot, log: &StepLog<'_>) -> anyhow::Result<Target> {
    let Place { path, plan, slot, .. } = place(&select.disk, &select.layout, select.slot, log)?;
    driver::require(BOOT_DRIVER)?;
    let device = log.machine().open(&path)?;
    let Some(signature) = planned_table(&device, &plan)? else {
        bail!(
            "the disk does not have layout {}: {}",
            select.layout.name,
            table_text(&device, &plan)
        );
    };
    announce(&device, &plan)?;
    let boot = boot_state(&device, &plan, Overwrite::BlankOnly)?;
    ensure!(boot == BootState::Ours, "the disk has no boot partition of Metalcast");
    ensure!(
        has_boot_sector(&device, &slot)?,
        "slot {} cannot be started: its boot sector is blank",
        slot.number
    );
    drop(device);
    let table = TableState::AsPlanned(signature);
    let selector = select.disk.clone();
    let target = Target { disk: path, selector, plan, slot, table, boot, make_swap: false };
    let state = slot_state(&target, log)?;
    ensure!(!state.writing, "slot {} cannot be started: it is not complete", slot.number);
    Ok(target)
}

/// A disk and a slot of it.
struct Place {
    disk: Disk,
    path: PathBuf,
    plan: DiskPlan,
    slot: PlannedPartition,
}

fn place(
    selector: &DiskSelector,
    layout: &Layout,
    slot: u16,
    log: &StepLog<'_>,
) -> anyhow::Result<Place> {
    let machine = log.machine();
    let disks = (machine.disks)().context("looking at the disks")?;
    let disk = selector.select(&disks)?.clone();
    log.note(disk.to_string());
    // The name comes from sysfs; it is one component of a path there.
    let path = machine.dev.join(&disk.name);
    let device = machine.open(&path)?;
    ensure!(
        device.bytes() == disk.bytes,
        "{} has {} bytes now, it had {} a moment ago",
        disk.name,
        device.bytes(),
        disk.bytes
    );
    let plan = layout::compute(layout, device.bytes(), device.sector_bytes())?;
    let slot = *plan
        .partition(slot)
        .filter(|partition| partition.role == Role::Slot)
        .with_context(|| format!("layout {} has no slot {slot}", layout.name))?;
    Ok(Place { disk, path, plan, slot })
}

/// The disk signature, if the disk's table is the planned one.
fn planned_table(device: &Device<'_>, plan: &DiskPlan) -> anyhow::Result<Option<u32>> {
    match mbr::read(&mut device.file(), device.bytes() / SECTOR_BYTES) {
        Ok(table) if plan.matches(&table) => Ok(Some(table.signature)),
        Err(mbr::ReadError::Io { lba, source }) => Err(source)
            .with_context(|| format!("reading sector {lba} of {}", device.path().display())),
        Ok(_) | Err(_) => Ok(None),
    }
}

fn table_text(device: &Device<'_>, plan: &DiskPlan) -> String {
    match mbr::read(&mut device.file(), device.bytes() / SECTOR_BYTES) {
        Ok(table) => {
            let differences = plan.differences(&table);
            let first: Vec<String> = differences.iter().take(3).map(ToString::to_string).collect();
            format!("{} ({} differences)", first.join("; "), differences.len())
        }
        Err(error) => error.to_string(),
    }
}

fn may_partition(
    disk: &Disk,
    device: &Device<'_>,
    plan: &DiskPlan,
    overwrite: Overwrite,
) -> anyhow::Result<()> {
    if overwrite == Overwrite::WholeDisk {
        return Ok(());
    }
    let found = device.whole().look()?;
    let is_free = match &found {
        Contents::Blank => true,
        Contents::Unknown => has_only_an_empty_table(device)?,
        Contents::Known(_) => false,
    };
    if is_free {
        return Ok(());
    }
    bail!(
        "{} is not blank and does not have the layout ({}); it holds: {found}; nothing was written, \
         and nothing will be without leave to overwrite anything",
        disk.name,
        table_text(device, plan)
    );
}

/// Whether all that is on the disk is what sfdisk leaves where it makes a table without partitions:
/// the table's signature and 55AA.
fn has_only_an_empty_table(device: &Device<'_>) -> anyhow::Result<bool> {
    let bytes = WINDOW_BYTES.min(device.bytes());
    let mut head = vec![0; bytes as usize];
    let mut tail = head.clone();
    device.whole().read_at(&mut head, 0)?;
    device.whole().read_at(&mut tail, device.bytes() - bytes)?;
    let Some(sector) = head.first_chunk_mut::<{ SECTOR_BYTES as usize }>() else {
        return Ok(false);
    };
    let has_table = sector[0x1fe..] == [0x55, 0xaa];
    sector[0x1b8..0x1bc].fill(0);
    sector[0x1fe..].fill(0);
    Ok(has_table && head.iter().chain(&tail).all(|byte| *byte == 0))
}

fn boot_state(
    device: &Device<'_>,
    plan: &DiskPlan,
    overwrite: Overwrite,
) -> anyhow::Result<BootState> {
    let found = window(device, plan.boot())?.look()?;
    let is_ours = |found: &Found| found.label.as_deref() == Some(BOOT_LABEL);
    if found.find(Kind::Ext4).is_some_and(is_ours) {
        return Ok(BootState::Ours);
    }
    match found {
        Contents::Blank => Ok(BootState::ToBeFormatted),
        _ if overwrite == Overwrite::WholeDisk => Ok(BootState::ToBeFormatted),
        _ => bail!(
            "partition {} is to be the boot partition, but holds {found}; nothing will be written \
             without leave to overwrite anything",
            plan.boot().number
        ),
    }
}

/// Mounts it, so that a damaged one is known before anything is written.
fn check_boot(target: &mut Target, overwrite: Overwrite, log: &StepLog<'_>) -> anyhow::Result<()> {
    if target.boot == BootState::ToBeFormatted {
        return Ok(());
    }
    match target.open_boot(Access::Read, log).and_then(BootPartition::close) {
        Err(error) if overwrite == Overwrite::WholeDisk => {
            log.note(format!("the boot partition will be formatted anew: {error:#}"));
            target.boot = BootState::ToBeFormatted;
            Ok(())
        }
        other => other,
    }
}

fn wants_swap(
    device: &Device<'_>,
    plan: &DiskPlan,
    overwrite: Overwrite,
    log: &StepLog<'_>,
) -> anyhow::Result<bool> {
    let Some(partition) = swap::of(plan) else { return Ok(false) };
    let found = window(device, partition)?.look()?;
    match &found {
        found if swap::is_swap(found) => Ok(false),
        Contents::Blank => Ok(true),
        _ if overwrite == Overwrite::WholeDisk => Ok(true),
        _ => {
            let number = partition.number;
            log.note(format!("swap partition {number} holds {found} and is left alone"));
            Ok(false)
        }
    }
}

/// What the boot partition says of the slot.
struct SlotState {
    writing: bool,
    record: Option<SlotRecord>,
}

fn slot_state(target: &Target, log: &StepLog<'_>) -> anyhow::Result<SlotState> {
    if target.boot == BootState::ToBeFormatted {
        return Ok(SlotState { writing: false, record: None });
    }
    let boot = target.open_boot(Access::Read, log)?;
    let number = target.slot.number;
    let state = SlotState { writing: boot.is_writing(number)?, record: boot.record(number)? };
    boot.close()?;
    Ok(state)
}

fn may_overwrite(
    target: &Target,
    found: &Contents,
    overwrite: Overwrite,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let number = target.slot.number;
    if *found == Contents::Blank || overwrite >= Overwrite::AnySlot {
        return Ok(());
    }
    match (slot_state(target, log)?, overwrite) {
        (SlotState { writing: true, .. }, _) => {
            log.note(format!("slot {number} holds a deployment that was not completed"));
            Ok(())
        }
        (SlotState { record: Some(record), .. }, Overwrite::OwnSlot) => {
            log.note(format!("slot {number} holds {} until now", record.image));
            Ok(())
        }
        (SlotState { record: Some(record), .. }, _) => {
            bail!("slot {number} holds {}, which this task may not overwrite", record.image)
        }
        (SlotState { record: None, .. }, _) => bail!(
            "slot {number} holds {found}, which Metalcast did not put there; nothing will be \
             written without leave to overwrite anything"
        ),
    }
}

/// Whether the menu would find something to start: in the slot or in front of it.
fn has_boot_sector(device: &Device<'_>, slot: &PlannedPartition) -> anyhow::Result<bool> {
    let sector = |window: Window<'_>| -> anyhow::Result<bool> {
        let mut sector = [0; SECTOR_BYTES as usize];
        window.read_at(&mut sector, 0)?;
        Ok(!grub::is_blank(&sector))
    };
    let in_gap = match slot.gap() {
        Some(gap) => sector(device.window(gap.first_lba * SECTOR_BYTES, SECTOR_BYTES)?)?,
        None => false,
    };
    Ok(in_gap || sector(window(device, slot)?)?)
}
