//! The aligned ranges of a partition, one after the other.

use super::MIN_BLOCK_BYTES;
use crate::partclone::Bitmap;
use metalcast_shared::manifest::{Partition, Run};

/// The ranges that have used blocks, in ascending order: what a partition's chunks are.
pub struct Ranges {
    pub(super) chunk_blocks: u32,
    next: u64,
    count: u64,
}

/// Why a partition cannot be cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// Blocks smaller than [`MIN_BLOCK_BYTES`].
    #[error("a block size of {0} bytes")]
    BlockBytes(u32),
    /// More ranges than a manifest can number.
    #[error("an image of {0} chunks")]
    Chunks(u64),
}

impl Ranges {
    /// Of a partition with so many blocks of this size.
    pub fn new(block_bytes: u32, total_blocks: u64) -> Result<Self, CutError> {
        if block_bytes < MIN_BLOCK_BYTES {
            return Err(CutError::BlockBytes(block_bytes));
        }
        let chunk_blocks = Partition::chunk_blocks_for(block_bytes);
        let count = total_blocks.div_ceil(u64::from(chunk_blocks));
        if count > u64::from(u32::MAX) {
            return Err(CutError::Chunks(count));
        }
        Ok(Self { chunk_blocks, next: 0, count })
    }

    /// Number and used blocks of the next one.
    pub fn next(&mut self, used: &Bitmap) -> Option<(u32, Vec<Run>)> {
        while self.next < self.count {
            let index = self.next;
            self.next += 1;
            let runs = used.runs(index * u64::from(self.chunk_blocks), self.chunk_blocks);
            if !runs.is_empty() {
                return Some((u32::try_from(index).expect("counted at the start"), runs));
            }
        }
        None
    }
}
