//! Why something is not saved.

use crate::{chunk::CutError, gpt, mbr, used::UsedError};
use std::io;

/// Why a disk or partition cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The name is not one of a disk or partition.
    #[error("{0:?} cannot be the name of a disk or partition; they are called sda, sda1 or such")]
    Name(String),
    /// The source cannot be read.
    #[error("reading {what}")]
    Read {
        /// What was being read.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Its GUID partition table cannot be read.
    #[error("reading its GUID partition table")]
    Gpt(#[from] gpt::ReadError),
    /// Its MBR partition table cannot be read.
    #[error("reading its partition table")]
    Mbr(#[from] mbr::ReadError),
    /// An MBR table on sectors of another size than all of its tools know.
    #[error("MBR tables on sectors of {0} bytes are not supported")]
    MbrSectors(u32),
    /// The MBR says that there is a GUID partition table, and there is none.
    #[error("its GUID partition table is gone, only its guard is left")]
    OnlyGuard,
    /// Which blocks of a partition are used cannot be known.
    #[error("looking at {partition}")]
    Used {
        /// Its name.
        partition: String,
        /// Why.
        source: UsedError,
    },
    /// Filesystems whose own records are not to be trusted: partition and reason of each.
    #[error("{0}; a restore would have to be repaired, or lack what was written last")]
    Unclean(String),
    /// No partition has data.
    #[error("there is nothing on it that has to be saved")]
    Nothing,
    /// A partition has more or smaller blocks than an image can have.
    #[error("{partition} would need {source}, which is not supported")]
    Cut {
        /// Its name.
        partition: String,
        /// What it would need.
        source: CutError,
    },
    /// A part of a partition cannot be read.
    #[error("bytes {from} to {to} of {partition}{disk} cannot be read")]
    Unreadable {
        /// Its name.
        partition: String,
        /// First byte, from the start of the partition.
        from: u64,
        /// Last byte.
        to: u64,
        /// The same from the start of the disk, in words; empty if that is the same.
        disk: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A chunk cannot be compressed.
    #[error("compressing {partition}")]
    Compress {
        /// The partition's name.
        partition: String,
        /// The reason of zstd.
        source: io::Error,
    },
}
