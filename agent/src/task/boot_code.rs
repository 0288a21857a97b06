//! Step `boot-code`: the disk's loader and menu, the slot's core, and last of all the slot's boot
//! sector: with it the slot can be started, so everything else is on the disk by then.

use super::{
    StepLog,
    plan::{Image, Target},
};
use crate::disk::{Access, Device, Window};
use anyhow::{Context, ensure};
use metalcast_formats::{
    grub::{self, Menu, MenuSlot, Place, SlotBoot, recipe},
    layout::{Gap, SECTOR_BYTES},
};
use std::path::Path;

/// How long the menu waits for a key, in seconds.
const MENU_TIMEOUT_S: u32 = 3;

/// How long a message of the menu stays, in seconds: long enough to be read.
const RESTART_AFTER_S: u32 = 20;

/// Largest loader file that is read: a core must fit into the MiB before a partition.
const MAX_FILE_BYTES: u64 = 1 << 20;

pub(super) fn run(image: &Image<'_>, target: &Target, log: &StepLog<'_>) -> anyhow::Result<()> {
    let dir = &log.machine().grub;
    let boot_img = read(dir, "boot.img")?;
    let disk_core = read(dir, "mbr-core.img")?;
    let slot_core = read(dir, "slot-core.img")?;

    write_menu(target, log)?;
    let device = target.open(log)?;
    write_disk_loader(target, &device, &boot_img, &disk_core, log)?;

    let slot = &target.slot;
    let core_lba = SlotBoot::core_lba(slot).context("the slot has no room for a loader")?;
    let room = SlotBoot::core_room_sectors(slot).context("the slot has no room for a loader")?;
    let core = grub::reprefix(&slot_core, &recipe::slot_prefix(slot.number))?;
    let core = grub::place_core(&core, core_lba, room)?;
    let gap = Gap { first_lba: core_lba, sectors: room };
    put(&gap_window(&device, gap)?, &core)?;
    device.flush()?;
    log.note(format!("slot loader of {} bytes in front of slot {}", core.len(), slot.number));

    let boot = SlotBoot::of(slot, image.family.uses_sector_0())
        .context("the slot has no room for a loader")?;
    let place = device.window(boot.pbr_lba() * SECTOR_BYTES, SECTOR_BYTES)?;
    let mut there = [0; SECTOR_BYTES as usize];
    place.read_at(&mut there, 0)?;
    let sector = match boot {
        SlotBoot::Partition(_) => grub::boot_sector(&boot_img, Place::Partition(&there), core_lba)?,
        SlotBoot::Gap(_) => grub::boot_sector(&boot_img, Place::Gap, core_lba)?,
    };
    place.write_at(&sector, 0)?;
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

fn write_disk_loader(
    target: &Target,
    device: &Device<'_>,
    boot_img: &[u8],
    core: &[u8],
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let gap = target.plan.mbr_gap();
    let core = grub::place_core(core, gap.first_lba, gap.sectors)?;
    let gap_changed = put(&gap_window(device, gap)?, &core)?;
    device.flush()?;
    let place = device.window(0, SECTOR_BYTES)?;
    let mut there = [0; SECTOR_BYTES as usize];
    place.read_at(&mut there, 0)?;
    let sector = grub::boot_sector(boot_img, Place::Disk(&there), gap.first_lba)?;
    ensure!(sector[0x1b8..0x1fe] == there[0x1b8..0x1fe], "the loader would change the table");
    if sector != there {
        place.write_at(&sector, 0)?;
        device.flush()?;
    }
    if gap_changed || sector != there {
        log.note(format!("the disk's loader of {} bytes was written", core.len()));
    }
    Ok(())
}

fn gap_window<'d>(device: &'d Device<'_>, gap: Gap) -> anyhow::Result<Window<'d>> {
    device.window(gap.first_lba * SECTOR_BYTES, gap.sectors * SECTOR_BYTES)
}

/// Writes at the start of a window unless it is there already.
fn put(window: &Window<'_>, bytes: &[u8]) -> anyhow::Result<bool> {
    let mut there = vec![0; bytes.len()];
    window.read_at(&mut there, 0)?;
    let changed = there != bytes;
    if changed {
        window.write_at(bytes, 0)?;
    }
    Ok(changed)
}
