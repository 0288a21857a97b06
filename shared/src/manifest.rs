//! The manifest: the ordered chunks of one revision, in pages under a signed root.
//!
//! ```text
//! Manifest (signed) ── Partition ── PageRef{hash} ──> Page ── Chunk{frame hash, data hash, runs}
//! ```
//!
//! An agent holds the root, one page at a time and a bitmap: a 2 TB image costs it no more memory
//! than a small one.

use crate::{codec, hash::Hash, id::Revision};
use serde::{Deserialize, Serialize};

/// A chunk covers this many bytes of the partition, or one block where blocks are larger.
pub const CHUNK_BYTES: u32 = 1 << 20;

/// Chunks on a full page.
pub const CHUNKS_PER_PAGE: usize = 1024;

/// Largest block size that any filesystem's image may have (partclone's own limit).
pub const MAX_BLOCK_BYTES: u32 = 64 << 20;

/// Most bytes that a compressed frame of one chunk may have: zstd's bound for incompressible data
/// is far below it.
pub const MAX_FRAME_BYTES: u32 = MAX_BLOCK_BYTES + (1 << 20);

/// Most bytes that an encoded page may have: 1024 chunks of at most 2 KiB runs each.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

/// Most bytes that an encoded root may have.
pub const MAX_ROOT_BYTES: usize = 8 << 20;

/// What stands for the filesystem of a tar archive. Its chunks are not ranges of a partition but frames of
/// members: each has one run of the archive's blocks, from the start of its range.
pub const ARCHIVE: &str = "tar";

/// What a tar archive is called where partitions have their names.
pub const ARCHIVE_NAME: &str = "system";

/// The root: everything about a revision but its chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`crate::version::MANIFEST`] of the writer.
    pub version: u16,
    /// Which revision this is.
    pub revision: Revision,
    /// When it was made, seconds since 1970-01-01 UTC.
    pub created_unix: i64,
    /// Where it came from, for people: `Clonezilla directory /srv/img/debian (sda, saved 2024-05-01)`.
    pub provenance: String,
    /// Its partitions, in the image's order.
    pub partitions: Vec<Partition>,
}

/// One imaged partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The name it had on its source, such as `sda1`.
    pub name: String,
    /// Kind of filesystem, as partclone's program suffix: `ext4`, `xfs`, `vfat` ...
    pub filesystem: String,
    /// File in the revision's directory that holds the frames.
    pub file: String,
    /// Size of a block in bytes.
    pub block_bytes: u32,
    /// Blocks of the filesystem.
    pub total_blocks: u64,
    /// Blocks in use.
    pub used_blocks: u64,
    /// Bytes that a target must have at least.
    pub device_bytes: u64,
    /// Blocks covered by one chunk.
    pub chunk_blocks: u32,
    /// How many chunks are listed on the pages.
    pub chunks: u32,
    /// Length of the first frame: partclone's header and bitmap.
    pub head_bytes: u32,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// The pages, each with [`CHUNKS_PER_PAGE`] chunks but the last.
    pub pages: Vec<PageRef>,
}

/// Where a page lies in the sidecar and what it must hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRef {
    /// Hash of the encoded page.
    pub hash: Hash,
    /// Offset in the revision's page file.
    pub offset: u64,
    /// Length of the encoded page in bytes.
    pub bytes: u32,
}

/// Some consecutive chunks of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// In ascending order of [`Chunk::index`].
    pub chunks: Vec<Chunk>,
}

/// The used blocks of one aligned range of the partition, compressed alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Number of the range: it starts at block `index * chunk_blocks`.
    pub index: u32,
    /// Used blocks within the range, ascending and not adjacent.
    pub runs: Vec<Run>,
    /// Offset of its frame in the partition's file.
    pub offset: u64,
    /// Length of its frame in bytes.
    pub frame_bytes: u32,
    /// Hash of the frame: checked before anything is decompressed.
    pub frame_hash: Hash,
    /// Hash of the decoded used blocks: checked before anything is written, and on read-back.
    pub data_hash: Hash,
    /// Whether all used blocks are zero: such a chunk is written without being sent.
    pub zero: bool,
}

/// Consecutive blocks, counted from the start of a chunk's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// First block.
    pub start: u32,
    /// How many; never 0.
    pub count: u32,
}

/// A manifest as it is stored and sent: the encoded root and the controller's signature over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedManifest {
    /// The encoded [`Manifest`].
    pub root: Vec<u8>,
    /// Ed25519 signature over `root`, 64 bytes.
    pub signature: Vec<u8>,
}

/// What is wrong with a manifest or a page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not a manifest or page.
    #[error("not readable as a manifest")]
    Encoding(#[source] codec::CodecError),
    /// Written by a version that this one does not know.
    #[error("manifest version {0} is newer than this program; upgrade it")]
    Version(u16),
    /// A page is not the one that the root names.
    #[error("page {page} of partition {partition} does not hash to {expected}")]
    PageHash {
        /// Partition name.
        partition: String,
        /// Page number.
        page: usize,
        /// What the root says.
        expected: Hash,
    },
    /// Numbers that contradict each other.
    #[error("manifest of partition {partition} is inconsistent: {what}")]
    Inconsistent {
        /// Partition name.
        partition: String,
        /// What is wrong.
        what: &'static str,
    },
}

impl Manifest {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads and checks the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self =
            codec::decode(bytes, MAX_ROOT_BYTES).map_err(ManifestError::Encoding)?;
        if manifest.version > crate::version::MANIFEST {
            return Err(ManifestError::Version(manifest.version));
        }
        for (position, partition) in manifest.partitions.iter().enumerate() {
            partition.check()?;
            if manifest.partitions[..position].iter().any(|other| other.name == partition.name) {
                return Err(partition.bad("a second partition has its name"));
            }
        }
        Ok(manifest)
    }

    /// The partition of this name.
    pub fn partition(&self, name: &str) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.name == name)
    }
}

