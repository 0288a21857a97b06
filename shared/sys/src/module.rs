//! Loading kernel modules: finit_module(2). Which modules, and in which order, is the caller's.

use crate::{Result, during};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h, since Linux 5.17.
const COMPRESSED: libc::c_int = 4;

/// What came of loading a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It runs now.
    New,
    /// It was there before (`EEXIST`).
    Already,
}

/// Loads the module in `path`, with `params` as on a `modprobe` command line. The kernel unpacks
/// `.ko.xz`, `.ko.zst` and `.ko.gz` itself where it was built to.
pub fn load(path: &Path, params: &str) -> Result<Loaded> {
    let failed = || format!("loading module {}", path.display());
    let file = File::open(path).map_err(during(failed))?;
    let params = CString::new(params)
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
        .map_err(during(failed))?;
    let packed = path.extension().is_some_and(|ext| ext == "xz" || ext == "zst" || ext == "gz");
    let flags = if packed { COMPRESSED } else { 0 };
    // SAFETY: the descriptor is open and `params` is NUL terminated, both for the whole call; the
    // kernel keeps neither.
    let rc =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), params.as_ptr(), flags) };
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
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.ko");
        std::fs::write(&path, "not an ELF file").unwrap();
        let error = load(&path, "").unwrap_err();
        // ENOSYS where the kernel was built without modules.
        let errno = error.errno().unwrap();
        assert!([libc::ENOEXEC, libc::ENOSYS, libc::EPERM].contains(&errno), "{errno}");
        assert!(error.to_string().contains("bad.ko"));
        assert_eq!(load(&dir.path().join("none.ko"), "").unwrap_err().errno(), Some(libc::ENOENT));
    }
}
