//! Chunks: which bytes of the device the addresses of a filesystem stand for.

use super::{CHUNK_ITEM, Superblock};
use crate::{
    bytes::{le_u16, le_u64},
    used::{Disk, UsedError},
};
use std::{
    collections::BTreeMap,
    io::{Read, Seek},
};

/// A key before an item in the superblock's array.
const KEY_BYTES: usize = 17;
const HEAD_BYTES: usize = 48;
const STRIPE_BYTES: usize = 32;
/// RAID0, RAID10, RAID5, RAID6: a chunk's stripes are parts of it, not copies.
const STRIPED: u64 = 0x8 | 0x40 | 0x80 | 0x100;
/// Most copies that a profile keeps.
const MAX_COPIES: usize = 4;
/// Chunks have at least some MiB, usually a GiB: this is for a hundred TB, in some ten MB.
const MAX_CHUNKS: usize = 1 << 17;

/// All chunks by their first address.
#[derive(Clone, Default)]
pub(super) struct Chunks(BTreeMap<u64, Chunk>);

#[derive(Clone)]
struct Chunk {
    bytes: u64,
    /// First bytes of its copies on the device.
    copies: Vec<u64>,
}

impl Chunks {
    /// Those that the superblock itself lists, so that the others can be found.
    pub(super) fn of_system<D: Read + Seek>(
        superblock: &Superblock,
        disk: &Disk<'_, D>,
    ) -> Result<Self, UsedError> {
        let mut chunks = Self::default();
        let mut rest = &superblock.system_chunks[..];
        while rest.len() > KEY_BYTES {
            let (key, item) = rest.split_at(KEY_BYTES);
            let bytes = HEAD_BYTES + STRIPE_BYTES * stripes(item);
            if key[8] != CHUNK_ITEM || bytes > item.len() {
                return Err(disk.damaged("the superblock's list of chunks cannot be"));
            }
            chunks
                .add(le_u64(key, 9), &item[..bytes], superblock.device)
                .map_err(|what| disk.damaged(what))?;
            rest = &item[bytes..];
        }
        Ok(chunks)
    }

    /// Takes an item of the chunk tree.
    pub(super) fn add(&mut self, logical: u64, item: &[u8], device: u64) -> Result<(), String> {
        let count = stripes(item);
        if item.len() < HEAD_BYTES + STRIPE_BYTES * count || count == 0 {
            return Err(format!("the chunk at address {logical} is cut off"));
        }
        let (bytes, profile) = (le_u64(item, 0), le_u64(item, 24));
        let stripes = item[HEAD_BYTES..].chunks_exact(STRIPE_BYTES).take(count);
        let copies: Vec<u64> = stripes
            .filter(|stripe| le_u64(stripe, 0) == device)
            .map(|stripe| le_u64(stripe, 8))
            .take(MAX_COPIES + 1)
            .collect();
        let is_copied = profile & STRIPED == 0 || count == 1;
        if !is_copied || copies.is_empty() || copies.len() > MAX_COPIES {
            return Err(format!("the chunk at address {logical} is not all on this device"));
        }
        let overlaps = self.0.range(..=logical).next_back().is_some_and(|(start, chunk)| {
            start.checked_add(chunk.bytes).is_none_or(|end| end > logical)
        });
        if overlaps || self.0.len() == MAX_CHUNKS {
            return Err(format!(
                "the chunk at address {logical} overlaps another, or is one too many"
            ));
        }
        self.0.insert(logical, Chunk { bytes, copies });
        Ok(())
    }

    /// The places on the device of some bytes that lie within one chunk.
    pub(super) fn each_copy(
        &self,
        logical: u64,
        bytes: u64,
        mut take: impl FnMut(u64, u64),
    ) -> Result<(), String> {
        let outside = || format!("{bytes} bytes at address {logical} are in no chunk");
        let (start, chunk) = self.0.range(..=logical).next_back().ok_or_else(outside)?;
        let within = logical - start;
        if within.checked_add(bytes).is_none_or(|end| end > chunk.bytes) {
            return Err(outside());
        }
        for copy in &chunk.copies {
            take(copy.checked_add(within).ok_or_else(outside)?, bytes);
        }
        Ok(())
    }
}

/// Number of stripes of a chunk item.
fn stripes(item: &[u8]) -> usize {
    if item.len() < HEAD_BYTES { 0 } else { usize::from(le_u16(item, 44)) }
}
