//! Step `boot-code`: the disk's loader and menu, the slot's core, and last of all the slot's boot
//! sector: with it the slot can be started, so everything else is on the disk by then.

use super::{
    StepLog,
    plan::{Family, Target},
};
use crate::disk::{Access, Device};
use anyhow::{Context, ensure};
use metalcast_formats::{
    grub::{self, Files, Menu, MenuSlot},
    layout::SECTOR_BYTES,
    mbr::{BOOT_CODE_BYTES, Write},
};
use std::path::Path;

/// How long the menu waits for a key, in seconds.
const MENU_TIMEOUT_S: u32 = 3;

/// How long a message of the menu stays, in seconds: long enough to be read.
const RESTART_AFTER_S: u32 = 20;

/// Largest loader file that is read: a core must fit into the MiB before a partition.
const MAX_FILE_BYTES: u64 = 1 << 20;

pub(super) fn run(family: Family, target: &Target, log: &StepLog<'_>) -> anyhow::Result<()> {
    let dir = &log.machine().grub;
    let boot_img = read(dir, "boot.img")?;
    let disk_core = read(dir, "mbr-core.img")?;
    let slot_core = read(dir, "slot-core.img")?;
    let files = Files { boot_img: &boot_img, disk_core: &disk_core, slot_core: &slot_core };

    write_menu(target, log)?;
    let device = target.open(log)?;
    write_disk_loader(&files, target, &device, log)?;

    let slot = &target.slot;
    let core = grub::slot_core_write(&files, slot)?;
    put(&device, &core)?;
    device.flush()?;
    log.note(format!("slot loader of {} bytes in front of slot {}", core.bytes.len(), slot.number));

    let first_sector = sector(&device, slot.start_lba)?;
    let boot = grub::slot_boot_write(&files, slot, &first_sector, family.kind())?;
    device.whole().write_at(&boot.bytes, boot.byte_offset)?;
    device.flush()?;
    log.note(format!("slot {} can be started", slot.number));
    Ok(())
}

fn read(dir: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    let path = dir.join(name);
    let load = || -> std::io::Result<Vec<u8>> {
        if path.metadata()?.len() > MAX_FILE_BYTES {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        std::fs::read(&path)
    };
    load().with_context(|| format!("reading {}", path.display()))
}

/// The menu names what is in each slot.
fn write_menu(target: &Target, log: &StepLog<'_>) -> anyhow::Result<()> {
    let boot = target.open_boot(Access::Write, log)?;
    let mut slots = Vec::new();
    for slot in target.plan.slots() {
        let title = boot.record(slot.number)?.map_or("empty".to_owned(), |record| record.image);
        let gap_lba = slot.gap().context("the slot has no gap")?.first_lba;
        slots.push(MenuSlot { number: slot.number, title, gap_lba });
    }
    let menu = Menu { slots, timeout_s: MENU_TIMEOUT_S, restart_after_s: RESTART_AFTER_S };
    let changed = boot.set_menu(&grub::grub_cfg(&menu))?;
    boot.close()?;
    if changed {
        log.note("the disk's menu was written");
    }
    Ok(())
}

/// The core first: boot code that loads it comes when it is on the disk.
fn write_disk_loader(
    files: &Files<'_>,
    target: &Target,
    device: &Device<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let [core, boot_code] = grub::disk_writes(files, &target.plan, &sector(device, 0)?)?;
    ensure!(
        boot_code.byte_offset + boot_code.bytes.len() as u64 <= BOOT_CODE_BYTES as u64,
        "the disk's loader would change its partition table; nothing of it was written"
    );
    let core_changed = put(device, &core)?;
    device.flush()?;
    let code_changed = put(device, &boot_code)?;
    if code_changed {
        device.flush()?;
    }
    if core_changed || code_changed {
        log.note(format!("the disk's loader of {} bytes was written", core.bytes.len()));
    }
    Ok(())
}

fn sector(device: &Device<'_>, lba: u64) -> anyhow::Result<[u8; SECTOR_BYTES as usize]> {
    let mut sector = [0; SECTOR_BYTES as usize];
    device.whole().read_at(&mut sector, lba * SECTOR_BYTES)?;
    Ok(sector)
}

/// Writes unless it is there already; says whether it did.
fn put(device: &Device<'_>, write: &Write) -> anyhow::Result<bool> {
    let mut there = vec![0; write.bytes.len()];
    device.whole().read_at(&mut there, write.byte_offset)?;
    let changed = there != write.bytes;
    if changed {
        device.whole().write_at(&write.bytes, write.byte_offset)?;
    }
    Ok(changed)
}
