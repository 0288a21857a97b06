//! Imports: a Clonezilla directory, a disk file or a stream of one becomes the next revision.
//!
//! ```text
//! Directory ──> transcode (each partition), side files ─┐
//! tar archive, file or stream ───> archive ─────────────┤
//! disk file, device ─────────────> capture ─────────────┴─> Draft: .import-<random>/ ──rename──> revision
//!    ^── unpack (qemu-img) ──┐        ^                         signed manifest, when all is flushed
//! stream ──> spool ──────────┴────────┘  temporary raw files, in .import-<random>/ too
//! ```

mod archive;
mod directory;
mod disk;
mod medium;
mod spool;
mod temporary;
mod transcode;
mod unpack;

pub use disk::DiskOptions;

pub(super) use directory::import;
pub(super) use disk::{import_file, import_stream};

use super::{
    Images, ImportError,
    draft::RESERVE_BYTES,
    space::{self, MIB},
};
use metalcast_shared::id::ImageName;
use std::path::Path;

/// Hardly any system is compressed to less than this part of it: what is sure to exceed a quota is refused
/// before it is read.
const BEST_RATIO: u64 = 8;

/// Refuses an import that will occupy at most `bytes` bytes where there is no room for them, or in a project
/// that may not even have `least_bytes` more. Returns what is needed with what is left free.
fn check_room(
    images: &Images,
    name: &ImageName,
    bytes: u64,
    least_bytes: u64,
) -> Result<u64, ImportError> {
    images.ledger.check(name.project(), least_bytes)?;
    check_space(images.layout.root(), bytes)
}

/// Refuses what will occupy `bytes` bytes where there is no room for them. Returns what is needed with what
/// is left free.
fn check_space(root: &Path, bytes: u64) -> Result<u64, ImportError> {
    let needed = bytes.saturating_add(RESERVE_BYTES);
    let free = space::free_bytes(root)?;
    if free >= needed {
        return Ok(needed);
    }
    let path = root.to_owned();
    Err(ImportError::Space { path, needed_mib: needed / MIB, free_mib: free / MIB })
}
