//! A file of the new revision, written once from front to back and hashed on the way.

use crate::images::ImportError;
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

/// The file.
pub(super) struct Output {
    name: String,
    path: PathBuf,
    file: BufWriter<File>,
    hasher: Hasher,
    bytes: u64,
}

/// What a finished file is called and hashes to.
pub(super) struct FileSum {
    pub(super) name: String,
    pub(super) bytes: u64,
    digest: Vec<u8>,
}

impl FileSum {
    /// As `b2sum` prints it.
    pub(super) fn line(&self) -> String {
        let hex: String = self.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}  {}\n", self.name)
    }
}

impl Output {
    pub(super) fn create(dir: &Path, name: &str) -> Result<Self, ImportError> {
        let path = dir.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        match file {
            Ok(file) => Ok(Self {
                name: name.to_owned(),
                path,
                file: BufWriter::with_capacity(BUFFER_BYTES, file),
                hasher: Algorithm::Blake2b.hasher(),
                bytes: 0,
            }),
            Err(source) => Err(ImportError::Write { path, offset: 0, source }),
        }
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.write_all(bytes).map_err(|source| self.failed(source))
    }

    pub(super) fn failed(&self, source: io::Error) -> ImportError {
        ImportError::Write { path: self.path.clone(), offset: self.bytes, source }
    }

    /// Makes the file durable.
    pub(super) fn finish(mut self) -> Result<FileSum, ImportError> {
        if let Err(source) = self.file.flush().and_then(|()| self.file.get_ref().sync_all()) {
            return Err(self.failed(source));
        }
        Ok(FileSum { name: self.name, bytes: self.bytes, digest: self.hasher.finish() })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
