//! Chunks: the used blocks of one aligned range of a partition, compressed alone.
//!
//! ```text
//! partclone Reader ──Chunks──────┐
//! disk, UsedMap ──DiskChunks─────┤
//! bytes of a dd ──RawChunks──────┴> PlainChunk ──Sealer──> one zstd frame + its manifest entry
//!                                                          frame ──Opener──> the used blocks again
//! ```
//!
//! A frame carries its content size and zstd's own checksum, so that `zstd -d` over all frames of a
//! file verifies them too. Where frames lie and how they travel is not this module's business.

mod disk;
mod ranges;
mod raw;
mod seal;

pub use disk::{DiskChunks, UnreadableRange};
pub use ranges::{CutError, Ranges};
pub use raw::{RAW_BLOCK_BYTES, RawChunks};
pub use seal::{archive_sealer, sealer, write_head_frame};

use crate::partclone::{ReadError, Reader};
use metalcast_shared::{
    hash::Hash,
    manifest::{CHUNK_BYTES, Chunk, MAX_BLOCK_BYTES, MAX_FRAME_BYTES, Partition, Run},
};
use std::io::{self, Read};
use zstd::zstd_safe::CParameter;

/// Smallest block that is chunked: below it (no filesystem has such blocks) the runs of a page of
/// chunks could outgrow [`metalcast_shared::manifest::MAX_PAGE_BYTES`].
pub const MIN_BLOCK_BYTES: u32 = 512;

/// The used blocks of one range, uncompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainChunk {
    /// Number of the range.
    pub index: u32,
    /// Which of its blocks are used: ascending, not adjacent, never empty.
    pub runs: Vec<Run>,
    /// The used blocks, one after the other.
    pub data: Vec<u8>,
}

/// Cuts a partclone image into chunks, in ascending order; ranges without used blocks are left out.
pub struct Chunks<R> {
    reader: Reader<R>,
    ranges: Ranges,
}

/// A chunk ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// One zstd frame.
    pub frame: Vec<u8>,
    /// Its manifest entry; the offset is 0 until someone stores it.
    pub chunk: Chunk,
}

/// Compresses chunks; its memory is kept from one to the next.
pub struct Sealer {
    compressor: zstd::bulk::Compressor<'static>,
}

/// Takes chunks out of frames; its memory is kept from one to the next.
#[derive(Default)]
pub struct Opener {
    decompressor: zstd::bulk::Decompressor<'static>,
    data: Vec<u8>,
}

/// Why a frame does not give its chunk.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// Length or BLAKE3 hash of the frame are not the manifest's.
    #[error(
        "chunk {index}: the frame is not the one in the manifest (wanted {expected}, got {got})"
    )]
    Frame {
        /// Number of the chunk.
        index: u32,
        /// What the manifest says.
        expected: Hash,
        /// What came.
        got: Hash,
    },
    /// The manifest's entry describes more than a chunk can hold.
    #[error("chunk {index}: its manifest entry describes more than a chunk can hold")]
    Entry {
        /// Number of the chunk.
        index: u32,
    },
    /// The frame cannot be decompressed within the bytes that the manifest promises.
    #[error("chunk {index}: the frame does not decompress")]
    Decompress {
        /// Number of the chunk.
        index: u32,
        /// zstd's reason.
        source: io::Error,
    },
    /// Length or BLAKE3 hash of the decoded blocks are not the manifest's.
    #[error(
        "chunk {index}: the decoded blocks are not those in the manifest (wanted {expected}, got {got})"
    )]
    Data {
        /// Number of the chunk.
        index: u32,
        /// What the manifest says.
        expected: Hash,
        /// What came.
        got: Hash,
    },
}

impl<R: Read> Chunks<R> {
    /// Starts with the first range. Refused are blocks smaller than [`MIN_BLOCK_BYTES`] and more
    /// ranges than a manifest can number.
    pub fn new(reader: Reader<R>) -> Result<Self, ReadError> {
        let (block_bytes, blocks) = (reader.header().block_bytes, reader.header().total_blocks);
        match Ranges::new(block_bytes, blocks) {
            Ok(ranges) => Ok(Self { reader, ranges }),
            Err(error) => Err(ReadError::Unsupported { offset: 0, what: error.to_string() }),
        }
    }

