//! What a deploy left in a slot or on a whole disk, and how what is there now compares with it.
//!
//! ```text
//! image's chunks ── a deploy adapts ──> AsLeft: the chunks that are not the image's any more
//!                                          │ later, read back by a task
//!                                          v
//!                     Comparison: as in the image │ as the deploy left it │ drift
//! ```
//!
//! Only used blocks count: what a filesystem counts as free may change at any time.

mod comparison;

pub use comparison::{Change, Comparison, MAX_PLACES, MAX_RANGES, MAX_TEXT, Place, Range, Ranges};

use crate::{
    codec::{self, CodecError},
    hash::Hash,
    manifest::{MAX_BLOCK_BYTES, Partition, Run},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};
use std::{fmt, marker::PhantomData};

/// Most bytes of an encoded [`AsLeft`]: of a filesystem of 150 GB that was made anew, in chunks of 1 MiB.
pub const MAX_AS_LEFT_BYTES: u32 = 8 << 20;

/// Most blocks of which an [`AsLeft`] has a print: half a GiB in blocks of 4 KiB. Of chunks beyond that it
/// is only known that something in them changed.
pub const MAX_PRINTS: usize = 1 << 17;

/// Most partitions in an [`AsLeft`].
pub const MAX_LEFT_PARTITIONS: usize = 256;

/// Most areas outside of partitions in an [`AsLeft`]: 32 MiB of them.
pub const MAX_AREAS: usize = 8192;

/// Most bytes of such an area, so that what changed is named as finely.
pub const MAX_AREA_BYTES: u32 = 4096;

/// What a deploy left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsLeft {
    /// What lies outside of the partitions of a whole disk, its tables and boot code, in ascending order. Nothing for
    /// a slot.
    #[serde(deserialize_with = "at_most::<_, _, MAX_AREAS>")]
    pub areas: Vec<Area>,
    /// A slot, or the partitions of a whole disk, in ascending order of their number.
    #[serde(deserialize_with = "at_most::<_, _, MAX_LEFT_PARTITIONS>")]
    pub partitions: Vec<LeftPartition>,
}

/// Bytes of a disk that are no partition's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// The first, from the start of the disk.
    pub start: u64,
    /// How many.
    pub bytes: u32,
    /// Their hash.
    pub hash: Hash,
}

/// What a deploy left in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftPartition {
    /// Its number on the disk.
    pub number: u16,
    /// The image's partition that was put there.
    pub partition: String,
    /// Its first byte, from the start of the disk.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its used blocks, if that is known: otherwise all that is not the image's counts as drift.
    pub blocks: Option<LeftBlocks>,
}

/// The used blocks of a partition, as far as they are not what the image has there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftBlocks {
    /// Size of a block in bytes.
    pub block_bytes: u32,
    /// Blocks of the filesystem.
    pub total_blocks: u64,
    /// Whether nothing of it is the image's: the filesystem was made anew. All used chunks are listed then.
    pub is_new: bool,
    /// In ascending order of their index.
    pub chunks: Vec<LeftChunk>,
}

/// The used blocks of one aligned range, as a deploy left them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftChunk {
    /// As [`crate::manifest::Chunk::index`].
    pub index: u32,
    /// Used blocks within the range, ascending and not adjacent; none if the range has become free.
    pub runs: Vec<Run>,
    /// Hash of them, one behind the other.
    pub hash: Hash,
    /// The [`print()`] of each of them, or nothing.
    pub prints: Vec<u64>,
}

/// The first 64 bits of a block's hash: tells whether it changed by itself, not by malice, of which the
/// hash of its chunk tells.
pub fn print(block: &[u8]) -> u64 {
    let Hash(bytes) = Hash::of(block);
    u64::from_le_bytes(bytes[..8].try_into().expect("a hash has 32 bytes"))
}

