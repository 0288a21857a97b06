//! The boot sector: sizes, and where the master file table begins.

use crate::{
    bytes::{le_u16, le_u64},
    used::{Disk, UsedError},
};
use std::io::{Read, Seek};

/// Largest record of the master file table and block of an index; Windows makes 1 and 4 KiB.
const MAX_RECORD_BYTES: u64 = 64 << 10;
/// Largest cluster that Windows makes.
const MAX_CLUSTER_BYTES: u64 = 2 << 20;

pub(super) struct Boot {
    pub(super) sector_bytes: u64,
    pub(super) cluster_bytes: u64,
    pub(super) clusters: u64,
    /// First cluster of the master file table.
    pub(super) table: u64,
    pub(super) record_bytes: u64,
    sectors: u64,
}

impl Boot {
    pub(super) fn read<D: Read + Seek>(
        sector: &[u8; 512],
        disk: &Disk<'_, D>,
    ) -> Result<Self, UsedError> {
        let cannot = || disk.damaged("the boot sector's sizes cannot be");
        let sector_bytes = u64::from(le_u16(sector, 0x0b));
        // Above 128 it is the negative logarithm.
        let cluster_sectors = match sector[0x0d] {
            count @ 0..=0x80 => u64::from(count),
            log @ 0xf0.. => 1 << (256 - u32::from(log)),
            _ => return Err(cannot()),
        };
        let is_sane = matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
            && cluster_sectors.is_power_of_two()
            && sector_bytes * cluster_sectors <= MAX_CLUSTER_BYTES;
        if !is_sane {
            return Err(cannot());
        }
        let cluster_bytes = sector_bytes * cluster_sectors;
        let sectors = le_u64(sector, 0x28);
        let clusters = disk.checked_blocks(sectors / cluster_sectors, cluster_bytes)?;
        let record_bytes = match i32::from(sector[0x40].cast_signed()) {
            clusters @ 1.. => u64::from(clusters.unsigned_abs()) * cluster_bytes,
            log => 1u64.checked_shl(log.unsigned_abs()).ok_or_else(cannot)?,
        };
        let table = le_u64(sector, 0x30);
        if !(512..=MAX_RECORD_BYTES).contains(&record_bytes)
            || !record_bytes.is_power_of_two()
            || table >= clusters
        {
            return Err(cannot());
        }
        Ok(Self { sector_bytes, cluster_bytes, clusters, table, record_bytes, sectors })
    }

    /// Where the copy of the boot sector is: in the sector behind those that the volume counts.
    pub(super) fn backup_offset(&self) -> u64 {
        self.sectors * self.sector_bytes
    }

    /// Clusters that one record needs.
    pub(super) fn record_clusters(&self) -> u64 {
        self.record_bytes.div_ceil(self.cluster_bytes)
    }
}
