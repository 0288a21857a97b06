//! How much room there is.

use super::StoreError;
use nix::sys::statvfs::statvfs;
use std::path::Path;

pub(super) const MIB: u64 = 1 << 20;

/// Bytes that ordinary users may still write in a directory.
pub(super) fn free_bytes(dir: &Path) -> Result<u64, StoreError> {
    let stat = statvfs(dir)
        .map_err(|errno| StoreError::io("asking for the free space of", dir)(errno.into()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}