/// What is wrong with a record of what a deploy left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AsLeftError {
    /// The bytes are none.
    #[error("not readable as what a deploy left")]
    Encoding(#[source] CodecError),
    /// It contradicts itself.
    #[error("what a deploy left is inconsistent: {0}")]
    Inconsistent(&'static str),
}

impl AsLeft {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads and checks the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, AsLeftError> {
        let left: Self =
            codec::decode(bytes, MAX_AS_LEFT_BYTES as usize).map_err(AsLeftError::Encoding)?;
        left.check().map_err(AsLeftError::Inconsistent)?;
        Ok(left)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.areas.iter().any(|area| area.bytes > MAX_AREA_BYTES) {
            return Err("an area that is too long");
        }
        let areas = self.areas.iter().map(|area| (area.start, area.bytes.into()));
        are_apart(areas).ok_or("areas that meet, or that no disk has")?;
        if !self.partitions.is_sorted_by(|a, b| a.number < b.number) {
            return Err("partitions out of order");
        }
        let mut places: Vec<(u64, u64)> =
            self.partitions.iter().map(|one| (one.start, one.bytes)).collect();
        places.sort_unstable();
        are_apart(places.into_iter()).ok_or("partitions that meet, or that no disk has")?;
        let mut names: Vec<&str> = self.partitions.iter().map(|one| &*one.partition).collect();
        names.sort_unstable();
        if !names.is_sorted_by(|a, b| a < b) {
            return Err("two partitions of one name");
        }
        self.partitions.iter().try_for_each(|one| match &one.blocks {
            Some(blocks) if !blocks.fits(one.bytes) => Err("blocks beyond their partition"),
            Some(blocks) => blocks.check(),
            None => Ok(()),
        })
    }
}

/// Whether ranges (first byte and length) follow each other.
fn are_apart(ranges: impl Iterator<Item = (u64, u64)>) -> Option<()> {
    let mut free_from = 0;
    for (start, bytes) in ranges {
        if start < free_from {
            return None;
        }
        free_from = start.checked_add(bytes)?;
    }
    Some(())
}

/// A list of at most `N`: an agent's message cannot make more of it.
fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>, const N: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Few<T, const N: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Few<T, N> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {N} of them")
        }

        fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Vec<T>, S::Error> {
            let mut few = Vec::new();
            while let Some(one) = list.next_element()? {
                if few.len() == N {
                    return Err(S::Error::custom(format_args!("more than {N} of them")));
                }
                few.push(one);
            }
            Ok(few)
        }
    }

    deserializer.deserialize_seq(Few::<T, N>(PhantomData))
}

impl LeftBlocks {
    /// Blocks that a chunk covers.
    pub fn chunk_blocks(&self) -> u32 {
        Partition::chunk_blocks_for(self.block_bytes)
    }

    /// The chunk with this index.
    pub fn chunk(&self, index: u32) -> Option<&LeftChunk> {
        let at = self.chunks.binary_search_by_key(&index, |chunk| chunk.index).ok()?;
        self.chunks.get(at)
    }

    fn fits(&self, bytes: u64) -> bool {
        let end = self.total_blocks.checked_mul(self.block_bytes.into());
        end.is_some_and(|end| end <= bytes)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.block_bytes == 0 || self.block_bytes > MAX_BLOCK_BYTES {
            return Err("block size out of range");
        }
        let chunks = self.total_blocks.div_ceil(self.chunk_blocks().into());
        if chunks > u64::from(u32::MAX) {
            return Err("more chunks than can be counted");
        }
        if !self.chunks.is_sorted_by(|a, b| a.index < b.index) {
            return Err("chunks out of order");
        }
        self.chunks.iter().try_for_each(|chunk| self.check_chunk(chunk))
    }

    fn check_chunk(&self, chunk: &LeftChunk) -> Result<(), &'static str> {
        let first = u64::from(chunk.index) * u64::from(self.chunk_blocks());
        let (mut free_from, mut blocks) = (None, 0);
        for run in &chunk.runs {
            let end = run.start.checked_add(run.count).filter(|end| *end <= self.chunk_blocks());
            let end = end.ok_or("run beyond its chunk")?;
            if run.count == 0 || free_from.is_some_and(|from| run.start <= from) {
                return Err("runs empty, adjacent or out of order");
            }
            if first + u64::from(end) > self.total_blocks && !chunk.runs.is_empty() {
                return Err("run beyond the filesystem");
            }
            blocks += run.count as usize;
            free_from = Some(end);
        }
        if !chunk.prints.is_empty() && chunk.prints.len() != blocks {
            return Err("not one print for each block");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
