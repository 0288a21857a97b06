//! Extended attributes: lsetxattr(2), listxattr(2), getxattr(2).

use crate::{Result, during};
use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Most bytes of all names, and of a value, that the kernel gives out (`XATTR_LIST_MAX`).
const MAX_BYTES: usize = 64 << 10;

/// Name and value of an extended attribute.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// All extended attributes of what is open, which may be so by `O_PATH` only, and be a symbolic link. None
/// where the filesystem has none such. Memory: 64 KiB for each. It needs `/proc`.
pub fn all(entry: BorrowedFd<'_>) -> Result<Vec<Attribute>> {
    read_all(entry).map_err(during(|| "reading extended attributes"))
}

fn read_all(entry: BorrowedFd<'_>) -> io::Result<Vec<Attribute>> {
    let path = CString::new(format!("/proc/self/fd/{}", entry.as_raw_fd()))?;
    let mut attributes = Vec::new();
    for name in names(&path)?.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match value(&path, name) {
            Ok(value) => attributes.push((name.to_bytes().to_vec(), value)),
            // It has gone since.
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(attributes)
}

fn names(path: &CStr) -> io::Result<Vec<u8>> {
    // SAFETY: `path` is NUL terminated; with a length of 0 nothing is written, and a null buffer may be
    // given.
    let bytes = unsafe { libc::listxattr(path.as_ptr(), std::ptr::null_mut(), 0) };
    match usize::try_from(bytes) {
        Ok(0) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(_) => {
            let error = io::Error::last_os_error();
            let is_none = error.raw_os_error() == Some(libc::EOPNOTSUPP);
            return if is_none { Ok(Vec::new()) } else { Err(error) };
        }
    }
    let mut names = vec![0; MAX_BYTES];
    // SAFETY: `path` is NUL terminated and `names` is writable for the length that is given, both for the
    // whole call.
    let bytes = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    cut(names, bytes)
}

fn value(path: &CStr, name: &CStr) -> io::Result<Vec<u8>> {
    let mut value = vec![0_u8; MAX_BYTES];
    // SAFETY: both strings are NUL terminated and `value` is writable for the length that is given, all for
    // the whole call.
    let bytes = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    cut(value, bytes)
}

fn cut(mut buffer: Vec<u8>, bytes: isize) -> io::Result<Vec<u8>> {
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    buffer.truncate(bytes);
    buffer.shrink_to_fit();
    Ok(buffer)
}

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
            Ok(()) => {
                set(fd.as_fd(), b".", b"user.test", b"").unwrap();
                let file = File::open(dir.path().join("file")).unwrap();
                assert_eq!(
                    all(file.as_fd()).unwrap(),
                    [(b"user.test".to_vec(), b"value".to_vec())]
                );
                assert_eq!(all(fd.as_fd()).unwrap(), [(b"user.test".to_vec(), Vec::new())]);
            }
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
