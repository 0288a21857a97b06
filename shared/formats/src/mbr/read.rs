//! Reading: sector 0, then the chain of extended boot records, each step checked.

use super::entry::{RawEntry, raw_entries};
use super::{FIRST_LOGICAL, KIND_GPT_PROTECTIVE, MAX_LOGICALS, PartitionEntry, Table, is_extended};
use crate::layout::SECTOR_BYTES;
use std::io::{Read, Seek, SeekFrom};

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk could not be read.
    #[error("cannot read sector {lba}")]
    Io {
        /// Which sector.
        lba: u64,
        /// What the disk said.
        source: std::io::Error,
    },
    /// Sector 0 has no 55AA.
    #[error("sector 0 has no MBR signature")]
    NoTable,
    /// An entry's boot flag is neither 00 nor 80: boot code or a file system, not a table.
    #[error("partition entry {index} of sector {lba} has boot flag {flag:#04x}")]
    BootFlag {
        /// Sector of the record.
        lba: u64,
        /// Entry in it, from 1.
        index: usize,
        /// The flag found.
        flag: u8,
    },
    /// A partition reaches behind the end of the disk.
    #[error("partition {number} ends at sector {end_lba}, the disk has {disk_sectors}")]
    BeyondDisk {
        /// Its number.
        number: u16,
        /// First sector behind it.
        end_lba: u64,
        /// Size of the disk.
        disk_sectors: u64,
    },
    /// A logical partition or an EBR lies outside of the extended partition.
    #[error("sector {lba} of the logical chain is outside of the extended partition")]
    OutsideExtended {
        /// The sector.
        lba: u64,
    },
    /// Two primaries are extended; nobody agrees on what that means.
    #[error("the table has two extended partitions")]
    TwoExtended,
    /// A link leads to a sector without 55AA.
    #[error("the extended boot record at sector {lba} has no signature")]
    NoEbr {
        /// The sector.
        lba: u64,
    },
    /// The chain returns to a record it has passed.
    #[error("the chain of extended boot records returns to sector {lba}")]
    Loop {
        /// The sector met twice.
        lba: u64,
    },
    /// More than [`MAX_LOGICALS`].
    #[error("more than {MAX_LOGICALS} logical partitions")]
    TooMany,
}

/// Reads the table of a disk of `disk_sectors` sectors of 512 bytes.
pub fn read<D: Read + Seek>(disk: &mut D, disk_sectors: u64) -> Result<Table, ReadError> {
    let mbr = read_sector(disk, 0)?;
    let Some(raw) = raw_entries(&mbr) else { return Err(ReadError::NoTable) };
    check_flags(&raw, 0)?;
    let signature = u32::from_le_bytes([mbr[0x1b8], mbr[0x1b9], mbr[0x1ba], mbr[0x1bb]]);
    let mut entries = Vec::new();
    let mut extended = None;
    for (number, raw) in (1u16..).zip(raw) {
        if !raw.is_used() {
            continue;
        }
        let entry = raw.at(number, 0, None);
        check_inside(&entry, disk_sectors)?;
        if entry.is_extended() && extended.replace(entry).is_some() {
            return Err(ReadError::TwoExtended);
        }
        entries.push(entry);
    }
    if let Some(extended) = extended {
        read_chain(disk, &extended, disk_sectors, &mut entries)?;
    }
    Ok(Table { signature, entries })
}

fn read_chain<D: Read + Seek>(
    disk: &mut D,
    extended: &PartitionEntry,
    disk_sectors: u64,
    entries: &mut Vec<PartitionEntry>,
) -> Result<(), ReadError> {
    let mut passed: Vec<u64> = Vec::new();
    let mut next = Some(extended.start_lba);
    let mut number = FIRST_LOGICAL;
    while let Some(ebr_lba) = next.take() {
        if !(extended.start_lba..extended.end_lba()).contains(&ebr_lba) {
            return Err(ReadError::OutsideExtended { lba: ebr_lba });
        }
        if passed.contains(&ebr_lba) {
            return Err(ReadError::Loop { lba: ebr_lba });
        }
        if passed.len() == MAX_LOGICALS {
            return Err(ReadError::TooMany);
        }
        passed.push(ebr_lba);
        let sector = read_sector(disk, ebr_lba)?;
        let raw = match raw_entries(&sector) {
            Some(raw) => raw,
            // An extended partition that never held a logical one: tools leave its record unwritten.
            None if passed.len() == 1 && sector.iter().all(|&byte| byte == 0) => return Ok(()),
            None => return Err(ReadError::NoEbr { lba: ebr_lba }),
        };
        check_flags(&raw, ebr_lba)?;
        for raw in raw.iter().filter(|raw| raw.is_used()) {
            if is_extended(raw.kind) {
                next = next.or(Some(extended.start_lba + u64::from(raw.start)));
                continue;
            }
            let entry = raw.at(number, ebr_lba, Some(ebr_lba));
            check_inside(&entry, disk_sectors)?;
            if entry.end_lba() > extended.end_lba() || entry.start_lba <= ebr_lba {
                return Err(ReadError::OutsideExtended { lba: entry.start_lba });
            }
            if usize::from(number - FIRST_LOGICAL) == MAX_LOGICALS {
                return Err(ReadError::TooMany);
            }
            entries.push(entry);
            number += 1;
        }
    }
    Ok(())
}

fn read_sector<D: Read + Seek>(disk: &mut D, lba: u64) -> Result<[u8; 512], ReadError> {
    let mut sector = [0u8; 512];
    disk.seek(SeekFrom::Start(lba * SECTOR_BYTES))
        .and_then(|_| disk.read_exact(&mut sector))
        .map_err(|source| ReadError::Io { lba, source })?;
    Ok(sector)
}

fn check_flags(raw: &[RawEntry; 4], lba: u64) -> Result<(), ReadError> {
    match (1..).zip(raw).find(|(_, raw)| raw.flag & 0x7f != 0) {
        Some((index, raw)) => Err(ReadError::BootFlag { lba, index, flag: raw.flag }),
        None => Ok(()),
    }
}

fn check_inside(entry: &PartitionEntry, disk_sectors: u64) -> Result<(), ReadError> {
    let (number, end_lba) = (entry.number, entry.end_lba());
    // A protective entry may claim more than there is: that is how large disks are marked.
    if end_lba > disk_sectors && entry.kind != KIND_GPT_PROTECTIVE {
        return Err(ReadError::BeyondDisk { number, end_lba, disk_sectors });
    }
    Ok(())
}
