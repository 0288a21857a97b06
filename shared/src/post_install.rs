//! What a project adds to every system that is deployed from its images: files, and a script that runs in it.
//!
//! The controller packs both into one file (postcard, then one zstd frame) and gives it out by its hash.

use crate::hash::Hash;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most bytes of all files and the script together: an agent has them in memory, packed and unpacked.
pub const MAX_BYTES: usize = 8 << 20;

/// Most files, links and directories.
pub const MAX_ENTRIES: usize = 10_000;

/// Longest path or target of a link, in bytes: the kernel's PATH_MAX with its NUL.
pub const MAX_PATH_BYTES: usize = 4095;

/// Seconds that the script may take.
pub const SCRIPT_SECONDS: u64 = 600;

/// What is added, as a task names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostInstall {
    /// BLAKE3 of the packed file.
    pub hash: Hash,
    /// Its length.
    pub packed_bytes: u32,
    /// How many files, links and directories there are.
    pub entries: u32,
    /// Whether there is a script.
    pub has_script: bool,
}

/// The content of the packed file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content<'c> {
    /// In the order of their paths, which puts directories before what is in them.
    #[serde(borrow)]
    pub entries: Vec<Entry<'c>>,
    /// The script.
    pub script: Option<&'c [u8]>,
}

/// A file, link or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'c> {
    /// Where it belongs, relative to the root directory.
    pub path: &'c str,
    /// Permission bits.
    pub mode: u16,
    /// What it is.
    #[serde(borrow)]
    pub kind: Kind<'c>,
}

/// Kinds of entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind<'c> {
    /// A directory. One that is there stays as it is.
    Directory,
    /// A file with this content.
    File(&'c [u8]),
    /// A symbolic link to this.
    Link(&'c str),
}

impl fmt::Display for PostInstall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.entries, self.has_script) {
            (0, _) => f.write_str("adds a script"),
            (entries, true) => write!(f, "adds {entries} files and a script"),
            (entries, false) => write!(f, "adds {entries} files"),
        }
    }
}

impl<'c> Content<'c> {
    /// Bytes of the packed file before it is compressed.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("writing to memory cannot fail")
    }

    /// Reads them.
    ///
    /// # Errors
    /// When they are something else.
    pub fn of(bytes: &'c [u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_read_back_and_nothing_else_is_taken_for_it() {
        let file = Entry { path: "etc/motd", mode: 0o644, kind: Kind::File(b"hello") };
        let link = Entry { path: "etc/x", mode: 0o777, kind: Kind::Link("../y") };
        let dir = Entry { path: "etc", mode: 0o755, kind: Kind::Directory };
        let content = Content { entries: vec![dir, file, link], script: Some(b"#!/bin/sh\n") };
        let bytes = content.to_bytes();
        assert_eq!(Content::of(&bytes), Ok(content));
        for length in 0..bytes.len() {
            assert!(Content::of(&bytes[..length]).is_err(), "{length}");
        }
    }
}
