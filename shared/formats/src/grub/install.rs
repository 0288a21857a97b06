//! What has to be written where, for a whole disk and for one slot, as writes to show or apply.
//!
//! The order is the caller's duty and the reason for the pieces: while a slot is being written both its
//! boot sectors are blank, then comes its core, and its boot sector is the last write of all.

use super::boot_sector::{BootImageError, Place, SlotBoot, boot_sector};
use super::core_image::{CoreError, place_core, reprefix};
use super::recipe;
use crate::layout::{DiskPlan, PlannedPartition, SECTOR_BYTES};
use crate::mbr::{BOOT_CODE_BYTES, Write};
use crate::probe::Kind;

/// GRUB's own files, as made at build time.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// `boot.img`.
    pub boot_img: &'a [u8],
    /// Made by `grub-mkimage` after [`recipe::disk_core`].
    pub disk_core: &'a [u8],
    /// Made by `grub-mkimage` after [`recipe::slot_core`].
    pub slot_core: &'a [u8],
}

/// Why GRUB cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The first stage.
    #[error("GRUB's boot sector cannot be made")]
    BootImage(#[from] BootImageError),
    /// The second stage.
    #[error("GRUB's core image cannot be placed")]
    Core(#[from] CoreError),
    /// The partition is no slot.
    #[error("partition {number} has no gap in front of it for GRUB's core")]
    NoGap {
        /// Its number.
        number: u16,
    },
}

/// The disk's own GRUB: core into the gap behind the MBR, then the boot code of sector 0. Table and
/// signature are not touched. `mbr` is the present sector 0.
pub fn disk_writes(
    files: &Files<'_>,
    plan: &DiskPlan,
    mbr: &[u8; 512],
) -> Result<[Write; 2], InstallError> {
    let gap = plan.mbr_gap();
    let core = place_core(files.disk_core, gap.first_lba, gap.sectors)?;
    let sector = boot_sector(files.boot_img, Place::Disk(mbr), gap.first_lba)?;
    Ok([
        Write { byte_offset: gap.first_lba * SECTOR_BYTES, bytes: core },
        Write { byte_offset: 0, bytes: sector[..BOOT_CODE_BYTES].to_vec() },
    ])
}

/// Takes both possible boot sectors of a slot away, before anything else of it is written.
pub fn slot_blank_writes(slot: &PlannedPartition) -> Result<[Write; 2], InstallError> {
    let both = SlotBoot::both(slot).ok_or(InstallError::NoGap { number: slot.number })?;
    Ok(both.map(|boot| Write {
        byte_offset: boot.pbr_lba() * SECTOR_BYTES,
        bytes: vec![0; SECTOR_BYTES as usize],
    }))
}

/// The slot's own GRUB, into its gap. Without a boot sector it does nothing yet.
pub fn slot_core_write(files: &Files<'_>, slot: &PlannedPartition) -> Result<Write, InstallError> {
    let no_gap = InstallError::NoGap { number: slot.number };
    let (Some(lba), Some(room_sectors)) =
        (SlotBoot::core_lba(slot), SlotBoot::core_room_sectors(slot))
    else {
        return Err(no_gap);
    };
    let core = reprefix(files.slot_core, &recipe::slot_prefix(slot.number))?;
    let bytes = place_core(&core, lba, room_sectors)?;
    Ok(Write { byte_offset: lba * SECTOR_BYTES, bytes })
}

/// The sector that makes the slot start: to be written last. `content` is the file system in the slot,
/// `first_sector` its present first sector, which is not touched where the file system uses it.
pub fn slot_boot_write(
    files: &Files<'_>,
    slot: &PlannedPartition,
    first_sector: &[u8; 512],
    content: Kind,
) -> Result<Write, InstallError> {
    let no_gap = || InstallError::NoGap { number: slot.number };
    let core_lba = SlotBoot::core_lba(slot).ok_or_else(no_gap)?;
    let boot = SlotBoot::of(slot, content).ok_or_else(no_gap)?;
    let place = match boot {
        SlotBoot::Partition(_) => Place::Partition(first_sector),
        SlotBoot::Gap(_) => Place::Gap,
    };
    let sector = boot_sector(files.boot_img, place, core_lba)?;
    Ok(Write { byte_offset: boot.pbr_lba() * SECTOR_BYTES, bytes: sector.to_vec() })
}
