//! The table that is on a disk.

use super::{Extent, Role};
use crate::{gpt, layout::SECTOR_BYTES, mbr};
use metalcast_shared::{
    table::{FoundPartition, FoundTable, PartitionKind},
    whole_disk::TableId,
};
use std::io::{self, Read, Seek};

/// Reads the table of a disk, if there is one that is whole; an MBR counts sectors of 512 bytes, so that
/// it is none on a disk with others. What is in use is not known here.
pub fn found<D: Read + Seek>(
    disk: &mut D,
    disk_bytes: u64,
    sector_bytes: u32,
) -> io::Result<Option<FoundTable>> {
    let part = |number, kind, [start, sectors]: [u64; 2], unit: u64| FoundPartition {
        number,
        start_bytes: start.saturating_mul(unit),
        bytes: sectors.saturating_mul(unit),
        kind,
        in_use: None,
    };
    if u64::from(sector_bytes) == SECTOR_BYTES {
        match mbr::read(disk, disk_bytes / SECTOR_BYTES) {
            Ok(table) if !table.is_gpt_protective() => {
                let each = |entry: &mbr::PartitionEntry| {
                    let kind = PartitionKind::Mbr(entry.kind);
                    part(entry.number, kind, [entry.start_lba, entry.sectors], SECTOR_BYTES)
                };
                let id = TableId::Mbr(table.signature);
                return Ok(Some(sorted(id, table.entries.iter().map(each).collect())));
            }
            Err(mbr::ReadError::Io { source, .. }) => return Err(source),
            // A GPT that was being written has no MBR yet.
            Ok(_) | Err(_) => {}
        }
    }
    let unit = u64::from(sector_bytes.max(1));
    match gpt::read(disk, disk_bytes / unit, sector_bytes) {
        Ok(table) => {
            let each = |entry: &gpt::Entry| {
                let kind = PartitionKind::Gpt(entry.kind);
                part(entry.number, kind, [entry.start_lba, entry.sectors], unit)
            };
            let id = TableId::Gpt(table.disk_guid);
            Ok(Some(sorted(id, table.entries.iter().map(each).collect())))
        }
        Err(gpt::ReadError::Io { source, .. }) => Err(source),
        Err(gpt::ReadError::Damaged { .. }) => Ok(None),
    }
}

fn sorted(id: TableId, mut partitions: Vec<FoundPartition>) -> FoundTable {
    partitions.sort_by_key(|partition| partition.number);
    FoundTable { id, partitions }
}

/// Where its partitions are. Records of logical ones stay as they are and are not among them.
pub fn places(table: &FoundTable) -> Vec<Extent> {
    let place = |part: &FoundPartition| Extent {
        number: part.number,
        start_bytes: part.start_bytes,
        bytes: part.bytes,
        role: Role::of(part.kind),
        ebr_bytes: None,
    };
    table.partitions.iter().map(place).collect()
}
