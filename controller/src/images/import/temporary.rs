//! A raw disk that is only there for an import: a sparse file of the store that is no revision.

use crate::images::{Images, ImportError, StoreError, layout::Temporary};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// What is found in blocks of this length to be zero is a hole: larger than any filesystem's blocks.
const HOLE_BYTES: usize = 64 << 10;

/// The file. It is deleted when it is dropped, or when the store is opened next.
pub(super) struct TemporaryDisk {
    dir: Temporary,
    file: File,
}

impl TemporaryDisk {
    pub(super) fn create(images: &Images) -> Result<Self, ImportError> {
        let dir = images.layout.temporary()?;
        let path = place(&dir);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(StoreError::io("making", path))?;
        Ok(Self { dir, file })
    }

    pub(super) fn path(&self) -> PathBuf {
        place(&self.dir)
    }

    /// The directory that it is in.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes at an offset that is a multiple of 64 KiB, leaving out what is zero.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let mut at = offset;
        for block in bytes.chunks(HOLE_BYTES) {
            if block.iter().any(|byte| *byte != 0) {
                self.file.write_all_at(block, at).map_err(|error| self.failed(error))?;
            }
            at += block.len() as u64;
        }
        Ok(())
    }

    /// Ends it there: what was left out at the end is part of it.
    pub(super) fn set_bytes(&self, bytes: u64) -> Result<(), StoreError> {
        self.file.set_len(bytes).map_err(|error| self.failed(error))
    }

    /// The open file, for reading.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    fn failed(&self, source: io::Error) -> StoreError {
        StoreError::io("writing", self.path())(source)
    }
}

fn place(dir: &Temporary) -> PathBuf {
    dir.path().join("disk")
}
