//! Loading kernel modules: init_module(2). Which modules, in which order, and from where, is the
//! caller's: most kernels cannot unpack a compressed module themselves.

use crate::{Result, during};
use std::ffi::CString;
use std::io;

/// What came of loading a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It runs now.
    New,
    /// It was there before (`EEXIST`).
    Already,
}

/// Loads the module whose ELF image this is, with `params` as on a `modprobe` command line. `name`
/// is for errors.
pub fn load(image: &[u8], name: &str, params: &str) -> Result<Loaded> {
    let failed = || format!("loading module {name}");
    let params = CString::new(params)
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
        .map_err(during(failed))?;
    // SAFETY: `image` is valid for its length and `params` is NUL terminated, both for the whole
    // call; the kernel copies both.
    let rc = unsafe {
        libc::syscall(libc::SYS_init_module, image.as_ptr(), image.len(), params.as_ptr())
    };
    if rc == 0 {
        return Ok(Loaded::New);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EEXIST) => Ok(Loaded::Already),
        error => Err(error).map_err(during(failed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_module_is_refused_by_the_kernel_and_named() {
        let error = load(b"not an ELF file", "bad.ko", "").unwrap_err();
        // ENOSYS where the kernel was built without modules.
        let errno = error.errno().unwrap();
        assert!([libc::ENOEXEC, libc::ENOSYS, libc::EPERM].contains(&errno), "{errno}");
        assert!(error.to_string().contains("bad.ko"));
        assert_eq!(load(b"", "x.ko", "a\0b").unwrap_err().errno(), Some(libc::EINVAL));
    }
}
