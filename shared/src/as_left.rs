//! What a deploy left in a slot, and how what is there now compares with it.
//!
//! ```text
//! image's chunks ── a deploy adapts ──> AsLeft: the chunks that are not the image's any more
//!                                          │ later, read back by a task
//!                                          v
//!                     Comparison: as in the image │ as the deploy left it │ drift
//! ```
//!
//! Only used blocks count: what a filesystem counts as free may change at any time.

use crate::{
    codec::{self, CodecError},
    hash::Hash,
    manifest::{MAX_BLOCK_BYTES, Partition, Run},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most bytes of an encoded [`AsLeft`]: of a filesystem of 150 GB that was made anew, in chunks of 1 MiB.
pub const MAX_AS_LEFT_BYTES: u32 = 8 << 20;

/// Most blocks of which an [`AsLeft`] has a print: half a GiB in blocks of 4 KiB. Of chunks beyond that it
/// is only known that something in them changed.
pub const MAX_PRINTS: usize = 1 << 17;

/// Ranges of each kind that a [`Comparison`] names; more are only counted.
pub const MAX_RANGES: usize = 64;

/// Kinds of places that a [`Comparison`] tells apart, and remarks that it makes.
pub const MAX_PLACES: usize = 16;

/// Most characters of a text in a [`Comparison`].
pub const MAX_TEXT: usize = 400;

/// What a deploy left in a slot, as far as it is not what the image has there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsLeft {
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

    /// Blocks that a chunk covers.
    pub fn chunk_blocks(&self) -> u32 {
        Partition::chunk_blocks_for(self.block_bytes)
    }

    /// The chunk with this index.
    pub fn chunk(&self, index: u32) -> Option<&LeftChunk> {
        let at = self.chunks.binary_search_by_key(&index, |chunk| chunk.index).ok()?;
        self.chunks.get(at)
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

/// How what is in a slot compares with what a deploy left there. All sizes are of used blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Whether it was known what the deploy left; otherwise all that is not the image's is drift.
    pub has_as_left: bool,
    /// Bytes that are the image's.
    pub image_bytes: u64,
    /// Bytes that are as the deploy left them, but not the image's: its fix-ups, a filesystem that it made or
    /// that grew.
    pub left: Ranges,
    /// Bytes that are neither.
    pub drift: Ranges,
    /// What the drift lies in, largest first.
    pub places: Vec<Place>,
    /// What else is to be known of the comparison, a line each.
    pub remarks: Vec<String>,
}

/// Ranges of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// Bytes in all of them.
    pub bytes: u64,
    /// How many there are.
    pub count: u64,
    /// The first of them, at most [`MAX_RANGES`].
    pub first: Vec<Range>,
}

/// A range of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Its first byte, from the start of the partition.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
    /// What became of it.
    pub change: Change,
    /// What lives there.
    pub place: String,
}

/// What became of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Its content is another.
    Changed,
    /// It was free and is in use now.
    New,
    /// It was in use and is free now.
    Freed,
}

/// Something that lives on a partition, and how much of it is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What.
    pub what: String,
    /// How much.
    pub bytes: u64,
}

impl Comparison {
    /// Whether there is drift.
    pub fn has_drift(&self) -> bool {
        self.drift.count > 0
    }

    /// Cuts what is longer than it may be: for what came over the network.
    pub fn bounded(mut self) -> Self {
        for ranges in [&mut self.left, &mut self.drift] {
            ranges.first.truncate(MAX_RANGES);
            ranges.first.iter_mut().for_each(|range| cut(&mut range.place));
        }
        self.places.truncate(MAX_PLACES);
        self.places.iter_mut().for_each(|place| cut(&mut place.what));
        self.remarks.truncate(MAX_PLACES);
        self.remarks.iter_mut().for_each(cut);
        self
    }
}

/// Shortens a text, and takes out what would do more on a terminal than be read.
fn cut(text: &mut String) {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        *text = text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::New => "new",
            Self::Freed => "freed",
        })
    }
}

impl fmt::Display for Range {
    /// `bytes 4096..8192: changed, directories and files`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.start.saturating_add(self.bytes);
        write!(f, "bytes {}..{end}: {}, {}", self.start, self.change, self.place)
    }
}

impl fmt::Display for Comparison {
    /// In one line: `as it was left: 30000 bytes of the image, 4096 of the deploy`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.drift.count, self.has_as_left) {
            (0, true) => f.write_str("as the deploy left it")?,
            (0, false) => f.write_str("as in the image")?,
            (count, _) => {
                let s = if count == 1 { "" } else { "s" };
                write!(f, "drift: {} bytes in {count} range{s}", self.drift.bytes)?;
            }
        }
        write!(f, "; {} bytes of the image, {} of the deploy", self.image_bytes, self.left.bytes)
    }
}

#[cfg(test)]
mod tests;