    /// The image being cut.
    pub fn reader(&self) -> &Reader<R> {
        &self.reader
    }

    /// Blocks in a range.
    pub fn chunk_blocks(&self) -> u32 {
        self.ranges.chunk_blocks
    }

    /// The next range that has used blocks. Memory: its used blocks, at most 1 MiB or one block.
    pub fn next_chunk(&mut self) -> Result<Option<PlainChunk>, ReadError> {
        let Some((index, runs)) = self.ranges.next(self.reader.bitmap()) else { return Ok(None) };
        let blocks = runs.iter().map(|run| run.count).sum();
        let mut data = Vec::new();
        let bytes = blocks as usize * self.reader.header().block_bytes as usize;
        if bytes <= CHUNK_BYTES as usize {
            data.reserve_exact(bytes);
        }
        self.reader.read_blocks(blocks, &mut data)?;
        Ok(Some(PlainChunk { index, runs, data }))
    }

    /// After the last chunk: verifies that the image ends here.
    pub fn finish(self) -> Result<(), ReadError> {
        self.reader.finish()
    }
}

impl Sealer {
    /// Compresses with this zstd level.
    pub fn new(level: i32) -> io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
        Ok(Self { compressor })
    }

    /// Compresses a chunk into a frame and describes both.
    pub fn seal(&mut self, plain: PlainChunk) -> io::Result<Sealed> {
        let frame = self.compressor.compress(&plain.data)?;
        let chunk = Chunk {
            index: plain.index,
            runs: plain.runs,
            offset: 0,
            frame_bytes: frame_bytes(&frame)?,
            frame_hash: Hash::of(&frame),
            data_hash: Hash::of(&plain.data),
            zero: plain.data.iter().all(|byte| *byte == 0),
        };
        Ok(Sealed { frame, chunk })
    }
}

impl Opener {
    /// The used blocks of a chunk from its frame. The frame's hash is checked before anything is
    /// decompressed, the blocks' hash before anything is returned. Memory: what manifests promised,
    /// at most 1 MiB or one block.
    pub fn open(
        &mut self,
        frame: &[u8],
        chunk: &Chunk,
        partition: &Partition,
    ) -> Result<&[u8], ChunkError> {
        let index = chunk.index;
        let got = Hash::of(frame);
        if frame.len() != chunk.frame_bytes as usize || got != chunk.frame_hash {
            return Err(ChunkError::Frame { index, expected: chunk.frame_hash, got });
        }
        let bytes = decoded_bytes(chunk, partition).ok_or(ChunkError::Entry { index })?;
        if self.data.len() < bytes {
            self.data = vec![0; bytes];
        }
        let decoded = self
            .decompressor
            .decompress_to_buffer(frame, &mut self.data[..bytes])
            .map_err(|source| ChunkError::Decompress { index, source })?;
        let data = &self.data[..decoded];
        let got = Hash::of(data);
        if decoded != bytes || got != chunk.data_hash {
            return Err(ChunkError::Data { index, expected: chunk.data_hash, got });
        }
        Ok(data)
    }
}

/// The used blocks of one chunk: an [`Opener`] that is needed once.
pub fn open(frame: &[u8], chunk: &Chunk, partition: &Partition) -> Result<Vec<u8>, ChunkError> {
    Opener::default().open(frame, chunk, partition).map(<[u8]>::to_vec)
}

fn frame_bytes(frame: &[u8]) -> io::Result<u32> {
    let bytes = u32::try_from(frame.len()).ok().filter(|bytes| *bytes <= MAX_FRAME_BYTES);
    bytes.ok_or_else(|| io::Error::other("the frame is larger than any chunk may be"))
}

/// Length of the decoded chunk, unless that is more than any chunk has: the entry may come from
/// anywhere.
fn decoded_bytes(chunk: &Chunk, partition: &Partition) -> Option<usize> {
    let blocks: u64 = chunk.runs.iter().map(|run| u64::from(run.count)).sum();
    let bytes = blocks.checked_mul(u64::from(partition.block_bytes))?;
    let limit = u64::from(partition.block_bytes.clamp(CHUNK_BYTES, MAX_BLOCK_BYTES));
    usize::try_from(bytes).ok().filter(|_| bytes <= limit)
}
