//! GUID partition tables. Read is the primary, or the backup where that is damaged; both are written.
//!
//! Both check sums must fit, and no partition may leave the usable part of the disk or overlap another:
//! a damaged table is never taken for a smaller one. Sectors may be of any size that disks have.

use crate::bytes::{le_u32, le_u64};
use std::io::{self, Read, Seek, SeekFrom};
use uuid::Uuid;

mod write;

pub use write::{WriteError, backup_sectors};

/// Most bytes of entries that are read: 128 entries of 128 bytes are usual, this is 64 times that.
const MAX_ENTRIES_BYTES: u64 = 1 << 20;
/// Most partitions that are taken; Linux numbers no more.
const MAX_PARTITIONS: u32 = 256;
const MIN_ENTRY_BYTES: u32 = 128;
const MIN_HEADER_BYTES: u32 = 92;
const MAGIC: &[u8; 8] = b"EFI PART";

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From 1, as Linux counts.
    pub number: u16,
    /// Its type.
    pub kind: Uuid,
    /// Its own id, the `PARTUUID`.
    pub guid: Uuid,
    /// First sector.
    pub start_lba: u64,
    /// Length in sectors.
    pub sectors: u64,
    /// Attribute bits.
    pub attributes: u64,
    /// Its name, empty if it has none.
    pub name: String,
}

/// A whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The disk's id.
    pub disk_guid: Uuid,
    /// First sector that a partition may have.
    pub first_lba: u64,
    /// Last sector that a partition may have.
    pub last_lba: u64,
    /// Room for so many partitions.
    pub slots: u32,
    /// Those that are in use, in order of number.
    pub entries: Vec<Entry>,
}

/// Why there is no table to be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk could not be read.
    #[error("cannot read sector {lba}")]
    Io {
        /// Which sector.
        lba: u64,
        /// What the disk said.
        source: io::Error,
    },
    /// Neither at the start nor at the end is a table that is whole.
    #[error("no GUID partition table that is whole: {primary}; its backup: {backup}")]
    Damaged {
        /// What is wrong with the first.
        primary: &'static str,
        /// And with the last.
        backup: &'static str,
    },
}

/// Why one of the two is not taken.
enum Wrong {
    Io(u64, io::Error),
    Damaged(&'static str),
}

/// Reads the table of a disk.
pub fn read<D: Read + Seek>(
    disk: &mut D,
    sectors: u64,
    sector_bytes: u32,
) -> Result<Table, ReadError> {
    let mut one = |lba| Reader { disk: &mut *disk, sectors, sector_bytes }.table(lba);
    let primary = match one(1) {
        Ok(table) => return Ok(table),
        Err(Wrong::Io(lba, source)) => return Err(ReadError::Io { lba, source }),
        Err(Wrong::Damaged(what)) => what,
    };
    match one(sectors.saturating_sub(1)) {
        Ok(table) => Ok(table),
        Err(Wrong::Io(lba, source)) => Err(ReadError::Io { lba, source }),
        Err(Wrong::Damaged(backup)) => Err(ReadError::Damaged { primary, backup }),
    }
}

struct Reader<'d, D> {
    disk: &'d mut D,
    sectors: u64,
    sector_bytes: u32,
}

impl<D: Read + Seek> Reader<'_, D> {
    fn table(&mut self, lba: u64) -> Result<Table, Wrong> {
        let mut header = self.read(lba, u64::from(self.sector_bytes))?;
        let header_bytes = le_u32(&header, 12);
        if &header[..8] != MAGIC || !(MIN_HEADER_BYTES..=self.sector_bytes).contains(&header_bytes)
        {
            return Err(Wrong::Damaged("there is no header"));
        }
        let sum = le_u32(&header, 16);
        header[16..20].fill(0);
        if crc32fast::hash(&header[..header_bytes as usize]) != sum {
            return Err(Wrong::Damaged("the header's check sum is wrong"));
        }
        let (first_lba, last_lba) = (le_u64(&header, 40), le_u64(&header, 48));
        let (slots, entry_bytes) = (le_u32(&header, 80), le_u32(&header, 84));
        let bytes = u64::from(slots) * u64::from(entry_bytes);
        let is_sane = le_u64(&header, 24) == lba
            && entry_bytes.is_multiple_of(MIN_ENTRY_BYTES)
            && (1..=MAX_ENTRIES_BYTES).contains(&bytes)
            && first_lba <= last_lba
            && last_lba < self.sectors;
        if !is_sane {
            return Err(Wrong::Damaged("the header's numbers cannot be"));
        }
        let table = self.read(le_u64(&header, 72), bytes)?;
        if crc32fast::hash(&table) != le_u32(&header, 88) {
            return Err(Wrong::Damaged("the entries' check sum is wrong"));
        }
        let rows = table.chunks_exact(entry_bytes as usize).take(MAX_PARTITIONS as usize);
        let entries: Vec<Entry> = (1..).zip(rows).filter_map(|(n, row)| entry(n, row)).collect();
        check(&entries, first_lba, last_lba)?;
        Ok(Table { disk_guid: guid(&header[56..72]), first_lba, last_lba, slots, entries })
    }

    fn read(&mut self, lba: u64, bytes: u64) -> Result<Vec<u8>, Wrong> {
        let start = lba.checked_mul(u64::from(self.sector_bytes));
        let end = start.and_then(|start| start.checked_add(bytes));
        let disk_bytes = self.sectors.saturating_mul(u64::from(self.sector_bytes));
        let (Some(start), true) = (start, end.is_some_and(|end| end <= disk_bytes)) else {
            return Err(Wrong::Damaged("it is not on the disk"));
        };
        let mut buffer = vec![0; bytes as usize];
        self.disk
            .seek(SeekFrom::Start(start))
            .and_then(|_| self.disk.read_exact(&mut buffer))
            .map_err(|error| Wrong::Io(lba, error))?;
        Ok(buffer)
    }
}

pub(crate) fn guid(bytes: &[u8]) -> Uuid {
    let mut raw = [0; 16];
    raw.copy_from_slice(&bytes[..16]);
    Uuid::from_bytes_le(raw)
}

/// An entry that is in use; its length is made up if it ends before it begins, and refused later.
pub(crate) fn entry(number: u16, row: &[u8]) -> Option<Entry> {
    let kind = guid(row);
    let (start_lba, last) = (le_u64(row, 32), le_u64(row, 40));
    let units = row[56..128].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    (!kind.is_nil()).then(|| Entry {
        number,
        kind,
        guid: guid(&row[16..]),
        start_lba,
        sectors: last.checked_sub(start_lba).map_or(0, |rest| rest.saturating_add(1)),
        attributes: le_u64(row, 48),
        name: String::from_utf16_lossy(&units),
    })
}

fn check(entries: &[Entry], first_lba: u64, last_lba: u64) -> Result<(), Wrong> {
    let mut by_start: Vec<&Entry> = entries.iter().collect();
    by_start.sort_by_key(|entry| entry.start_lba);
    let mut behind = first_lba;
    for entry in by_start {
        let end = entry.start_lba.checked_add(entry.sectors);
        let is_inside = end.is_some_and(|end| end <= last_lba + 1);
        if entry.sectors == 0 || entry.start_lba < behind || !is_inside {
            return Err(Wrong::Damaged("partitions overlap or leave the disk"));
        }
        behind = entry.start_lba + entry.sectors;
    }
    Ok(())
}
