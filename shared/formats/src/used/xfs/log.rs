//! Whether XFS's journal is empty: whether its last record is the one that an unmount writes.
//!
//! Every 512 bytes of the journal begin with the number of the round in which they were written, a
//! record's header with a magic number and the round behind it. The end of the last record is where the
//! rounds fall by one; it is found by halving, as the kernel does.

use super::Superblock;
use crate::{
    bytes::be_u32,
    used::{Disk, UsedError},
};
use std::io::{Read, Seek};

const SECTOR: u64 = 512;
const RECORD_MAGIC: u32 = 0xfeed_babe;
/// A record has a header of at least one sector and at most 256 KiB behind it.
const MAX_RECORD_SECTORS: u64 = 1 + 8 + (256 << 10) / SECTOR;
/// The flag of an operation that says "unmounted".
const UNMOUNT: u8 = 0x20;

struct Log<'l, 'd, D> {
    disk: &'l mut Disk<'d, D>,
    start: u64,
    sectors: u64,
}

pub(super) fn is_empty<D: Read + Seek>(
    disk: &mut Disk<'_, D>,
    superblock: &Superblock,
) -> Result<bool, UsedError> {
    // A block is named by its group and its number in it; the shift is the group size rounded up.
    let shift = u64::from(superblock.group_blocks).next_power_of_two().trailing_zeros();
    let (group, block) = (superblock.log_start >> shift, superblock.log_start & ((1 << shift) - 1));
    let first = group
        .checked_mul(u64::from(superblock.group_blocks))
        .and_then(|start| start.checked_add(block))
        .filter(|first| *first < superblock.blocks);
    let sectors = u64::from(superblock.log_blocks) * superblock.block_bytes / SECTOR;
    let Some(first) = first.filter(|_| sectors > 0) else {
        return Err(disk.damaged("its journal lies outside of it"));
    };
    Log { disk, start: first * superblock.block_bytes, sectors }.ends_with_unmount()
}

impl<D: Read + Seek> Log<'_, '_, D> {
    fn ends_with_unmount(&mut self) -> Result<bool, UsedError> {
        let head = self.head()?;
        for back in 1..=MAX_RECORD_SECTORS.min(self.sectors) {
            let at = (head + self.sectors - back) % self.sectors;
            let sector = self.sector(at)?;
            if be_u32(&sector, 0) != RECORD_MAGIC {
                continue;
            }
            // One operation, right behind the header; larger headers have more sectors.
            let header_sectors = match be_u32(&sector, 8) {
                2 => u64::from(be_u32(&sector, 320)).div_ceil(32 << 10).clamp(1, 8),
                _ => 1,
            };
            if be_u32(&sector, 40) != 1 {
                return Ok(false);
            }
            let operation = self.sector((at + header_sectors) % self.sectors)?;
            return Ok(operation[9] & UNMOUNT != 0);
        }
        // Nothing was ever written.
        Ok(head == 0 && self.cycle(0)? == 0)
    }

    /// The sector behind the last one that was written.
    fn head(&mut self) -> Result<u64, UsedError> {
        let first = self.cycle(0)?;
        if self.cycle(self.sectors - 1)? == first {
            return Ok(0);
        }
        let (mut written, mut old) = (0, self.sectors - 1);
        while old - written > 1 {
            let middle = written.midpoint(old);
            if self.cycle(middle)? == first { written = middle } else { old = middle }
        }
        Ok(old)
    }

    fn cycle(&mut self, number: u64) -> Result<u32, UsedError> {
        let sector = self.sector(number)?;
        let first = be_u32(&sector, 0);
        Ok(if first == RECORD_MAGIC { be_u32(&sector, 4) } else { first })
    }

    fn sector(&mut self, number: u64) -> Result<[u8; SECTOR as usize], UsedError> {
        let mut sector = [0; SECTOR as usize];
        self.disk.read(self.start + number * SECTOR, &mut sector, "the journal")?;
        Ok(sector)
    }
}
