//! `<disk>-gpt.gdisk`: a GPT as `sgdisk --backup` writes it.
//!
//! ```text
//! protective MBR (512) | primary header (512) | backup header (512) | entries
//! ```

use crate::{
    bytes::{le_u32, le_u64},
    gpt::{self, Table},
};

/// Longest file that is read: 512 entries, four times what sgdisk makes.
pub(super) const MAX_BYTES: u64 = 1536 + 512 * 128;

const HEADER_AT: usize = 512;
const ENTRIES_AT: usize = 1536;
const SIGNATURE: &[u8] = b"EFI PART";

/// Bytes of a header that its checksum covers, and where in it that is.
const HEADER_BYTES: usize = 92;
const SUM_AT: usize = 16;

/// What is said of a file that is not one.
pub(super) const NOT_WHOLE: &str = "is not a whole backup of a GPT by sgdisk";

/// Size of an entry.
const ENTRY_BYTES: usize = 128;

/// The table; `None` if this is no whole GPT.
pub(super) fn table(file: &[u8]) -> Option<Table> {
    let header = file.get(HEADER_AT..HEADER_AT + HEADER_BYTES)?;
    let number = |at: usize| le_u32(header, at);
    let mut summed = header.to_vec();
    summed[SUM_AT..SUM_AT + 4].fill(0);
    let is_whole = header.starts_with(SIGNATURE)
        && number(12) as usize == HEADER_BYTES
        && number(SUM_AT) == crc32fast::hash(&summed)
        && number(84) as usize == ENTRY_BYTES;
    let bytes = (number(80) as usize).checked_mul(ENTRY_BYTES).filter(|_| is_whole)?;
    let entries = file.get(ENTRIES_AT..)?.get(..bytes)?;
    if number(88) != crc32fast::hash(entries) {
        return None;
    }
    let rows = (1..=u16::MAX).zip(entries.chunks_exact(ENTRY_BYTES));
    Some(Table {
        disk_guid: gpt::guid(&header[56..72]),
        first_lba: le_u64(header, 40),
        last_lba: le_u64(header, 48),
        slots: number(80),
        entries: rows.filter_map(|(number, row)| gpt::entry(number, row)).collect(),
    })
}
