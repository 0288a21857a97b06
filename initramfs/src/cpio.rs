//! A deterministic cpio archive in the "newc" form that Linux unpacks as its initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Entries are sorted by path, which puts directories before what is in them; times are 0, owners
//! are root, inodes are counted. Writing only: the kernel is the reader.

use std::collections::BTreeMap;

/// Longest path or link target in bytes: the kernel's PATH_MAX with its NUL.
const PATH_LIMIT: usize = 4095;
/// Largest file: sizes are eight hexadecimal digits.
const FILE_LIMIT: usize = u32::MAX as usize;
/// Most entries of one archive; far above any RAM image, far below what would hurt.
const ENTRY_LIMIT: usize = 100_000;
/// Header and file data both end on a multiple of this.
const ALIGN: usize = 4;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;
const PERMISSIONS: u32 = 0o7777;

/// Why an entry cannot be archived.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CpioError {
    /// The path is empty, too long, or has `.`, `..` or NUL in it.
    #[error("{0:?} is not a path an archive can hold")]
    Path(String),
    /// Two entries of the same path that differ.
    #[error("{0} is in the archive already, with other contents")]
    Twice(String),
    /// Something that is not a directory has entries below it.
    #[error("{0} is not a directory, but something lies below it")]
    NotADirectory(String),
    /// Larger than the format can say.
    #[error("{0} is larger than 4 GiB")]
    TooLarge(String),
    /// More entries than the limit.
    #[error("more than {ENTRY_LIMIT} entries")]
    TooMany,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    CharDevice { major: u32, minor: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    node: Node,
}

/// An archive being put together. Parent directories are made as needed, with mode 0755.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory with permission bits `mode`, which win over those of an implied one.
    pub fn dir(&mut self, path: &str, mode: u32) -> Result<(), CpioError> {
        let path = clean(path)?;
        self.parents(&path)?;
        match self.entries.get_mut(&path) {
            Some(Entry { node: Node::Directory, mode: old }) => *old = mode & PERMISSIONS,
            Some(_) => return Err(CpioError::NotADirectory(path)),
            None => return self.put(path, mode, Node::Directory),
        }
        Ok(())
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, contents: Vec<u8>, mode: u32) -> Result<(), CpioError> {
        if contents.len() > FILE_LIMIT {
            return Err(CpioError::TooLarge(path.to_owned()));
        }
        self.add(path, mode, Node::File(contents))
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), CpioError> {
        if target.is_empty() || target.len() > PATH_LIMIT || target.contains('\0') {
            return Err(CpioError::Path(target.to_owned()));
        }
        self.add(path, 0o777, Node::Symlink(target.to_owned()))
    }

    /// Adds a character device.
    pub fn char_device(
        &mut self,
        path: &str,
        major: u32,
        minor: u32,
        mode: u32,
    ) -> Result<(), CpioError> {
        self.add(path, mode, Node::CharDevice { major, minor })
    }

    /// Number of entries, implied directories included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether this path is in it.
    pub fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path.trim_matches('/'))
    }

    /// The archive's bytes, a multiple of 4 long, so that another archive may follow.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, (path, entry)) in (1_u32..).zip(self.entries) {
            let Entry { mode, node } = entry;
            let header = |kind| Header { ino: number, mode: kind | mode, ..Header::default() };
            match node {
                Node::Directory => {
                    write(&mut out, Header { links: 2, ..header(DIRECTORY) }, &path, b"");
                }
                Node::File(bytes) => write(&mut out, header(REGULAR), &path, &bytes),
                Node::Symlink(target) => {
                    write(&mut out, header(SYMLINK), &path, target.as_bytes());
                }
                Node::CharDevice { major, minor } => {
                    write(&mut out, Header { major, minor, ..header(CHARACTER) }, &path, b"");
                }
            }
        }
        write(&mut out, Header::default(), "TRAILER!!!", b"");
        out
    }

    fn add(&mut self, path: &str, mode: u32, node: Node) -> Result<(), CpioError> {
        let path = clean(path)?;
        self.parents(&path)?;
        let entry = Entry { mode: mode & PERMISSIONS, node };
        match self.entries.get(&path) {
            Some(old) if *old == entry => Ok(()),
            Some(_) => Err(CpioError::Twice(path)),
            None => self.put(path, mode, entry.node),
        }
    }

    fn parents(&mut self, path: &str) -> Result<(), CpioError> {
        for (at, _) in path.match_indices('/') {
            let parent = &path[..at];
            match self.entries.get(parent) {
                Some(Entry { node: Node::Directory, .. }) => {}
                Some(_) => return Err(CpioError::NotADirectory(parent.to_owned())),
                None => self.put(parent.to_owned(), 0o755, Node::Directory)?,
            }
        }
        Ok(())
    }

    fn put(&mut self, path: String, mode: u32, node: Node) -> Result<(), CpioError> {
        if self.entries.len() >= ENTRY_LIMIT {
            return Err(CpioError::TooMany);
        }
        self.entries.insert(path, Entry { mode: mode & PERMISSIONS, node });
        Ok(())
    }
}

