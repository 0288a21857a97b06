//! A declared layout turned into sectors: what is where on a disk of a given size.
//!
//! The scheme is CentMesh's: boot partition 1, swap 2, reserve 3, extended 4, slots as logicals 5...
//! Everything starts at a whole MiB. Each slot's EBR has a MiB of its own, so there are 2047 free
//! sectors between it and the slot: room for the slot's GRUB, which so survives whatever is written
//! into the slot. Partitions that are left out (size 0) keep their number free: slots are named by
//! number, and 5 is the first in every variant.
//!
//! ```text
//! MBR | gap | 1 boot | 2 swap | 3 reserve | 4 extended [ EBR | gap | 5 slot ][ EBR | gap | 6 slot ] ...
//! ```

use crate::mbr::{self, PartitionEntry, Table, Write};
use metalcast_shared::layout::Layout;
use std::fmt;

#[cfg(test)]
mod tests;

/// The sector size of an MBR disk, in bytes.
pub const SECTOR_BYTES: u64 = 512;
/// Sectors in a MiB: the alignment of everything.
pub const SECTORS_PER_MIB: u64 = 2048;
/// Free sectors between an EBR (or the MBR) and what follows it.
pub const GAP_SECTORS: u64 = SECTORS_PER_MIB - 1;

/// What a partition of the layout is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The disk's GRUB menu and its grubenv.
    Boot,
    /// Swap, shared by all slots.
    Swap,
    /// The site's own.
    Reserve,
    /// The frame of all slots.
    Extended,
    /// One bootable system.
    Slot,
}

/// One partition of a plan, in sectors of 512 bytes from the disk's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedPartition {
    /// Its number, as in `/dev/sda5`.
    pub number: u16,
    /// What it is for.
    pub role: Role,
    /// First sector.
    pub start_lba: u64,
    /// Length in sectors.
    pub sectors: u64,
    /// Sector of the EBR of a slot.
    pub ebr_lba: Option<u64>,
}

/// Free sectors that hold boot code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First free sector.
    pub first_lba: u64,
    /// How many there are.
    pub sectors: u64,
}

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// All partitions in order of number.
    pub partitions: Vec<PlannedPartition>,
}

/// Why a layout cannot be put on a disk.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Too big for the disk.
    #[error("layout {layout} needs {needed_bytes} bytes, the disk has {had_bytes}")]
    DoesNotFit {
        /// The layout's name.
        layout: String,
        /// Bytes from the start of the disk to the end of the last slot.
        needed_bytes: u64,
        /// Size of the disk in bytes.
        had_bytes: u64,
    },
    /// MBR, BIOS and the boot code here count sectors of 512 bytes.
    #[error(
        "the disk has logical sectors of {sector_bytes} bytes; BIOS boot from an MBR needs 512"
    )]
    SectorSize {
        /// What the disk has.
        sector_bytes: u32,
    },
    /// 32 bits of sectors end at 2 TiB.
    #[error("layout {layout} ends at byte {needed_bytes}, an MBR reaches to 2199023255040")]
    BeyondMbr {
        /// The layout's name.
        layout: String,
        /// Where it ends.
        needed_bytes: u64,
    },
    /// Nowhere to put the menu.
    #[error("layout {layout} has no boot partition")]
    NoBoot {
        /// The layout's name.
        layout: String,
    },
    /// None, of size 0, or more than an MBR chain is followed for.
    #[error(
        "layout {layout} has {slots} slots of {slot_mib} MiB; 1 to 128 of at least 1 MiB are possible"
    )]
    Slots {
        /// The layout's name.
        layout: String,
        /// How many it asks for.
        slots: u16,
        /// How large each is.
        slot_mib: u32,
    },
}

/// One way in which a disk's table is not the planned one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A partition of the plan is not on the disk.
    Missing(PlannedPartition),
    /// A partition of the disk is not in the plan.
    Unplanned(PartitionEntry),
    /// Same number, other place, size or kind.
    Differs {
        /// As planned.
        planned: PlannedPartition,
        /// As found.
        found: PartitionEntry,
    },
}

/// Places a layout on a disk of `disk_bytes` bytes with logical sectors of `sector_bytes` bytes.
pub fn compute(
    layout: &Layout,
    disk_bytes: u64,
    sector_bytes: u32,
) -> Result<DiskPlan, LayoutError> {
    if u64::from(sector_bytes) != SECTOR_BYTES {
        return Err(LayoutError::SectorSize { sector_bytes });
    }
    if layout.boot_mib == 0 {
        return Err(LayoutError::NoBoot { layout: layout.name.clone() });
    }
    let (slots, slot_mib) = (layout.slots, layout.slot_mib);
    if slots == 0 || slot_mib == 0 || usize::from(slots) > mbr::MAX_LOGICALS {
        return Err(LayoutError::Slots { layout: layout.name.clone(), slots, slot_mib });
    }
    let partitions = place(layout);
    let end_lba = partitions.iter().map(PlannedPartition::end_lba).max().unwrap_or(0);
    let needed_bytes = end_lba * SECTOR_BYTES;
    if end_lba > u64::from(u32::MAX) {
        return Err(LayoutError::BeyondMbr { layout: layout.name.clone(), needed_bytes });
    }
    if needed_bytes > disk_bytes {
        let layout = layout.name.clone();
        return Err(LayoutError::DoesNotFit { layout, needed_bytes, had_bytes: disk_bytes });
    }
    Ok(DiskPlan { partitions })
}

