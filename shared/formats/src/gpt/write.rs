//! Writing: the backup first, then the primary, then the MBR that protects both.

use super::{Entry, MAGIC, MAX_PARTITIONS, MIN_ENTRY_BYTES, MIN_HEADER_BYTES, Table};
use crate::mbr::{self, KIND_GPT_PROTECTIVE, PartitionEntry, Write};

/// Revision 1.0, as every table has it.
const REVISION: u32 = 0x0001_0000;
/// Most UTF-16 units of a name.
const NAME_UNITS: usize = 36;
/// Most entries: more than anyone has, and half a MiB.
const MAX_SLOTS: u32 = 4096;

/// Why a table cannot be written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A table of that many entries is none.
    #[error("a GPT with room for {slots} partitions cannot be written")]
    Slots {
        /// How many.
        slots: u32,
    },
    /// A number is 0, comes twice, or is beyond the table's room.
    #[error("the GPT has no place for a partition {number}")]
    Number {
        /// Its number.
        number: u16,
    },
    /// It is empty, or shares sectors with another one or with the table itself.
    #[error("partition {number} overlaps another one or the table")]
    Overlap {
        /// Its number.
        number: u16,
    },
    /// The disk ends before it.
    #[error(
        "partition {number} ends at sector {last_lba}, the last that the disk has for it is {had_lba}"
    )]
    BeyondDisk {
        /// Its number.
        number: u16,
        /// Its last sector.
        last_lba: u64,
        /// The last usable one.
        had_lba: u64,
    },
    /// Its name is too long.
    #[error("the name of partition {number} has more than {NAME_UNITS} characters")]
    Name {
        /// Its number.
        number: u16,
    },
    /// The protective MBR cannot be made.
    #[error("the disk has no room for a table")]
    NoRoom,
}

/// Where the parts of a table are on one disk.
struct Places {
    sectors: u64,
    sector_bytes: u64,
    entries_sectors: u64,
    last_lba: u64,
}

/// Sectors at the end of a disk that no partition may have: the backup's entries and its header.
pub fn backup_sectors(slots: u32, sector_bytes: u32) -> u64 {
    entries_sectors(slots, sector_bytes.max(1)) + 1
}

/// Sectors that the entries of a table take.
fn entries_sectors(slots: u32, sector_bytes: u32) -> u64 {
    (u64::from(slots) * u64::from(MIN_ENTRY_BYTES)).div_ceil(u64::from(sector_bytes))
}

impl Table {
    /// What has to be written to give a disk of `sectors` sectors this table, the backup at the disk's
    /// very end; [`Self::last_lba`] is not asked. The MBR's boot code is not part of it.
    pub fn writes(&self, sectors: u64, sector_bytes: u32) -> Result<Vec<Write>, WriteError> {
        let places = self.places(sectors, sector_bytes)?;
        self.check(&places)?;
        let entries = self.encoded_entries(&places)?;
        let backup_lba = sectors - 1;
        let backup_entries_lba = backup_lba - places.entries_sectors;
        let sum = crc32fast::hash(&entries[..(self.slots * MIN_ENTRY_BYTES) as usize]);
        let at = |lba: u64, bytes: Vec<u8>| Write { byte_offset: lba * places.sector_bytes, bytes };
        let header = |own, other, entries_lba| self.header(&places, [own, other, entries_lba], sum);
        let mut writes = vec![
            at(backup_entries_lba, entries.clone()),
            at(backup_lba, header(backup_lba, 1, backup_entries_lba)),
            at(2, entries),
            at(1, header(1, backup_lba, 2)),
        ];
        writes.extend(protective(sectors)?);
        Ok(writes)
    }

    fn places(&self, sectors: u64, sector_bytes: u32) -> Result<Places, WriteError> {
        if !(1..=MAX_SLOTS).contains(&self.slots) || sector_bytes < MIN_HEADER_BYTES {
            return Err(WriteError::Slots { slots: self.slots });
        }
        let entries_sectors = entries_sectors(self.slots, sector_bytes);
        // A header each, the MBR, and the sector before the backup's entries.
        let last_lba = sectors.checked_sub(entries_sectors + 2).ok_or(WriteError::NoRoom)?;
        if last_lba < entries_sectors + 2 {
            return Err(WriteError::NoRoom);
        }
        Ok(Places { sectors, sector_bytes: u64::from(sector_bytes), entries_sectors, last_lba })
    }

