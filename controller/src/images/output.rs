//! A file of a new revision or export, written once from front to back and hashed on the way.

use metalcast_formats::stream::{Algorithm, Hasher};
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
    file: BufWriter<File>,
    hashers: Vec<(Algorithm, Hasher)>,
    bytes: u64,
}

/// What a finished file is called and hashes to.
pub(super) struct FileSum {
    pub(super) name: String,
    pub(super) bytes: u64,
    digests: Vec<(Algorithm, Vec<u8>)>,
}

impl FileSum {
    /// As `b2sum` and its like print it, if it was hashed so.
    pub(super) fn line(&self, algorithm: Algorithm) -> Option<String> {
        let (_, digest) = self.digests.iter().find(|(one, _)| *one == algorithm)?;
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{hex}  {}\n", self.name))
    }
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
                file: BufWriter::with_capacity(BUFFER_BYTES, file),
                hashers: algorithms.iter().map(|one| (*one, one.hasher())).collect(),
                bytes: 0,
            }),
            Err(source) => Err(WriteError { path, offset: 0, source }),
        }
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.write_all(bytes).map_err(|source| self.failed(source))
    }

    pub(super) fn failed(&self, source: io::Error) -> WriteError {
        WriteError { path: self.path.clone(), offset: self.bytes, source }
    }

    /// Makes the file durable.
    pub(super) fn finish(mut self) -> Result<FileSum, WriteError> {
        if let Err(source) = self.file.flush().and_then(|()| self.file.get_ref().sync_all()) {
            return Err(self.failed(source));
        }
        let digests =
            self.hashers.into_iter().map(|(one, hasher)| (one, hasher.finish())).collect();
        Ok(FileSum { name: self.name, bytes: self.bytes, digests })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hashers.iter_mut().for_each(|(_, hasher)| hasher.update(&bytes[..written]));
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
