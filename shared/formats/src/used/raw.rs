//! What is no filesystem that is known here: all of it.

use super::{UsedError, UsedMap};
use crate::partclone::Bitmap;

/// Blocks of 4 KiB, or of a sector where that leaves a rest.
pub(super) fn map(bytes: u64) -> Result<UsedMap, UsedError> {
    let whole = [4096, 512].into_iter().find(|block| bytes > 0 && bytes.is_multiple_of(*block));
    let Some(block_bytes) = whole else {
        let what = format!("a length of {bytes} bytes, which are not whole sectors");
        return Err(UsedError::Unsupported { filesystem: "raw", what });
    };
    Ok(UsedMap {
        filesystem: "raw",
        program: "dd",
        block_bytes: block_bytes as u32,
        device_bytes: bytes,
        used: Bitmap::all_used(bytes / block_bytes),
        left_out: Vec::new(),
        unclean: Vec::new(),
    })
}
