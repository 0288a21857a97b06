//! How table, boot partition, swap and slot of a disk stand, and what may be done to them.

use super::{Located, content};
use crate::{
    disk::{Access, BOOT_LABEL, BootPartition, Device, SlotRecord},
    task::{
        StepLog,
        plan::{BootState, NamedDisk, SlotAddress, TableState, Target, announce_plan, window},
        swap,
    },
};
use anyhow::{Context, bail};
use metalcast_formats::{
    layout::{DiskPlan, SECTOR_BYTES},
    mbr,
    probe::{Contents, Found, Kind, WINDOW_BYTES},
};
use metalcast_shared::{disk::Disk, to_agent::Overwrite};

/// Looks at all but the slots.
pub(super) fn of(
    located: Located,
    address: SlotAddress<'_>,
    overwrite: Overwrite,
    log: &StepLog<'_>,
) -> anyhow::Result<Target> {
    let mut target = table(located, address, overwrite, log)?;
    if let TableState::AsPlanned(_) = target.table {
        let device = target.open(log)?;
        announce_plan(&device, &target.plan)?;
        target.boot = boot_state(&device, &target.plan, overwrite)?;
        target.make_swap = wants_swap(&device, &target.plan, overwrite, log)?;
        drop(device);
        check_boot(&mut target, overwrite, log)?;
    }
    Ok(target)
}

/// Looks at the table alone, as if there were nothing in its partitions.
pub(super) fn table(
    located: Located,
    address: SlotAddress<'_>,
    overwrite: Overwrite,
    log: &StepLog<'_>,
) -> anyhow::Result<Target> {
    let Located { disk, path, plan, slot } = located;
    let device = log.machine().open(&path)?;
    let table = match planned_table(&device, &plan)? {
        Some(signature) => TableState::AsPlanned(signature),
        None => {
            may_partition(&disk, &device, &plan, overwrite)?;
            TableState::ToBeWritten
        }
    };
    let disk = NamedDisk { path, selector: address.disk.clone() };
    Ok(Target { disk, plan, slot, table, boot: BootState::ToBeFormatted, make_swap: true })
}

/// The disk signature, if the disk's table is the planned one.
pub(super) fn planned_table(device: &Device<'_>, plan: &DiskPlan) -> anyhow::Result<Option<u32>> {
    match mbr::read(&mut device.file(), device.bytes() / SECTOR_BYTES) {
        Ok(table) if plan.matches(&table) => Ok(Some(table.signature)),
        Err(mbr::ReadError::Io { lba, source }) => Err(source)
            .with_context(|| format!("reading sector {lba} of {}", device.path().display())),
        Ok(_) | Err(_) => Ok(None),
    }
}

/// How the disk's table is not the planned one.
pub(super) fn table_text(device: &Device<'_>, plan: &DiskPlan) -> String {
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
        "{} is not blank and does not have the layout ({}); it holds: {found}; nothing was \
         written, and nothing will be without leave to overwrite anything",
        disk.name,
        table_text(device, plan)
    );
}

/// Whether all that is on the disk is what sfdisk leaves where it makes a table without partitions:
/// the table's signature and 55AA.
pub(in crate::task) fn has_only_an_empty_table(device: &Device<'_>) -> anyhow::Result<bool> {
    let bytes = WINDOW_BYTES.min(device.bytes());
    let mut head = vec![0; bytes as usize];
    let mut tail = head.clone();
    device.whole().read_at(&mut head, 0)?;
    device.whole().read_at(&mut tail, device.bytes() - bytes)?;
    let Some(sector) = head.first_chunk_mut::<{ SECTOR_BYTES as usize }>() else {
        return Ok(false);
    };
    let has_table = sector[0x1fe..] == [0x55, 0xaa];
    sector[mbr::BOOT_CODE_BYTES..][..size_of::<u32>()].fill(0);
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
pub(super) struct SlotState {
    pub(super) writing: bool,
    pub(super) record: Option<SlotRecord>,
}

pub(super) fn slot_state(target: &Target, log: &StepLog<'_>) -> anyhow::Result<SlotState> {
    if target.boot == BootState::ToBeFormatted {
        return Ok(SlotState { writing: false, record: None });
    }
    let boot = target.open_boot(Access::Read, log)?;
    let number = target.slot.number;
    let state = SlotState { writing: boot.is_writing(number)?, record: boot.record(number)? };
    boot.close()?;
    Ok(state)
}

/// Whether the slot's content may be given up.
pub(super) fn may_overwrite(
    target: &Target,
    overwrite: Overwrite,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let number = target.slot.number;
    let found = content(target, log)?;
    if found == Contents::Blank || overwrite >= Overwrite::AnySlot {
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
