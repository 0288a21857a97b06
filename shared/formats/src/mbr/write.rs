//! Writing: a table that contradicts itself is refused, any other becomes a list of writes.

use super::entry::RawEntry;
use super::{
    FIRST_LOGICAL, KIND_EXTENDED, MAX_LOGICALS, PartitionEntry, SIGNATURE_OFFSET, Table, Write,
};
use crate::layout::SECTOR_BYTES;
use std::ops::Range;

/// Why a table cannot be written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Numbers are not 1..=4 for primaries and 5, 6, 7 ... for logicals, each once and in order.
    #[error("partition number {number} is out of order")]
    Number {
        /// The number.
        number: u16,
    },
    /// Start or length is zero or does not fit into 32 bits of sectors (2 TiB).
    #[error("partition {number} does not fit into an MBR entry")]
    Range {
        /// Its number.
        number: u16,
    },
    /// It shares sectors with another one.
    #[error("partitions {first} and {second} overlap")]
    Overlap {
        /// One.
        first: u16,
        /// The other.
        second: u16,
    },
    /// A logical without extended partition, with its EBR outside of it or not in front of it, or the
    /// first EBR not at the extended partition's first sector, or a primary with an EBR.
    #[error("partition {number} has no valid extended boot record")]
    Ebr {
        /// Its number.
        number: u16,
    },
    /// More than [`MAX_LOGICALS`].
    #[error("more than {MAX_LOGICALS} logical partitions")]
    TooMany,
}

impl Table {
    /// What has to be written for this table: all EBRs, then signature and table of sector 0, so that
    /// a partition appears only when all that describes it is there.
    pub fn writes(&self) -> Result<Vec<Write>, WriteError> {
        self.check()?;
        let logicals: Vec<&PartitionEntry> =
            self.entries.iter().filter(|entry| entry.number >= FIRST_LOGICAL).collect();
        let extended = self.entries.iter().find(|entry| entry.is_extended());
        let mut writes = Vec::with_capacity(logicals.len() + 1);
        if let Some(extended) = extended {
            writes = ebr_writes(extended, &logicals)?;
        }
        let mut sector = [0u8; 512];
        sector[SIGNATURE_OFFSET..SIGNATURE_OFFSET + 4]
            .copy_from_slice(&self.signature.to_le_bytes());
        for entry in self.entries.iter().filter(|entry| entry.number < FIRST_LOGICAL) {
            let raw = RawEntry::of(entry, 0).ok_or(WriteError::Range { number: entry.number })?;
            raw.put(&mut sector, usize::from(entry.number - 1), entry.start_lba);
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        writes.push(Write {
            byte_offset: SIGNATURE_OFFSET as u64,
            bytes: sector[SIGNATURE_OFFSET..].to_vec(),
        });
        Ok(writes)
    }

    fn check(&self) -> Result<(), WriteError> {
        let mut last = 0u16;
        let extended = self.entries.iter().find(|entry| entry.is_extended());
        for entry in &self.entries {
            let number = entry.number;
            if number <= last || (number > FIRST_LOGICAL && number != last + 1) {
                return Err(WriteError::Number { number });
            }
            if usize::from(number) >= usize::from(FIRST_LOGICAL) + MAX_LOGICALS {
                return Err(WriteError::TooMany);
            }
            last = number;
            let fits = |value: u64| value != 0 && u32::try_from(value).is_ok();
            if !fits(entry.start_lba) || !fits(entry.sectors) || entry.kind == 0 {
                return Err(WriteError::Range { number });
            }
            let ebr_is_right = match (entry.ebr_lba, extended) {
                (None, _) => number < FIRST_LOGICAL,
                (Some(ebr), Some(extended)) => {
                    let at_head = ebr == extended.start_lba || number != FIRST_LOGICAL;
                    number >= FIRST_LOGICAL
                        && !entry.is_extended()
                        && at_head
                        && ebr >= extended.start_lba
                        && ebr < entry.start_lba
                        && entry.end_lba() <= extended.end_lba()
                }
                (Some(_), None) => false,
            };
            if !ebr_is_right {
                return Err(WriteError::Ebr { number });
            }
        }
        self.check_overlap()
    }

    fn check_overlap(&self) -> Result<(), WriteError> {
        for (index, first) in self.entries.iter().enumerate() {
            for second in &self.entries[index + 1..] {
                if first.collides_with(second) {
                    return Err(WriteError::Overlap { first: first.number, second: second.number });
                }
            }
        }
        Ok(())
    }
}

impl PartitionEntry {
    /// Whether both claim a sector. The extended partition is a frame for the logicals and their EBRs,
    /// but a wall for the other primaries.
    fn collides_with(&self, other: &Self) -> bool {
        let frames = |outer: &Self, inner: &Self| outer.is_extended() && inner.ebr_lba.is_some();
        if frames(self, other) || frames(other, self) {
            return false;
        }
        let claims = |entry: &Self| {
            let ebr = entry.ebr_lba.map_or(0..0, |ebr| ebr..ebr + 1);
            [entry.start_lba..entry.end_lba(), ebr]
        };
        let theirs = claims(other);
        let meets = |mine: &Range<u64>| {
            theirs.iter().any(|theirs| mine.start < theirs.end && theirs.start < mine.end)
        };
        claims(self).iter().any(meets)
    }
}

fn ebr_writes(
    extended: &PartitionEntry,
    logicals: &[&PartitionEntry],
) -> Result<Vec<Write>, WriteError> {
    let mut writes = Vec::with_capacity(logicals.len().max(1));
    for (index, entry) in logicals.iter().enumerate() {
        let number = entry.number;
        let ebr_lba = entry.ebr_lba.ok_or(WriteError::Ebr { number })?;
        let mut sector = [0u8; 512];
        let data = RawEntry::of(entry, ebr_lba).ok_or(WriteError::Range { number })?;
        data.put(&mut sector, 0, entry.start_lba);
        if let Some(next) = logicals.get(index + 1) {
            let next_ebr = next.ebr_lba.ok_or(WriteError::Ebr { number: next.number })?;
            let link = PartitionEntry {
                number: next.number,
                kind: KIND_EXTENDED,
                start_lba: next_ebr,
                sectors: next.end_lba() - next_ebr,
                bootable: false,
                ebr_lba: None,
            };
            let link_raw = RawEntry::of(&link, extended.start_lba)
                .ok_or(WriteError::Range { number: next.number })?;
            link_raw.put(&mut sector, 1, next_ebr);
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        writes.push(Write { byte_offset: ebr_lba * SECTOR_BYTES, bytes: sector.to_vec() });
    }
    if logicals.is_empty() {
        // An empty record, so that what an earlier table left there is not read as a chain.
        let mut sector = vec![0u8; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        writes.push(Write { byte_offset: extended.start_lba * SECTOR_BYTES, bytes: sector });
    }
    Ok(writes)
}