/// The path without outer slashes, if every part of it is a name.
fn clean(path: &str) -> Result<String, CpioError> {
    let inner = path.trim_matches('/');
    let named = |part: &str| !part.is_empty() && part != "." && part != "..";
    // A file of the trailer's name would end the archive.
    let good = inner.len() <= PATH_LIMIT
        && !inner.contains('\0')
        && inner.split('/').all(named)
        && inner != "TRAILER!!!";
    if good { Ok(inner.to_owned()) } else { Err(CpioError::Path(path.to_owned())) }
}

#[derive(Clone, Copy)]
struct Header {
    ino: u32,
    mode: u32,
    links: u32,
    major: u32,
    minor: u32,
}

impl Default for Header {
    fn default() -> Self {
        Self { ino: 0, mode: 0, links: 1, major: 0, minor: 0 }
    }
}

/// Fields in order: magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
/// rdevmajor, rdevminor, namesize with its NUL, check (0 for this magic).
fn write(out: &mut Vec<u8>, header: Header, name: &str, data: &[u8]) {
    let Header { ino, mode, links, major, minor } = header;
    let size = data.len();
    let name_size = name.len() + 1;
    out.extend_from_slice(
        format!(
            "070701{ino:08X}{mode:08X}{:08X}{:08X}{links:08X}{:08X}{size:08X}{:08X}{:08X}\
             {major:08X}{minor:08X}{name_size:08X}{:08X}",
            0, 0, 0, 0, 0, 0
        )
        .as_bytes(),
    );
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(data);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    use std::process::{Command, Stdio};

    fn sample() -> Archive {
        let mut archive = Archive::new();
        archive.file("/bin/tool", b"#!/bin/sh\n".to_vec(), 0o755).unwrap();
        archive.symlink("init", "bin/tool").unwrap();
        archive.char_device("dev/console", 5, 1, 0o600).unwrap();
        archive.dir("tmp", 0o1777).unwrap();
        archive.file("etc/empty", Vec::new(), 0o640).unwrap();
        archive
    }

    #[test]
    fn the_real_cpio_unpacks_what_was_put_in() {
        let dir = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["-idm", "--quiet"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&sample().into_bytes()).unwrap();
        assert!(cpio.wait().unwrap().success());
        let at = |path: &str| dir.path().join(path);
        assert_eq!(std::fs::read(at("init")).unwrap(), b"#!/bin/sh\n");
        assert_eq!(std::fs::read_link(at("init")).unwrap().to_str(), Some("bin/tool"));
        let mode = |path: &str| at(path).symlink_metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("bin/tool"), 0o755);
        assert_eq!(mode("tmp"), 0o1777);
        assert_eq!(mode("etc/empty"), 0o640);
        assert_eq!(mode("etc"), 0o755);
        let console = at("dev/console").metadata().unwrap();
        assert!(console.file_type().is_char_device());
        assert_eq!(console.rdev(), 5 << 8 | 1);
        assert_eq!((console.uid(), console.gid(), console.mtime()), (0, 0, 0));
    }

    #[test]
    fn bytes_do_not_depend_on_the_order_of_adding() {
        let mut other = Archive::new();
        other.file("etc/empty", Vec::new(), 0o640).unwrap();
        other.dir("tmp", 0o1777).unwrap();
        other.symlink("/init", "bin/tool").unwrap();
        other.char_device("dev/console", 5, 1, 0o600).unwrap();
        other.file("bin/tool", b"#!/bin/sh\n".to_vec(), 0o755).unwrap();
        let bytes = sample().into_bytes();
        assert_eq!(other.into_bytes(), bytes);
        assert_eq!(bytes.len() % ALIGN, 0);
    }

    #[test]
    fn contradictions_and_bad_paths_are_refused() {
        let mut archive = sample();
        for path in ["", "/", "a/../b", "./a", "a//b", "a\0b", "TRAILER!!!", &"x".repeat(5000)] {
            let error = archive.file(path, Vec::new(), 0o644).unwrap_err();
            assert_eq!(error, CpioError::Path(path.to_owned()));
        }
        let twice = archive.file("bin/tool", b"other".to_vec(), 0o755).unwrap_err();
        assert_eq!(twice, CpioError::Twice("bin/tool".into()));
        archive.file("bin/tool", b"#!/bin/sh\n".to_vec(), 0o755).unwrap();
        let below = archive.file("init/x", Vec::new(), 0o644).unwrap_err();
        assert_eq!(below, CpioError::NotADirectory("init".into()));
    }
}
