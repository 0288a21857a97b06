//! What is no filesystem that is known here: all of it.

use super::UsedMap;
use crate::partclone::Bitmap;

/// Blocks of 4 KiB, of a sector where that leaves a rest, of a byte for files of any length.
pub(super) fn map(bytes: u64) -> UsedMap {
    let block_bytes =
        [4096, 512, 1].into_iter().find(|block| bytes.is_multiple_of(*block)).unwrap_or(1);
    UsedMap {
        filesystem: "raw",
        program: "dd",
        block_bytes: block_bytes as u32,
        device_bytes: bytes,
        used: Bitmap::all_used(bytes / block_bytes),
        left_out: Vec::new(),
        unclean: Vec::new(),
    }
}
