//! A file of a new revision or export, written once from front to back and hashed on the way.

pub(super) use metalcast_formats::stream::FileSum;

use metalcast_formats::stream::{Algorithm, Summed};
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Collected before it is written.
const BUFFER_BYTES: usize = 1 << 20;

/// Only the controller reads images.
const FILE_MODE: u32 = 0o600;

/// A file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be written at byte {offset}")]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// How far it was written.
    pub offset: u64,
    /// The system's reason.
    pub source: io::Error,
}

/// The file.
pub(super) struct Output {
    name: String,
    path: PathBuf,
    file: Summed<BufWriter<File>>,
}

impl Output {
    pub(super) fn create(
        dir: &Path,
        name: &str,
        algorithms: &[Algorithm],
    ) -> Result<Self, WriteError> {
        let path = dir.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        match file {
            Ok(file) => Ok(Self {
                name: name.to_owned(),
                path,
                file: Summed::new(BufWriter::with_capacity(BUFFER_BYTES, file), algorithms),
            }),
            Err(source) => Err(WriteError { path, offset: 0, source }),
        }
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.write_all(bytes).map_err(|source| self.failed(source))
    }

    /// Makes what was written so far durable.
    pub(super) fn sync(&mut self) -> Result<(), WriteError> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().get_ref().sync_data());
        synced.map_err(|source| self.failed(source))
    }

    pub(super) fn failed(&self, source: io::Error) -> WriteError {
        WriteError { path: self.path.clone(), offset: self.bytes(), source }
    }

    /// Makes the file durable.
    pub(super) fn finish(self) -> Result<FileSum, WriteError> {
        let (path, offset) = (self.path, self.file.bytes());
        let (mut file, sum) = self.file.finish(self.name);
        match file.flush().and_then(|()| file.get_ref().sync_all()) {
            Ok(()) => Ok(sum),
            Err(source) => Err(WriteError { path, offset, source }),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
