//! The first stage: one sector that loads the core image from a fixed place on the disk.

use crate::layout::PlannedPartition;
use crate::probe::Kind;

/// `boot.img` is one sector.
const SECTOR: usize = 512;
/// The BIOS parameter block, which belongs to whoever formatted the partition.
const BPB: std::ops::Range<usize> = 0x003..0x05a;
/// Absolute sector of the core image, u64.
const CORE_LBA: std::ops::Range<usize> = 0x05c..0x064;
/// A jump over the test for hard disks; two NOPs in its place let the test happen, as GRUB installs it.
const DRIVE_CHECK: std::ops::Range<usize> = 0x066..0x068;
/// Disk signature and partition table.
const TABLE: std::ops::Range<usize> = 0x1b8..0x1fe;
const SIGNATURE: std::ops::Range<usize> = 0x1fe..0x200;

/// Where a boot sector goes, with what must be kept of the sector that is there.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Sector 0 of the disk: BPB, disk signature and partition table stay.
    Disk(&'a [u8; 512]),
    /// The first sector of a partition: the BPB stays.
    Partition(&'a [u8; 512]),
    /// A free sector between EBR and partition: nothing is there.
    Gap,
}

/// Why bytes are not a `boot.img`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootImageError {
    /// Not one sector with 55AA.
    #[error("boot image has {bytes} bytes or no 55AA; 512 with 55AA were expected")]
    Shape {
        /// How many bytes there are.
        bytes: usize,
    },
    /// The fields to be patched are not where GRUB 2 has them.
    #[error("boot image is not one of GRUB 2")]
    NotGrub,
}

/// Makes the boot sector that loads the core image at `core_lba` (absolute, 512-byte sectors).
pub fn boot_sector(
    boot_img: &[u8],
    place: Place<'_>,
    core_lba: u64,
) -> Result<[u8; 512], BootImageError> {
    let shape = BootImageError::Shape { bytes: boot_img.len() };
    let mut sector: [u8; SECTOR] = boot_img.try_into().map_err(|_| shape)?;
    if sector[SIGNATURE] != [0x55, 0xaa] {
        return Err(BootImageError::Shape { bytes: SECTOR });
    }
    // The kernel address 0x8000, then a core at sector 1: what an unpatched file has.
    let unpatched_core = [1, 0, 0, 0, 0, 0, 0, 0];
    if sector[0x05a..0x05c] != [0x00, 0x80]
        || sector[CORE_LBA] != unpatched_core
        || sector[0x066] != 0xeb
    {
        return Err(BootImageError::NotGrub);
    }
    match place {
        Place::Disk(existing) => {
            sector[BPB].copy_from_slice(&existing[BPB]);
            sector[TABLE].copy_from_slice(&existing[TABLE]);
        }
        Place::Partition(existing) => sector[BPB].copy_from_slice(&existing[BPB]),
        Place::Gap => {}
    }
    sector[CORE_LBA].copy_from_slice(&core_lba.to_le_bytes());
    sector[DRIVE_CHECK].copy_from_slice(&[0x90, 0x90]);
    Ok(sector)
}

/// Whether a boot sector does not start anything: it has no 55AA, which is what GRUB's chainloader
/// and every BIOS look for.
pub fn is_blank(sector: &[u8; 512]) -> bool {
    sector[SIGNATURE] != [0x55, 0xaa]
}

/// The same sector with its boot code and its 55AA removed, its BPB and table kept: what stands in a
/// slot whose content is not complete. Only for file systems that leave the sector's code area to
/// boot code ([`SlotBoot::Partition`]).
pub fn blank_boot_code(sector: &[u8; 512]) -> [u8; 512] {
    let mut blank = [0; SECTOR];
    blank[BPB].copy_from_slice(&sector[BPB]);
    blank[TABLE].copy_from_slice(&sector[TABLE]);
    blank
}

/// A sector that was made by [`blank_boot_code`] with all of `image`'s back, but for its BPB: that is what
/// the volume has become.
pub fn with_boot_code(sector: &[u8; 512], image: &[u8; 512]) -> [u8; 512] {
    let mut whole = *image;
    whole[BPB].copy_from_slice(&sector[BPB]);
    whole
}

/// Which sector starts a slot. The slot's core is at [`SlotBoot::core_lba`] in both cases; the disk's
/// menu tries the partition first and the gap next, so the unused one of the two has to be blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotBoot {
    /// The first sector of the slot, at this LBA: ext2/3/4, btrfs, FAT and NTFS leave it to boot code.
    Partition(u64),
    /// A sector in front of the slot, at this LBA: XFS (and swap-like content) begins in its sector 0.
    Gap(u64),
}

impl SlotBoot {
    /// The choice for a slot with this file system. None for a partition without EBR, which has no
    /// gap.
    pub fn of(slot: &PlannedPartition, content: Kind) -> Option<Self> {
        let [partition, gap] = Self::both(slot)?;
        Some(if content.leaves_sector_0_free() { partition } else { gap })
    }

    /// Both, in the order in which the menu tries them. None for a partition without EBR.
    pub fn both(slot: &PlannedPartition) -> Option<[Self; 2]> {
        let gap_lba = slot.gap()?.first_lba;
        Some([Self::Partition(slot.start_lba), Self::Gap(gap_lba)])
    }

    /// The boot sector's LBA.
    pub fn pbr_lba(&self) -> u64 {
        match self {
            SlotBoot::Partition(lba) | SlotBoot::Gap(lba) => *lba,
        }
    }

    /// Where the core of a slot starts: the second sector of its gap, the first being kept for a boot
    /// sector. None for a partition without EBR.
    pub fn core_lba(slot: &PlannedPartition) -> Option<u64> {
        Some(slot.gap()?.first_lba + 1)
    }

    /// How many sectors a core may take there.
    pub fn core_room_sectors(slot: &PlannedPartition) -> Option<u64> {
        Some(slot.gap()?.sectors - 1)
    }
}
