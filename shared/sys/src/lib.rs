//! Safe wrappers around the Linux interfaces that Metalcast needs and the standard library lacks.
//!
//! One file per kernel interface. This is the only crate with unsafe code; ioctl numbers and kernel
//! structures stay private to it. It holds no policy: what to mount, load or write is the caller's.

pub mod block;
pub mod child;
pub mod clock;
pub mod confine;
pub mod link;
pub mod loopdev;
pub mod module;
pub mod mount;
pub mod netns;
pub mod packet;
pub mod reap;
pub mod reboot;
pub mod uevent;

mod ioctl;

use std::io;

/// A system call that failed: what was being done, and the kernel's answer as its source.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct Error {
    operation: String,
    source: io::Error,
}

impl Error {
    /// The kernel's error number, if the failure came from the kernel.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// The kind of failure, as the standard library sorts them.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Result of a wrapped system call.
pub type Result<T> = std::result::Result<T, Error>;

/// Turns an I/O error into [`Error`], naming the operation only when it is needed.
pub(crate) fn during<S: Into<String>, E: Into<io::Error>>(
    operation: impl FnOnce() -> S,
) -> impl FnOnce(E) -> Error {
    move |source| Error { operation: operation().into(), source: source.into() }
}
