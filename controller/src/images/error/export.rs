//! What can go wrong in an export.

use super::{SideFileError, StoreError};
use crate::images::output::WriteError;
use metalcast_formats::{chunk::ChunkError, clonezilla::DirectoryError};
use std::path::PathBuf;

/// Why an export failed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Something has the name of the new directory.
    #[error("{0} exists already; name a directory that does not")]
    Exists(PathBuf),
    /// There is no room for a new directory.
    #[error("{0} is no path of a new directory")]
    NoName(PathBuf),
    /// The revision's directory is not what it was.
    #[error("the image store is damaged; `metalcast image check` says where")]
    Directory(#[from] DirectoryError),
    /// The pieces would be too many to be numbered by letters.
    #[error("{partition} would be cut into more than {limit} pieces; choose a larger --split")]
    TooManyPieces {
        /// The partition.
        partition: String,
        /// As many can be numbered.
        limit: u64,
    },
    /// The disk is too full.
    #[error(
        "the export needs about {needed_mib} MiB in {path}, but only {free_mib} MiB are free; \
         enlarge the disk or choose another"
    )]
    Space {
        /// Where it was to be made.
        path: PathBuf,
        /// An estimate from the image's size.
        needed_mib: u64,
        /// What ordinary users may still write.
        free_mib: u64,
    },
    /// A file beside the partitions' data cannot be copied.
    #[error(transparent)]
    SideFile(#[from] SideFileError),
    /// A file of the export cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store's side of it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A chunk of the store is not what it was.
    #[error("{partition} cannot be read; `metalcast image check` says what is damaged")]
    Chunk {
        /// The partition.
        partition: String,
        /// Which chunk and why.
        source: ChunkError,
    },
}
