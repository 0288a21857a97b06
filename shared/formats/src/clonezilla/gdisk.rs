//! `<disk>-gpt.gdisk`: a GPT as `sgdisk --backup` writes it.
//!
//! ```text
//! protective MBR (512) | primary header (512) | backup header (512) | entries
//! ```

use uuid::Uuid;

/// Longest file that is read: 512 entries, four times what sgdisk makes.
pub(super) const MAX_BYTES: u64 = 1536 + 512 * 128;

const HEADER_AT: usize = 512;
const ENTRIES_AT: usize = 1536;
const SIGNATURE: &[u8] = b"EFI PART";

/// Bytes of a header that its checksum covers, and where in it that is.
const HEADER_BYTES: usize = 92;
const SUM_AT: usize = 16;

/// Size of an entry.
const ENTRY_BYTES: usize = 128;

/// Numbers and types of the partitions; `None` if this is no whole GPT.
pub(super) fn partitions(file: &[u8]) -> Option<Vec<(u32, Uuid)>> {
    let header = file.get(HEADER_AT..HEADER_AT + HEADER_BYTES)?;
    let number = |at: usize| {
        let bytes = header[at..at + 4].try_into().expect("fields lie within the header");
        u32::from_le_bytes(bytes)
    };
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
    let entry = |(at, entry): (usize, &[u8])| {
        let kind = Uuid::from_bytes_le(entry[..16].try_into().expect("an entry has 128 bytes"));
        (!kind.is_nil()).then(|| Some((u32::try_from(at).ok()? + 1, kind)))
    };
    entries.chunks_exact(ENTRY_BYTES).enumerate().filter_map(entry).collect()
}
