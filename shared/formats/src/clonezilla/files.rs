//! The files of an image directory: their names, and the small texts among them.

use super::{DirectoryError, MAX_FILES, MAX_TEXT_BYTES, sums::Sums};
use crate::stream::Piece;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The regular files of a directory, by name.
pub(super) struct Files {
    pub(super) root: PathBuf,
    pub(super) entries: BTreeMap<String, Entry>,
}

pub(super) struct Entry {
    path: PathBuf,
    bytes: u64,
}

impl Files {
    /// Lists the directory; subdirectories are not part of an image and left out.
    pub(super) fn list(path: &Path) -> Result<Self, DirectoryError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DirectoryError::Io { path, source }
        };
        let root = fs::canonicalize(path).map_err(io(path))?;
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(&root).map_err(io(&root))? {
            let entry = entry.map_err(io(&root))?;
            let Ok(name) = entry.file_name().into_string() else {
                let name = entry.file_name().to_string_lossy().into_owned();
                return Err(DirectoryError::invalid(&name, "file name is not UTF-8"));
            };
            if entries.len() >= MAX_FILES {
                return Err(DirectoryError::invalid(&name, format!("more than {MAX_FILES} files")));
            }
            let target = fs::canonicalize(entry.path()).map_err(io(&entry.path()))?;
            if !target.starts_with(&root) {
                return Err(DirectoryError::invalid(
                    &name,
                    format!("is a link to {}, outside of the image", target.display()),
                ));
            }
            let metadata = fs::metadata(&target).map_err(io(&target))?;
            if metadata.is_file() {
                entries.insert(name, Entry { path: target, bytes: metadata.len() });
            } else if !metadata.is_dir() {
                return Err(DirectoryError::invalid(&name, "is neither a file nor a directory"));
            }
        }
        Ok(Self { root, entries })
    }

    /// The length of a file, if it exists.
    pub(super) fn bytes(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|entry| entry.bytes)
    }

    /// The content of a text file, if it exists.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, DirectoryError> {
        let bytes = self.read(name, MAX_TEXT_BYTES)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The content of a small file, if it exists.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, DirectoryError> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        if entry.bytes > limit {
            let what = format!("{} bytes are too long for this file", entry.bytes);
            return Err(DirectoryError::invalid(name, what));
        }
        let bytes = fs::read(&entry.path)
            .map_err(|source| DirectoryError::Io { path: entry.path.clone(), source })?;
        Ok(Some(bytes))
    }

    /// A file as part of a stream.
    pub(super) fn piece(&self, name: &str, sums: &Sums) -> Piece {
        let entry = &self.entries[name];
        Piece {
            name: name.to_owned(),
            path: entry.path.clone(),
            bytes: entry.bytes,
            expected: sums.of(name),
        }
    }
}
