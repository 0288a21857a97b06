//! The partition being read: nothing outside of it can be.

use super::UsedError;
use crate::partclone::MAX_BLOCKS;
use std::io::{Read, Seek, SeekFrom};

/// A partition and what kind of filesystem it is said to have.
pub(super) struct Disk<'d, D> {
    source: &'d mut D,
    bytes: u64,
    filesystem: &'static str,
}

impl<'d, D: Read + Seek> Disk<'d, D> {
    pub(super) fn new(source: &'d mut D, bytes: u64, filesystem: &'static str) -> Self {
        Self { source, bytes, filesystem }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn read(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
        what: &'static str,
    ) -> Result<(), UsedError> {
        let bytes = buffer.len();
        if offset.checked_add(bytes as u64).is_none_or(|end| end > self.bytes) {
            return Err(self.damaged(format!("{what} would lie at byte {offset}, beyond the end")));
        }
        self.source
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.source.read_exact(buffer))
            .map_err(|source| UsedError::Read { what, offset, bytes, source })
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> UsedError {
        UsedError::Damaged { filesystem: self.filesystem, what: what.into() }
    }

    pub(super) fn unsupported(&self, what: impl Into<String>) -> UsedError {
        UsedError::Unsupported { filesystem: self.filesystem, what: what.into() }
    }

    /// Accepts a number of blocks that the partition has room for and an image may have.
    pub(super) fn checked_blocks(&self, blocks: u64, block_bytes: u64) -> Result<u64, UsedError> {
        if blocks.checked_mul(block_bytes).is_none_or(|bytes| bytes > self.bytes) {
            let what = format!(
                "it has {blocks} blocks of {block_bytes} bytes, its partition {} bytes",
                self.bytes
            );
            return Err(self.damaged(what));
        }
        if blocks == 0 {
            return Err(self.damaged("it has no blocks"));
        }
        if blocks > MAX_BLOCKS {
            return Err(self.unsupported(format!("{blocks} blocks (limit {MAX_BLOCKS})")));
        }
        Ok(blocks)
    }
}
