//! What can go wrong in the store and in an import; each message says what to do where that is known.

mod export;

pub use export::ExportError;

use super::{output::WriteError, quota::QuotaError};
use metalcast_formats::{
    capture::CaptureError,
    clonezilla::DirectoryError,
    disk_file::{DiskFileError, DiskFormat},
    stream::{Place, StreamError},
    tar::TarError,
};
use metalcast_shared::id::Revision;
use metalcast_sys::child::ChildError;
use std::{error::Error, io, path::PathBuf};

/// Why the store cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such revision.
    #[error("there is no image {0} in the store")]
    NotFound(Revision),
    /// The revision has no such partition.
    #[error("image {revision} has no partition {partition}")]
    NoPartition {
        /// The revision.
        revision: Revision,
        /// What was asked for.
        partition: String,
    },
    /// The partition has no such page.
    #[error("partition {partition} of image {revision} has no page {page}")]
    NoPage {
        /// The revision.
        revision: Revision,
        /// The partition.
        partition: String,
        /// What was asked for.
        page: u32,
    },
    /// A file is not what it was when it was imported.
    #[error(
        "{path}: {reason} (byte {offset}): the image store is damaged; \
         check the disk under it, remove {revision} and import it again"
    )]
    Damaged {
        /// The revision.
        revision: Revision,
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The system refuses.
    #[error("{doing} {path}")]
    Io {
        /// Such as "reading".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl StoreError {
    pub(super) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

/// Why a revision cannot be made. Nothing of it is left in the store.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// A file of it cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// More than a manifest can describe.
    #[error("the image is too large: {0}")]
    TooLarge(String),
    /// The project's quota is used up.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The store itself.
    #[error("the store cannot take the image")]
    Store(#[from] StoreError),
}

impl From<DraftError> for ImportError {
    fn from(error: DraftError) -> Self {
        match error {
            DraftError::Write(error) => Self::Write(error),
            DraftError::TooLarge(what) => Self::TooLarge(what),
            DraftError::Store(error) => Self::Store(error),
            DraftError::Quota(error) => Self::Quota(error),
        }
    }
}

/// Why an upload goes no further.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// It cannot be what an agent found on its disk; nothing was begun.
    #[error("the agent's survey cannot be true: {0}")]
    Survey(String),
    /// The store's disk is too full; nothing is left.
    #[error(
        "the image needs about {needed_mib} MiB in {path}, but only {free_mib} MiB are free; \
         remove images that are no longer needed or enlarge the disk"
    )]
    Space {
        /// The store.
        path: PathBuf,
        /// An estimate from what is used on the node's disk.
        needed_mib: u64,
        /// What ordinary users may still write.
        free_mib: u64,
    },
    /// Something came that does not belong there; what came before stays.
    #[error("the agent sent {0}")]
    Sent(String),
    /// All has come, and it is no image that could be restored.
    #[error("what the agent sent is no image")]
    Directory(#[from] DirectoryError),
    /// It is no tar archive, or one that could not be unpacked; nothing is left.
    #[error("what the agent sent is no archive")]
    Archive(#[source] TarError),
    /// A frame of it cannot be compressed.
    #[error("what the agent sent cannot be compressed")]
    Compress(#[source] io::Error),
    /// The store's side of it; nothing is left.
    #[error(transparent)]
    Draft(#[from] DraftError),
}

impl UploadError {
    pub(super) fn sent(what: impl Into<String>) -> Self {
        Self::Sent(what.into())
    }

    /// Whether the upload is as it was before, and can go on.
    pub fn may_go_on(&self) -> bool {
        match self {
            Self::Sent(_) => true,
            Self::Survey(_)
            | Self::Space { .. }
            | Self::Directory(_)
            | Self::Archive(_)
            | Self::Compress(_)
            | Self::Draft(_) => false,
        }
    }
}

/// Why an import failed. Nothing of it is left in the store.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source is not an image that can be imported.
    #[error("the source cannot be imported")]
    Source(#[from] DirectoryError),
    /// The files of a partition cannot be opened as a stream.
    #[error("the image of partition {partition} cannot be opened")]
    Stream {
        /// The partition.
        partition: String,
        /// Which file and why.
        source: StreamError,
    },
    /// The image of a partition is damaged.
    #[error(
        "the image of partition {partition} cannot be imported: {} at or shortly before byte {}",
        .place.name, .place.offset
    )]
    Image {
        /// The partition.
        partition: String,
        /// How far its files were read.
        place: Place,
        /// What is wrong, with the offset in the decompressed stream where it is known.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A file of a partition goes on after its image.
    #[error(
        "{} of partition {partition} goes on after byte {}, where the image ends; it is damaged",
        .place.name, .place.offset
    )]
    Leftover {
        /// The partition.
        partition: String,
        /// Where the image ends.
        place: Place,
    },
    /// A disk or a file that stands for one cannot be opened or read.
    #[error("{path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A block device cannot be opened or read.
    #[error(transparent)]
    Device(#[from] metalcast_sys::Error),
    /// It is nothing that holds a disk.
    #[error(
        "{0} is no directory, file or block device; what a pipe has to give is imported as `-`, from \
         standard input"
    )]
    NoDisk(PathBuf),
    /// Someone may be writing to it.
    #[error(
        "{path} is in use {user}, and must not change while it is imported: unmount or detach it, or take \
         what may be half written with --force"
    )]
    InUse {
        /// The file or device.
        path: PathBuf,
        /// By whom, in words.
        user: String,
    },
    /// The file is not one that is taken for a disk.
    #[error("{what} cannot be imported")]
    DiskFile {
        /// The file.
        what: String,
        /// What it is instead, and what can be done.
        source: DiskFileError,
    },
    /// A tar archive that is damaged, or cannot be unpacked faithfully.
    #[error("the archive {what} cannot be imported; {read_bytes} bytes of the file were read")]
    Archive {
        /// The file.
        what: String,
        /// How far it was read.
        read_bytes: u64,
        /// What is wrong, with the offset in the archive as it is unpacked.
        source: TarError,
    },
    /// Options of disks for a tar archive.
    #[error("{0} is a tar archive; a device name, --exact and --force are for disks")]
    ArchiveOptions(String),
    /// Filesystems whose own records are not to be trusted.
    #[error(
        "{0}. Shut down properly what it belongs to, or check and repair it; --force takes every block \
         of it as it is"
    )]
    Unclean(String),
    /// Which blocks are used cannot be known.
    #[error(
        "the disk cannot be imported; if nothing of it was cut off, --exact takes every block of it, \
         whatever is in it"
    )]
    Blocks(#[source] CaptureError),
    /// The disk cannot be read.
    #[error("the disk cannot be imported; if it is a file, it may have been cut off")]
    Cut(#[source] CaptureError),
    /// The disk cannot be saved for another reason.
    #[error("the disk cannot be imported")]
    Capture(#[source] CaptureError),
    /// A stream of a disk did not come to its end.
    #[error("standard input broke off after {bytes} bytes; nothing of it is kept")]
    BrokenOff {
        /// How much had come.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// The store's disk has no room for the rest of a stream.
    #[error(
        "{received_mib} MiB of standard input fill the disk of {path}: only {free_mib} MiB are free; \
         remove images that are no longer needed or enlarge the disk"
    )]
    StreamSpace {
        /// The store.
        path: PathBuf,
        /// How much had come.
        received_mib: u64,
        /// What ordinary users may still write.
        free_mib: u64,
    },
    /// The program that unpacks it is not there.
    #[error(
        "{what} is a {format}, which qemu-img has to unpack; install it on the controller's host (Debian \
         package qemu-utils)"
    )]
    NoTool {
        /// The file.
        what: String,
        /// What it is.
        format: DiskFormat,
    },
    /// What it refers to is not in it.
    #[error(
        "{what} is a {format} that is damaged or was cut off; copy it again, or see whether \
         `qemu-img check -r all` repairs it"
    )]
    CorruptDisk {
        /// The file.
        what: String,
        /// What it is.
        format: DiskFormat,
        /// What qemu-img says.
        source: ChildError,
    },
    /// It cannot be unpacked.
    #[error("{what} is a {format} that cannot be unpacked")]
    Unpack {
        /// The file.
        what: String,
        /// What it is.
        format: DiskFormat,
        /// What qemu-img says.
        source: ChildError,
    },
    /// What qemu-img says of it is not what it should be.
    #[error("what qemu-img says of {what} cannot be understood; is it of another version?")]
    Told {
        /// The file.
        what: String,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// A file beside the images cannot be copied.
    #[error(transparent)]
    SideFile(#[from] SideFileError),
    /// The store's disk is too full.
    #[error(
        "the import needs about {needed_mib} MiB in {path}, but only {free_mib} MiB are free; \
         remove images that are no longer needed or enlarge the disk"
    )]
    Space {
        /// The store.
        path: PathBuf,
        /// An estimate from the source's size.
        needed_mib: u64,
        /// What ordinary users may still write.
        free_mib: u64,
    },
    /// A file of the new revision cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The project's quota is used up.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The store's disk filled up on the way.
    #[error(
        "{path} cannot be written at byte {offset}: the whole import needs about {needed_bytes} bytes; \
         remove images that are no longer needed or enlarge the disk"
    )]
    Full {
        /// The file or directory.
        path: PathBuf,
        /// How far it was written.
        offset: u64,
        /// The same estimate as in [`Self::Space`].
        needed_bytes: u64,
        /// The system's reason: no space, or a quota.
        source: io::Error,
    },
    /// zstd refuses.
    #[error("compressing partition {partition}")]
    Compress {
        /// The partition.
        partition: String,
        /// zstd's reason.
        source: io::Error,
    },
    /// More than a manifest can describe.
    #[error("the image is too large: {0}")]
    TooLarge(String),
    /// The store itself.
    #[error("the store cannot take the image")]
    Store(#[from] StoreError),
}

