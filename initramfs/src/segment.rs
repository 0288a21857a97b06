//! The small archive the controller puts before the RAM image at each netboot.
//!
//! It is a cpio archive of its own, uncompressed, and its length is a multiple of 4, because the
//! kernel looks for the next archive only there (buffer-format.rst: ALGN(4)).

use crate::cpio::{Archive, CpioError};

/// Builds a segment from files given as (path, contents, permission bits).
pub fn segment(files: &[(&str, &[u8], u32)]) -> Result<Vec<u8>, CpioError> {
    let mut archive = Archive::new();
    for (path, contents, mode) in files {
        archive.file(path, contents.to_vec(), *mode)?;
    }
    Ok(archive.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let bytes = segment(&[("metalcast/x", b"hello", 0o600)]).unwrap();
        // The header's fields: magic, ino, mode, uid, gid, links, mtime, size, four device numbers,
        // length of the name, check.
        let fields =
            |fields: [&str; 13]| format!("070701{}", fields.map(|f| format!("{f:0>8}")).concat());
        let expected = [
            fields(["1", "41ED", "0", "0", "2", "0", "0", "0", "0", "0", "0", "A", "0"]),
            "metalcast\0".to_owned(),
            fields(["2", "8180", "0", "0", "1", "0", "5", "0", "0", "0", "0", "C", "0"]),
            "metalcast/x\0\0\0hello\0\0\0".to_owned(),
            fields(["0", "0", "0", "0", "1", "0", "0", "0", "0", "0", "0", "B", "0"]),
            "TRAILER!!!\0\0\0\0".to_owned(),
        ]
        .concat();
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(bytes.len() % 4, 0);
    }
}
