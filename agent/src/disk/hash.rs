//! Hashing what is on a disk without holding it in memory.

use super::{MIB, Window};
use metalcast_shared::hash::Hash;

/// Most bytes read at once.
const PIECE_BYTES: usize = MIB as usize;

/// Gaps up to this are read over: one longer read beats two short ones.
const GAP_BYTES: u64 = 64 << 10;

pub(super) fn of_extents(
    window: &Window<'_>,
    extents: impl Iterator<Item = (u64, usize)>,
) -> anyhow::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut pieces = extents.flat_map(pieces_of).peekable();
    while let Some(first) = pieces.next() {
        let mut group = vec![first];
        let mut end = first.0 + first.1 as u64;
        while let Some(next) = pieces.next_if(|(offset, length)| {
            *offset >= end
                && offset - end <= GAP_BYTES
                && offset + *length as u64 - first.0 <= PIECE_BYTES as u64
        }) {
            end = next.0 + next.1 as u64;
            group.push(next);
        }
        window.read_with(first.0, (end - first.0) as usize, |read| {
            for (offset, length) in group {
                let at = (offset - first.0) as usize;
                hasher.update(&read[at..at + length]);
            }
        })?;
    }
    Ok(Hash(*hasher.finalize().as_bytes()))
}

fn pieces_of((offset, length): (u64, usize)) -> impl Iterator<Item = (u64, usize)> {
    (0..length)
        .step_by(PIECE_BYTES)
        .map(move |done| (offset + done as u64, (length - done).min(PIECE_BYTES)))
}
