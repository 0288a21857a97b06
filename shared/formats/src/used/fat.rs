//! FAT12, FAT16, FAT32: reserved sectors, all tables, the root directory, and the clusters that the
//! first table has something for.
//!
//! Sectors behind the last cluster are kept, bad clusters are not: as partclone does. Its image has one
//! block per sector; here a block is the largest unit that all of the parts are multiples of, so that
//! the bitmap of a large volume stays small.

use super::{Disk, UsedError, UsedMap, marks::Marks};
use crate::bytes::{le_u16, le_u32};
use std::io::{Read, Seek};

/// Largest block that is made of sectors: FAT's and exFAT's usual cluster on large volumes.
pub(super) const MAX_BLOCK_BYTES: u64 = 64 << 10;

/// Clusters from this number on make it FAT16 rather than FAT12.
const FAT16_CLUSTERS: u64 = 4085;
/// Most entries that FAT32 has: 28 bits.
const MAX_CLUSTERS: u64 = 0x0fff_fff5;
/// The table is read in such pieces; a multiple of 3, so that no entry of 12 bits is cut.
const PIECE_BYTES: usize = 48 << 10;
/// The highest bits of the second entry, cleared while it is mounted and after a failed read.
const FAT16_CLEAN: u32 = 0xc000;
const FAT32_CLEAN: u32 = 0x0c00_0000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Bits12,
    Bits16,
    Bits32,
}

struct Geometry {
    width: Width,
    sector_bytes: u64,
    cluster_sectors: u64,
    table_start: u64,
    table_sectors: u64,
    first_data: u64,
    clusters: u64,
    sectors: u64,
}

pub(super) fn read<D: Read + Seek>(disk: &mut Disk<'_, D>) -> Result<UsedMap, UsedError> {
    let mut boot = [0; 512];
    disk.read(0, &mut boot, "the boot sector")?;
    let geometry = Geometry::read(&boot, disk)?;
    let sector = geometry.sector_bytes;
    let cluster_bytes = geometry.cluster_sectors * sector;
    let parts = [geometry.first_data * sector, cluster_bytes, geometry.sectors * sector];
    let block_bytes = common_block(&parts);
    let blocks = disk.checked_blocks(geometry.sectors * sector / block_bytes, block_bytes)?;
    let mut marks = Marks::none(blocks);
    let first_data = geometry.first_data * sector / block_bytes;
    let cluster_blocks = cluster_bytes / block_bytes;
    marks.set(0, first_data);
    let behind = first_data + geometry.clusters * cluster_blocks;
    marks.set(behind, blocks - behind);
    let mut second_entry = u32::MAX;
    geometry.each_entry(disk, |number, entry| match number {
        0 => (),
        1 => second_entry = entry,
        _ if entry == 0 || geometry.width.is_bad(entry) => (),
        _ => marks.set(first_data + (u64::from(number) - 2) * cluster_blocks, cluster_blocks),
    })?;
    let (filesystem, program) = match geometry.width {
        Width::Bits12 => ("FAT12", "fat12"),
        Width::Bits16 => ("FAT16", "vfat"),
        Width::Bits32 => ("FAT32", "vfat"),
    };
    Ok(UsedMap {
        filesystem,
        program,
        block_bytes: block_bytes as u32,
        device_bytes: blocks * block_bytes,
        used: marks.into_bitmap(),
        left_out: Vec::new(),
        unclean: geometry.standing(&boot, second_entry),
    })
}

/// The largest power of two that divides all of them, within limits.
pub(super) fn common_block(parts: &[u64]) -> u64 {
    let shared = parts.iter().map(|bytes| bytes.trailing_zeros()).min().unwrap_or(0);
    (1 << shared.min(32)).min(MAX_BLOCK_BYTES)
}

impl Width {
    fn is_bad(self, entry: u32) -> bool {
        match self {
            Self::Bits12 => entry == 0xff7,
            Self::Bits16 => entry == 0xfff7,
            Self::Bits32 => entry & 0x0fff_ffff == 0x0fff_fff7,
        }
    }

    /// Bytes of the table for so many entries.
    fn bytes(self, entries: u64) -> u64 {
        match self {
            Self::Bits12 => (entries * 3).div_ceil(2),
            Self::Bits16 => entries * 2,
            Self::Bits32 => entries * 4,
        }
    }
}

