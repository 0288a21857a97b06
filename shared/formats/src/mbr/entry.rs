//! The 16 bytes of one entry, as they stand in an MBR or EBR.

use super::{HEADS, PartitionEntry, SECTORS_PER_TRACK};

const TABLE_OFFSET: usize = 0x1be;
const CYLINDERS: u64 = 1024;

/// An entry with its start still relative to whatever record it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawEntry {
    pub flag: u8,
    pub kind: u8,
    pub start: u32,
    pub sectors: u32,
}

/// The four entries of a record, or none where it has no 55AA.
pub(super) fn raw_entries(sector: &[u8; 512]) -> Option<[RawEntry; 4]> {
    (sector[510..] == [0x55, 0xaa]).then(|| {
        std::array::from_fn(|index| {
            let at = TABLE_OFFSET + index * 16;
            let word = |from: usize| {
                u32::from_le_bytes([
                    sector[from],
                    sector[from + 1],
                    sector[from + 2],
                    sector[from + 3],
                ])
            };
            RawEntry {
                flag: sector[at],
                kind: sector[at + 4],
                start: word(at + 8),
                sectors: word(at + 12),
            }
        })
    })
}

impl RawEntry {
    /// Linux takes an entry without length for empty, whatever its type; one of type 0 likewise.
    pub fn is_used(&self) -> bool {
        self.sectors != 0 && self.kind != 0
    }

    /// The partition this describes, seen from the record at `base_lba`.
    pub fn at(&self, number: u16, base_lba: u64, ebr_lba: Option<u64>) -> PartitionEntry {
        PartitionEntry {
            number,
            kind: self.kind,
            start_lba: base_lba + u64::from(self.start),
            sectors: u64::from(self.sectors),
            bootable: self.flag == 0x80,
            ebr_lba,
        }
    }

    /// The entry for a partition, relative to `base_lba`; none where 32 bits do not suffice.
    pub fn of(entry: &PartitionEntry, base_lba: u64) -> Option<Self> {
        Some(Self {
            flag: if entry.bootable { 0x80 } else { 0 },
            kind: entry.kind,
            start: u32::try_from(entry.start_lba.checked_sub(base_lba)?).ok()?,
            sectors: u32::try_from(entry.sectors).ok()?,
        })
    }

    /// Writes it into a record as entry `index` (from 0). `start_lba` is absolute: CHS always is.
    pub fn put(&self, sector: &mut [u8; 512], index: usize, start_lba: u64) {
        let at = TABLE_OFFSET + index * 16;
        sector[at] = self.flag;
        sector[at + 1..at + 4].copy_from_slice(&chs(start_lba));
        sector[at + 4] = self.kind;
        sector[at + 5..at + 8].copy_from_slice(&chs(start_lba + u64::from(self.sectors) - 1));
        sector[at + 8..at + 12].copy_from_slice(&self.start.to_le_bytes());
        sector[at + 12..at + 16].copy_from_slice(&self.sectors.to_le_bytes());
    }
}

/// Cylinder, head and sector of an address, or the highest there is where it is out of reach.
fn chs(lba: u64) -> [u8; 3] {
    let (heads, track) = (u64::from(HEADS), u64::from(SECTORS_PER_TRACK));
    let cylinder = lba / (heads * track);
    let (cylinder, head, sector) = if cylinder < CYLINDERS {
        (cylinder, lba / track % heads, lba % track + 1)
    } else {
        (CYLINDERS - 1, heads - 1, track)
    };
    [head as u8, (sector as u8) | ((cylinder >> 2) as u8 & 0xc0), (cylinder & 0xff) as u8]
}
