//! Why a RAM image could not be built.

use crate::cpio::CpioError;
use crate::elf::ElfError;
use crate::modules::{IndexError, Unknown};
use std::io;
use std::path::PathBuf;

/// Why a RAM image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file could not be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not exactly one kernel version in the kernel's package.
    #[error("{} holds {count} kernel versions instead of one", path.display())]
    Versions {
        /// The directory.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// The module tables could not be made.
    #[error("reading the kernel's modules")]
    Index(#[source] IndexError),
    /// The manifest names modules that do not exist.
    #[error("choosing the modules")]
    Unknown(#[source] Unknown),
    /// The manifest names a file that does not exist.
    #[error("{0} is in none of the packages")]
    Missing(String),
    /// A library was not found.
    #[error("{library}, wanted by {wanted_by}, is in none of the packages")]
    Library {
        /// Its name.
        library: String,
        /// The program or library that needs it.
        wanted_by: String,
    },
    /// A program could not be read as ELF.
    #[error("reading program {path}")]
    Program {
        /// Which.
        path: String,
        /// Why.
        source: ElfError,
    },
    /// The agent is not a static program, so it could not run.
    #[error("{} is not a static program", .0.display())]
    NotStatic(PathBuf),
    /// The archive cannot hold an entry.
    #[error("archiving")]
    Archive(#[source] CpioError),
    /// Compression failed.
    #[error("compressing {0}")]
    Compress(String, #[source] io::Error),
    /// It would not fit into small machines.
    #[error("{what} has {bytes} bytes, more than the limit of {limit}: name less in the manifest")]
    TooLarge {
        /// The initramfs, the unpacked root, or a bundle.
        what: String,
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
}