impl Page {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }
}

impl Partition {
    /// Chunk length in blocks for a block size.
    pub fn chunk_blocks_for(block_bytes: u32) -> u32 {
        (CHUNK_BYTES / block_bytes.max(1)).max(1)
    }

    /// Bytes of used blocks, what a restore writes.
    pub fn used_bytes(&self) -> u64 {
        self.used_blocks.saturating_mul(u64::from(self.block_bytes))
    }

    /// Whether it is a tar archive, to be put into a fresh filesystem.
    pub fn is_archive(&self) -> bool {
        self.filesystem == ARCHIVE
    }

    /// First byte of a chunk's range on the partition.
    pub fn range_start(&self, chunk: &Chunk) -> u64 {
        u64::from(chunk.index) * u64::from(self.chunk_blocks) * u64::from(self.block_bytes)
    }

    /// Reads page `number` and checks it against the root: every chunk lies within the partition.
    pub fn decode_page(&self, number: usize, bytes: &[u8]) -> Result<Page, ManifestError> {
        let reference = self.pages.get(number).ok_or_else(|| self.bad("no such page"))?;
        if Hash::of(bytes) != reference.hash {
            return Err(ManifestError::PageHash {
                partition: self.name.clone(),
                page: number,
                expected: reference.hash,
            });
        }
        let page: Page = codec::decode(bytes, MAX_PAGE_BYTES).map_err(ManifestError::Encoding)?;
        self.check_page(number, &page)?;
        Ok(page)
    }

    fn bad(&self, what: &'static str) -> ManifestError {
        ManifestError::Inconsistent { partition: self.name.clone(), what }
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.block_bytes == 0 || self.block_bytes > MAX_BLOCK_BYTES {
            return Err(self.bad("block size out of range"));
        }
        if self.chunk_blocks != Self::chunk_blocks_for(self.block_bytes) {
            return Err(self.bad("chunk length does not follow from the block size"));
        }
        let bytes = self.total_blocks.checked_mul(u64::from(self.block_bytes));
        let is_too_small = |bytes| bytes > self.device_bytes && !self.is_archive();
        if bytes.is_none_or(is_too_small) {
            return Err(self.bad("more blocks than the device has room for"));
        }
        if self.used_blocks > self.total_blocks {
            return Err(self.bad("more used blocks than blocks"));
        }
        if self.total_blocks.div_ceil(u64::from(self.chunk_blocks)) > u64::from(u32::MAX) {
            return Err(self.bad("more chunks than can be counted"));
        }
        if (self.chunks as usize).div_ceil(CHUNKS_PER_PAGE) != self.pages.len() {
            return Err(self.bad("wrong number of pages"));
        }
        if self.pages.iter().any(|page| page.bytes as usize > MAX_PAGE_BYTES) {
            return Err(self.bad("page length out of range"));
        }
        if self.file.contains('/') || self.file.starts_with('.') || self.file.is_empty() {
            return Err(self.bad("file name leaves the directory"));
        }
        Ok(())
    }

    fn check_page(&self, number: usize, page: &Page) -> Result<(), ManifestError> {
        let before = number * CHUNKS_PER_PAGE;
        if page.chunks.len() != (self.chunks as usize - before).min(CHUNKS_PER_PAGE) {
            return Err(self.bad("wrong number of chunks on a page"));
        }
        if !page.chunks.is_sorted_by(|a, b| a.index < b.index) {
            return Err(self.bad("chunks out of order"));
        }
        page.chunks.iter().try_for_each(|chunk| self.check_chunk(chunk))
    }

    fn check_chunk(&self, chunk: &Chunk) -> Result<(), ManifestError> {
        if chunk.frame_bytes == 0 || chunk.frame_bytes > MAX_FRAME_BYTES {
            return Err(self.bad("frame length out of range"));
        }
        let end = chunk.offset.checked_add(u64::from(chunk.frame_bytes));
        if end.is_none_or(|end| end > self.file_bytes) {
            return Err(self.bad("frame beyond the end of its file"));
        }
        let first = u64::from(chunk.index) * u64::from(self.chunk_blocks);
        let mut free_from = 0;
        for (position, run) in chunk.runs.iter().enumerate() {
            let end = run.start.checked_add(run.count).filter(|end| *end <= self.chunk_blocks);
            let Some(end) = end else {
                return Err(self.bad("run beyond its chunk"));
            };
            if run.count == 0 || (position > 0 && run.start <= free_from) {
                return Err(self.bad("runs empty, adjacent or out of order"));
            }
            if first + u64::from(end) > self.total_blocks {
                return Err(self.bad("run beyond the filesystem"));
            }
            free_from = end;
        }
        if chunk.runs.is_empty() {
            return Err(self.bad("chunk without blocks"));
        }
        Ok(())
    }
}

impl Chunk {
    /// Used blocks in the chunk.
    pub fn blocks(&self) -> u32 {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// Bytes of the decoded chunk.
    pub fn data_bytes(&self, partition: &Partition) -> usize {
        self.blocks() as usize * partition.block_bytes as usize
    }

    /// Where the decoded bytes go: `(offset on the partition, length)` of each run, in the order in
    /// which they follow each other in the decoded chunk.
    pub fn extents<'c>(&'c self, partition: &Partition) -> impl Iterator<Item = (u64, usize)> + 'c {
        let block = u64::from(partition.block_bytes);
        let start = partition.range_start(self);
        self.runs.iter().map(move |run| {
            (start + u64::from(run.start) * block, run.count as usize * block as usize)
        })
    }
}

#[cfg(test)]
mod tests;
