//! The two shapes of ioctl used in this crate, with errno turned into `io::Error`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// An ioctl whose argument is a number, or that has none (pass 0).
///
/// # Safety
/// `request` must be one that takes its third argument by value, never as an address.
pub(crate) unsafe fn by_value(fd: impl AsFd, request: u32, value: u64) -> io::Result<i32> {
    // SAFETY: the descriptor is open for the call; the caller promises that the kernel treats
    // `value` as a number, so no memory is touched.
    let rc = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as libc::Ioctl, value) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// An ioctl whose argument is the address of a `T` that the kernel reads, writes or both.
///
/// # Safety
/// `T` must be `repr(C)` (or a primitive) and exactly the type that `request` is defined with, and
/// any pointer inside it must be valid for what the kernel does with it.
pub(crate) unsafe fn by_address<T>(fd: impl AsFd, request: u32, value: &mut T) -> io::Result<i32> {
    let address: *mut T = value;
    // SAFETY: `address` comes from a unique reference that outlives the call; the caller promises
    // that its type is the one of the request.
    let rc = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as libc::Ioctl, address) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}
