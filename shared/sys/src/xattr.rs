//! Extended attributes: lsetxattr(2).

use crate::{Result, during};
use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Sets an extended attribute of `entry`, a name within the directory `dir` or `.`, itself and not what
/// it may link to. It needs `/proc`.
pub fn set(dir: BorrowedFd<'_>, entry: &[u8], name: &[u8], value: &[u8]) -> Result<()> {
    let failed = || {
        let [name, entry] = [name, entry].map(String::from_utf8_lossy);
        format!("setting extended attribute {name} of {entry}")
    };
    let string = |bytes: Vec<u8>| {
        CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
    };
    if entry.contains(&b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL)).map_err(during(failed));
    }
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), entry].concat();
    let path = string(path).map_err(during(failed))?;
    let name_z = string(name.to_vec()).map_err(during(failed))?;
    // SAFETY: both strings are NUL terminated and `value` is valid for its length, all for the whole
    // call; the kernel only reads them.
    let rc = unsafe {
        libc::lsetxattr(path.as_ptr(), name_z.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()).map_err(during(failed)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, os::fd::AsFd};

    #[test]
    fn only_what_is_named_in_the_directory_gets_an_attribute() {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        match set(fd.as_fd(), b"file", b"user.test", b"value") {
            Err(error) => assert_eq!(error.errno(), Some(libc::EOPNOTSUPP), "{error}"),
            Ok(()) => set(fd.as_fd(), b".", b"user.test", b"").unwrap(),
        }
        assert_eq!(
            set(fd.as_fd(), b"../x", b"user.a", b"").unwrap_err().errno(),
            Some(libc::EINVAL)
        );
        assert_eq!(
            set(fd.as_fd(), b"a\0b", b"user.a", b"").unwrap_err().errno(),
            Some(libc::EINVAL)
        );
        let missing = set(fd.as_fd(), b"missing", b"user.a", b"").unwrap_err();
        assert_eq!(missing.errno(), Some(libc::ENOENT));
        assert!(missing.to_string().contains("user.a of missing"));
    }
}