/// Why a file beside the partitions' data is not copied.
#[derive(Debug, thiserror::Error)]
pub enum SideFileError {
    /// It is too large to be one of Clonezilla's.
    #[error(
        "{file} has {bytes} bytes, more than the {limit} that a file beside the partitions' data may \
         have; if it is not part of the image, move it away"
    )]
    TooLarge {
        /// The file.
        file: String,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// It cannot be read or does not match its checksum.
    #[error("{file} cannot be copied")]
    Read {
        /// The file.
        file: String,
        /// Why, with the offset.
        source: io::Error,
    },
}

impl From<CaptureError> for ImportError {
    fn from(source: CaptureError) -> Self {
        match source {
            CaptureError::Unclean(_) => Self::Unclean(source.to_string()),
            CaptureError::Used { .. } => Self::Blocks(source),
            CaptureError::Gpt(_)
            | CaptureError::Mbr(_)
            | CaptureError::Read { .. }
            | CaptureError::Unreadable { .. } => Self::Cut(source),
            CaptureError::Name(_)
            | CaptureError::MbrSectors(_)
            | CaptureError::OnlyGuard
            | CaptureError::Nothing
            | CaptureError::Cut { .. }
            | CaptureError::Compress { .. } => Self::Capture(source),
        }
    }
}

impl ImportError {
    /// Says how much an import needs, if this is about a full disk.
    pub(super) fn with_need(self, needed_bytes: u64) -> Self {
        match self {
            Self::Write(WriteError { path, offset, source }) if is_full(&source) => {
                Self::Full { path, offset, needed_bytes, source }
            }
            Self::Store(StoreError::Io { path, source, .. }) if is_full(&source) => {
                Self::Full { path, offset: 0, needed_bytes, source }
            }
            other => other,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
