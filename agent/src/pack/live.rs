//! What is different where the system runs while it is packed: its files are written to, come and go. None
//! of that is hidden, and none of it ends the archive.

use super::{entry::Stamp, roots::beneath};
use crate::disk::shown;
use std::fmt;

/// Most files that are named; the others are counted.
const MAX_NAMED: usize = 20;

/// Most characters of a path that is named.
const MAX_PATH: usize = 200;

/// Directories whose content is of no use to another machine. They are there, empty.
const EMPTIED: [&[u8]; 3] = [b"tmp", b"var/tmp", b"run"];

/// What a check of a filesystem finds, in its root.
const LOST_FOUND: &[u8] = b"lost+found";

/// How a running system is packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Files that the system swaps to, by their paths without the first `/`.
    pub swap_files: Vec<Vec<u8>>,
}

/// Files that were not the same from the first look at them to the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsteady {
    /// How many.
    pub count: u64,
    /// The first of them, and what became of each, for people.
    pub first: Vec<String>,
}

impl Unsteady {
    pub(super) fn add(&mut self, path: &[u8], how: &str) {
        self.count += 1;
        if self.first.len() < MAX_NAMED {
            let path: String = shown(path).chars().take(MAX_PATH).collect();
            self.first.push(format!("{path} {how}"));
        }
    }
}

impl fmt::Display for Unsteady {
    /// Nothing if there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return Ok(());
        }
        let files = if self.count == 1 { "file" } else { "files" };
        write!(f, "{} {files} changed while being read: {}", self.count, self.first.join("; "))?;
        match self.count - self.first.len() as u64 {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Whether the content of a directory that this lies in is left out. `on_its_own` is the path on the
/// filesystem.
pub(super) fn is_left_out(path: &[u8], on_its_own: &[u8]) -> bool {
    let is_in = |path, dir| beneath(path, dir).is_some_and(|rest| !rest.is_empty());
    EMPTIED.iter().any(|dir| is_in(path, dir)) || is_in(on_its_own, LOST_FOUND)
}

/// What became of a file between two looks, of which the first gave the size in its header; `None` if
/// nothing. From `ended` on, if that is known, there was nothing more to read.
pub(super) fn change(before: Stamp, after: Stamp, ended: Option<u64>) -> Option<String> {
    let end = ended.or((after.bytes < before.bytes).then_some(after.bytes.cast_unsigned()));
    match end {
        Some(end) => Some(format!("became shorter: it is zeros from byte {end} on")),
        None if after.bytes > before.bytes => {
            Some(format!("grew: it is cut at {} bytes", before.bytes))
        }
        None => (before != after).then(|| "was changed: parts may be old, others new".to_owned()),
    }
}