impl Geometry {
    fn read<D: Read + Seek>(boot: &[u8; 512], disk: &Disk<'_, D>) -> Result<Self, UsedError> {
        let half = |at| u64::from(le_u16(boot, at));
        let full = |at| u64::from(le_u32(boot, at));
        let or = |small: u64, large: u64| if small == 0 { large } else { small };
        let (sector_bytes, cluster_sectors) = (half(0x0b), u64::from(boot[0x0d]));
        let (reserved, tables) = (half(0x0e), u64::from(boot[0x10]));
        let sectors = or(half(0x13), full(0x20));
        let table_sectors = or(half(0x16), full(0x24));
        let is_sane = matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
            && cluster_sectors.is_power_of_two()
            && reserved > 0
            && (1..=8).contains(&tables)
            && table_sectors > 0;
        if !is_sane {
            return Err(disk.damaged("the boot sector's sizes cannot be"));
        }
        let root_sectors = (half(0x11) * 32).div_ceil(sector_bytes);
        let first_data = reserved + tables * table_sectors + root_sectors;
        let Some(data) = sectors.checked_sub(first_data) else {
            return Err(disk.damaged("its tables are larger than itself"));
        };
        disk.checked_blocks(sectors, sector_bytes)?;
        let clusters = data / cluster_sectors;
        let width = match half(0x16) {
            0 => Width::Bits32,
            _ if clusters >= FAT16_CLUSTERS => Width::Bits16,
            _ => Width::Bits12,
        };
        if clusters > MAX_CLUSTERS || width.bytes(clusters + 2) > table_sectors * sector_bytes {
            return Err(disk.damaged("its table is too small for its clusters"));
        }
        Ok(Self {
            width,
            sector_bytes,
            cluster_sectors,
            table_start: reserved,
            table_sectors,
            first_data,
            clusters,
            sectors,
        })
    }

    /// Hands over the entries 0 .. clusters + 1 of the first table.
    fn each_entry<D: Read + Seek>(
        &self,
        disk: &mut Disk<'_, D>,
        mut take: impl FnMut(u32, u32),
    ) -> Result<(), UsedError> {
        let entries = self.clusters + 2;
        let start = self.table_start * self.sector_bytes;
        let table_bytes = self.table_sectors * self.sector_bytes;
        let mut left = self.width.bytes(entries).next_multiple_of(3).min(table_bytes);
        let (mut offset, mut number) = (start, 0u32);
        let mut piece = vec![0; PIECE_BYTES];
        while left > 0 {
            let step = left.min(PIECE_BYTES as u64) as usize;
            disk.read(offset, &mut piece[..step], "the allocation table")?;
            let mut each = |entry: u32| {
                if u64::from(number) < entries {
                    take(number, entry);
                }
                number = number.saturating_add(1);
            };
            match self.width {
                Width::Bits12 => piece[..step].chunks(3).for_each(|bytes| {
                    let at = |index: usize| u32::from(bytes.get(index).copied().unwrap_or(0));
                    each(at(0) | (at(1) & 0xf) << 8);
                    each(at(1) >> 4 | at(2) << 4);
                }),
                Width::Bits16 => {
                    piece[..step & !1].chunks_exact(2).for_each(|b| each(le_u16(b, 0).into()));
                }
                Width::Bits32 => {
                    piece[..step & !3].chunks_exact(4).for_each(|b| each(le_u32(b, 0)));
                }
            }
            offset += step as u64;
            left -= step as u64;
        }
        Ok(())
    }

    /// Mounted systems say so in the boot sector (Linux) and in the second entry (Windows).
    fn standing(&self, boot: &[u8; 512], second_entry: u32) -> Vec<String> {
        let (flags, clean) = match self.width {
            Width::Bits12 => (boot[0x25], 0),
            Width::Bits16 => (boot[0x25], FAT16_CLEAN),
            Width::Bits32 => (boot[0x41], FAT32_CLEAN),
        };
        let mut unclean = Vec::new();
        if flags & 1 != 0 || second_entry & clean != clean {
            unclean.push("it is mounted, or was not unmounted, or has bad sectors".to_owned());
        }
        unclean
    }
}
