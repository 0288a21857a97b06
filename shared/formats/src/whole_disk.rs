//! What the table of a whole disk comes to on one particular disk: what has to be written, and where its
//! partitions are; and the table that is on a disk.

use crate::{
    gpt,
    layout::SECTOR_BYTES,
    mbr::{self, Write},
};
use metalcast_shared::{
    table::PartitionKind,
    whole_disk::{DiskTable, GptPartition, MbrPartition, WholeDisk},
};
use uuid::{Uuid, uuid};

mod found;
mod grow;
mod kinds;
#[cfg(test)]
mod tests;

pub use found::{found, places};
pub use grow::{GrowError, Grown, grown, last_growable};
pub use kinds::goes_with;

/// GPT type of the partition that UEFI firmware starts from.
const ESP: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
/// The same in an MBR.
const KIND_ESP: u8 = 0xef;

/// A table on one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholePlan {
    /// All partitions, in order of number.
    pub partitions: Vec<Extent>,
    /// What makes the table, in an order that leaves none half there. Boot code is not part of it.
    pub writes: Vec<Write>,
}

/// Where a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its number.
    pub number: u16,
    /// First byte on the disk.
    pub start_bytes: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// What is special about it.
    pub role: Role,
    /// First byte of the extended boot record of a logical one.
    pub ebr_bytes: Option<u64>,
}

/// What is special about a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    Data,
    /// UEFI firmware starts from it.
    Esp,
    /// It is the frame of the logical ones.
    Extended,
}

impl Role {
    /// Of a partition of this type.
    pub fn of(kind: PartitionKind) -> Self {
        match kind {
            PartitionKind::Mbr(kind) if mbr::is_extended(kind) => Self::Extended,
            PartitionKind::Mbr(KIND_ESP) | PartitionKind::Gpt(ESP) => Self::Esp,
            PartitionKind::Mbr(_) | PartitionKind::Gpt(_) => Self::Data,
        }
    }
}

/// Why a table cannot be put on a disk.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Everything in it counts in sectors.
    #[error(
        "the image is of a disk with logical sectors of {wanted} bytes, this one has sectors of {had} bytes"
    )]
    SectorSize {
        /// The image's.
        wanted: u32,
        /// The disk's.
        had: u32,
    },
    /// Firmware that starts from an MBR knows sectors of 512 bytes only.
    #[error("an MBR on a disk with sectors of {had} bytes is not supported")]
    MbrSectors {
        /// The image's.
        had: u32,
    },
    /// Its partitions end behind the disk's end.
    #[error("the image's partitions need a disk of {needed_bytes} bytes, this one has {had_bytes}")]
    DoesNotFit {
        /// What is needed.
        needed_bytes: u64,
        /// What there is.
        had_bytes: u64,
    },
    /// The table contradicts itself.
    #[error("the image's partition table cannot be written")]
    Mbr(#[from] mbr::WriteError),
    /// The table contradicts itself.
    #[error("the image's partition table cannot be written")]
    Gpt(#[from] gpt::WriteError),
    /// There is no end to it.
    #[error("partition {number} of the image's table has a place that no disk has")]
    Place {
        /// Which.
        number: u16,
    },
}

/// Places the table of `whole` on a disk of `disk_bytes` bytes with logical sectors of `sector_bytes`.
pub fn plan(whole: &WholeDisk, disk_bytes: u64, sector_bytes: u32) -> Result<WholePlan, PlanError> {
    if whole.sector_bytes != sector_bytes {
        return Err(PlanError::SectorSize { wanted: whole.sector_bytes, had: sector_bytes });
    }
    let needed_bytes = needed_bytes(whole)?;
    if needed_bytes > disk_bytes {
        return Err(PlanError::DoesNotFit { needed_bytes, had_bytes: disk_bytes });
    }
    let unit = u64::from(sector_bytes);
    let writes = match &whole.table {
        DiskTable::Mbr { .. } if unit != SECTOR_BYTES => {
            return Err(PlanError::MbrSectors { had: sector_bytes });
        }
        DiskTable::Mbr { signature, partitions } => {
            let entries = partitions.iter().map(mbr_entry).collect();
            mbr::Table { signature: *signature, entries }.writes()?
        }
        DiskTable::Gpt { guid, first_lba, slots, partitions } => {
            let entries = partitions.iter().map(gpt_entry).collect();
            let (disk_guid, first_lba, slots) = (*guid, *first_lba, *slots);
            let table = gpt::Table { disk_guid, first_lba, last_lba: u64::MAX, slots, entries };
            table.writes(disk_bytes / unit, sector_bytes)?
        }
    };
    Ok(WholePlan { partitions: extents(&whole.table, unit), writes })
}

/// How large a disk must be at least, in bytes.
pub fn needed_bytes(whole: &WholeDisk) -> Result<u64, PlanError> {
    let ends: Vec<(u16, Option<u64>)> = match &whole.table {
        DiskTable::Mbr { partitions, .. } => partitions
            .iter()
            .map(|part| (part.number, part.start_lba.checked_add(part.sectors)))
            .collect(),
        DiskTable::Gpt { partitions, .. } => partitions
            .iter()
            .map(|part| (part.number, part.start_lba.checked_add(part.sectors)))
            .collect(),
    };
    let behind = match &whole.table {
        DiskTable::Mbr { .. } => 0,
        DiskTable::Gpt { slots, .. } => gpt::backup_sectors(*slots, whole.sector_bytes),
    };
    let mut needed = u64::from(whole.sector_bytes);
    for (number, end) in ends {
        let bytes = end
            .and_then(|end| end.checked_add(behind)?.checked_mul(u64::from(whole.sector_bytes)))
            .ok_or(PlanError::Place { number })?;
        needed = needed.max(bytes);
    }
    Ok(needed)
}

fn mbr_entry(part: &MbrPartition) -> mbr::PartitionEntry {
    let MbrPartition { number, kind, start_lba, sectors, bootable, ebr_lba } = *part;
    mbr::PartitionEntry { number, kind, start_lba, sectors, bootable, ebr_lba }
}

fn gpt_entry(part: &GptPartition) -> gpt::Entry {
    let GptPartition { number, kind, guid, start_lba, sectors, attributes, name } = part.clone();
    gpt::Entry { number, kind, guid, start_lba, sectors, attributes, name }
}

/// That they are on the disk was seen to.
fn extents(table: &DiskTable, unit: u64) -> Vec<Extent> {
    let extent = |number, start_lba: u64, sectors: u64, role, ebr_lba: Option<u64>| Extent {
        number,
        start_bytes: start_lba * unit,
        bytes: sectors * unit,
        role,
        ebr_bytes: ebr_lba.map(|lba| lba * unit),
    };
    let mut extents: Vec<Extent> = match table {
        DiskTable::Mbr { partitions, .. } => {
            let each = |part: &MbrPartition| {
                let role = Role::of(PartitionKind::Mbr(part.kind));
                extent(part.number, part.start_lba, part.sectors, role, part.ebr_lba)
            };
            partitions.iter().map(each).collect()
        }
        DiskTable::Gpt { partitions, .. } => {
            let each = |part: &GptPartition| {
                let role = Role::of(PartitionKind::Gpt(part.kind));
                extent(part.number, part.start_lba, part.sectors, role, None)
            };
            partitions.iter().map(each).collect()
        }
    };
    extents.sort_by_key(|extent| extent.number);
    extents
}