    fn check(&self, places: &Places) -> Result<(), WriteError> {
        let mut by_start: Vec<&Entry> = self.entries.iter().collect();
        by_start.sort_by_key(|entry| entry.start_lba);
        let mut behind = 2 + places.entries_sectors;
        for entry in by_start {
            let number = entry.number;
            let end = entry.start_lba.checked_add(entry.sectors);
            if entry.sectors == 0 || entry.start_lba < behind {
                return Err(WriteError::Overlap { number });
            }
            behind = end.ok_or(WriteError::Overlap { number })?;
            if behind - 1 > places.last_lba {
                let (last_lba, had_lba) = (behind - 1, places.last_lba);
                return Err(WriteError::BeyondDisk { number, last_lba, had_lba });
            }
        }
        Ok(())
    }

    fn encoded_entries(&self, places: &Places) -> Result<Vec<u8>, WriteError> {
        let mut bytes = vec![0; (places.entries_sectors * places.sector_bytes) as usize];
        for entry in &self.entries {
            let number = entry.number;
            let is_room = (1..=self.slots.min(MAX_PARTITIONS)).contains(&u32::from(number));
            if !is_room || entry.kind.is_nil() {
                return Err(WriteError::Number { number });
            }
            let at = usize::from(number - 1) * MIN_ENTRY_BYTES as usize;
            let row = &mut bytes[at..at + MIN_ENTRY_BYTES as usize];
            if row.iter().any(|byte| *byte != 0) {
                return Err(WriteError::Number { number });
            }
            put(row, 0, &entry.kind.to_bytes_le());
            put(row, 16, &entry.guid.to_bytes_le());
            put(row, 32, &entry.start_lba.to_le_bytes());
            put(row, 40, &(entry.start_lba + entry.sectors - 1).to_le_bytes());
            put(row, 48, &entry.attributes.to_le_bytes());
            let units: Vec<u16> = entry.name.encode_utf16().collect();
            if units.len() > NAME_UNITS {
                return Err(WriteError::Name { number });
            }
            for (place, unit) in units.into_iter().enumerate() {
                put(row, 56 + 2 * place, &unit.to_le_bytes());
            }
        }
        Ok(bytes)
    }

    /// `[own, other, entries]` are the sectors of the header itself, of its twin and of the entries.
    fn header(&self, places: &Places, [own, other, entries]: [u64; 3], sum: u32) -> Vec<u8> {
        let mut header = vec![0; places.sector_bytes as usize];
        put(&mut header, 0, MAGIC);
        put(&mut header, 8, &REVISION.to_le_bytes());
        put(&mut header, 12, &MIN_HEADER_BYTES.to_le_bytes());
        put(&mut header, 24, &own.to_le_bytes());
        put(&mut header, 32, &other.to_le_bytes());
        // A first sector within the table itself was never meant.
        let first_lba = self.first_lba.clamp(2 + places.entries_sectors, places.last_lba);
        let starts = self.entries.iter().map(|entry| entry.start_lba);
        let first_lba = starts.min().map_or(first_lba, |start| first_lba.min(start));
        put(&mut header, 40, &first_lba.to_le_bytes());
        put(&mut header, 48, &places.last_lba.to_le_bytes());
        put(&mut header, 56, &self.disk_guid.to_bytes_le());
        put(&mut header, 72, &entries.to_le_bytes());
        put(&mut header, 80, &self.slots.to_le_bytes());
        put(&mut header, 84, &MIN_ENTRY_BYTES.to_le_bytes());
        put(&mut header, 88, &sum.to_le_bytes());
        let own_sum = crc32fast::hash(&header[..MIN_HEADER_BYTES as usize]);
        put(&mut header, 16, &own_sum.to_le_bytes());
        debug_assert!(own < places.sectors);
        header
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// One partition over everything, as far as 32 bits reach.
fn protective(sectors: u64) -> Result<Vec<Write>, WriteError> {
    let all = PartitionEntry {
        number: 1,
        kind: KIND_GPT_PROTECTIVE,
        start_lba: 1,
        sectors: (sectors - 1).min(u64::from(u32::MAX)),
        bootable: false,
        ebr_lba: None,
    };
    let table = mbr::Table { signature: 0, entries: vec![all] };
    table.writes().map_err(|_| WriteError::NoRoom)
}
