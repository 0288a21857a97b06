//! All paths of a tree: each directory before what is in it.

use crate::disk::shown;
use anyhow::{Context, ensure};
use nix::dir::Dir;
use std::os::fd::OwnedFd;

/// Most bytes of names of directories that are not through. The largest directories have some million
/// names.
const MAX_NAMES_BYTES: usize = 32 << 20;

/// The paths.
pub(super) struct Walk {
    /// Directories on the way down.
    levels: Vec<Level>,
    names_bytes: usize,
    began: bool,
}

/// A directory, and the names in it that are still to come.
struct Level {
    path: Vec<u8>,
    /// Each with a NUL behind it; taken from the end.
    names: Vec<u8>,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self { levels: Vec::new(), names_bytes: 0, began: false }
    }

    /// The next path; the first is the root's, which is empty.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        if !std::mem::replace(&mut self.began, true) {
            return Some(Vec::new());
        }
        loop {
            let level = self.levels.last_mut()?;
            if level.names.pop().is_none() {
                self.levels.pop();
                continue;
            }
            let start = level.names.iter().rposition(|byte| *byte == 0).map_or(0, |at| at + 1);
            let name = level.names.split_off(start);
            self.names_bytes -= name.len() + 1;
            return Some(match level.path.is_empty() {
                true => name,
                false => [&level.path, &b"/"[..], &name].concat(),
            });
        }
    }

    /// Says that the path that was given last is a directory, which is open.
    pub(super) fn enter(&mut self, dir: OwnedFd, path: &[u8]) -> anyhow::Result<()> {
        let dir = Dir::from_fd(dir);
        let dir = dir.with_context(|| format!("reading directory {}", shown(path)))?;
        let mut names = Vec::new();
        for entry in dir {
            let entry = entry.with_context(|| format!("reading directory {}", shown(path)))?;
            let name = entry.file_name().to_bytes_with_nul();
            if !matches!(name, b".\0" | b"..\0") {
                names.extend_from_slice(name);
                ensure!(
                    self.names_bytes + names.len() <= MAX_NAMES_BYTES,
                    "directory {} and those above it have more names than can be kept in mind",
                    shown(path)
                );
            }
        }
        names.shrink_to_fit();
        self.names_bytes += names.len();
        self.levels.push(Level { path: path.to_vec(), names });
        Ok(())
    }
}