fn place(layout: &Layout) -> Vec<PlannedPartition> {
    let mut partitions = Vec::with_capacity(usize::from(layout.slots) + 4);
    let mut next_lba = SECTORS_PER_MIB;
    let primaries = [
        (1, Role::Boot, layout.boot_mib),
        (2, Role::Swap, layout.swap_mib),
        (3, Role::Reserve, layout.reserve_mib),
    ];
    for (number, role, mib) in primaries.into_iter().filter(|&(_, _, mib)| mib != 0) {
        let sectors = u64::from(mib) * SECTORS_PER_MIB;
        let start_lba = next_lba;
        partitions.push(PlannedPartition { number, role, start_lba, sectors, ebr_lba: None });
        next_lba += sectors;
    }
    let slot_sectors = u64::from(layout.slot_mib) * SECTORS_PER_MIB;
    partitions.push(PlannedPartition {
        number: 4,
        role: Role::Extended,
        start_lba: next_lba,
        sectors: u64::from(layout.slots) * (SECTORS_PER_MIB + slot_sectors),
        ebr_lba: None,
    });
    for index in 0..layout.slots {
        partitions.push(PlannedPartition {
            number: Layout::FIRST_SLOT + index,
            role: Role::Slot,
            start_lba: next_lba + SECTORS_PER_MIB,
            sectors: slot_sectors,
            ebr_lba: Some(next_lba),
        });
        next_lba += SECTORS_PER_MIB + slot_sectors;
    }
    partitions
}

impl PlannedPartition {
    /// The first sector behind it.
    pub fn end_lba(&self) -> u64 {
        self.start_lba + self.sectors
    }

    /// The free sectors between a slot's EBR and the slot.
    pub fn gap(&self) -> Option<Gap> {
        self.ebr_lba.map(|ebr| Gap { first_lba: ebr + 1, sectors: GAP_SECTORS })
    }

    /// The type byte in the table. The extended partition is 0x0f, not 0x05: 0x05 stands for one that
    /// is addressed by cylinders, which end at 8 GB, and Windows and old BIOSes believe it.
    pub fn kind(&self) -> u8 {
        match self.role {
            Role::Boot | Role::Reserve | Role::Slot => mbr::KIND_LINUX,
            Role::Swap => mbr::KIND_SWAP,
            Role::Extended => mbr::KIND_EXTENDED_LBA,
        }
    }

    fn entry(&self) -> PartitionEntry {
        PartitionEntry {
            number: self.number,
            kind: self.kind(),
            start_lba: self.start_lba,
            sectors: self.sectors,
            bootable: self.role == Role::Boot,
            ebr_lba: self.ebr_lba,
        }
    }

    fn is_same(&self, found: &PartitionEntry) -> bool {
        let kind_fits = match self.role {
            Role::Extended => found.is_extended(),
            Role::Boot | Role::Swap | Role::Reserve | Role::Slot => !found.is_extended(),
        };
        kind_fits
            && self.start_lba == found.start_lba
            && self.sectors == found.sectors
            && self.ebr_lba == found.ebr_lba
    }
}

impl DiskPlan {
    /// The partition of this number.
    pub fn partition(&self, number: u16) -> Option<&PlannedPartition> {
        self.partitions.iter().find(|partition| partition.number == number)
    }

    /// The boot partition: every plan has one.
    pub fn boot(&self) -> &PlannedPartition {
        &self.partitions[0]
    }

    /// The slots, in order of number.
    pub fn slots(&self) -> impl Iterator<Item = &PlannedPartition> {
        self.partitions.iter().filter(|partition| partition.role == Role::Slot)
    }

    /// The free sectors behind the MBR.
    pub fn mbr_gap(&self) -> Gap {
        Gap { first_lba: 1, sectors: GAP_SECTORS }
    }

    /// The table this plan stands for.
    pub fn table(&self, signature: u32) -> Table {
        let entries = self.partitions.iter().map(PlannedPartition::entry).collect();
        Table { signature, entries }
    }

    /// What has to be written to partition a disk so; boot code stays as it is.
    pub fn writes(&self, signature: u32) -> Result<Vec<Write>, mbr::WriteError> {
        self.table(signature).writes()
    }

    /// How a disk's table differs from this plan; nothing means that the disk can be kept. Place and
    /// size count. Type bytes do not (a Windows slot is 0x07), nor does the boot flag.
    pub fn differences(&self, found: &Table) -> Vec<Difference> {
        let mut differences: Vec<Difference> = Vec::new();
        for planned in &self.partitions {
            match found.partition(planned.number) {
                None => differences.push(Difference::Missing(*planned)),
                Some(entry) if planned.is_same(entry) => {}
                Some(&found) => differences.push(Difference::Differs { planned: *planned, found }),
            }
        }
        let unplanned = found.entries.iter().filter(|entry| self.partition(entry.number).is_none());
        differences.extend(unplanned.copied().map(Difference::Unplanned));
        differences
    }

    /// Whether a disk's table is this plan already.
    pub fn matches(&self, found: &Table) -> bool {
        self.differences(found).is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Missing(planned) => write!(
                f,
                "partition {} ({} sectors at {}) is missing",
                planned.number, planned.sectors, planned.start_lba
            ),
            Difference::Unplanned(found) => write!(
                f,
                "partition {} ({} sectors at {}) is not in the layout",
                found.number, found.sectors, found.start_lba
            ),
            Difference::Differs { planned, found } => write!(
                f,
                "partition {} is {} sectors at {} (type {:#04x}), the layout has {} at {}",
                planned.number,
                found.sectors,
                found.start_lba,
                found.kind,
                planned.sectors,
                planned.start_lba
            ),
        }
    }
}
