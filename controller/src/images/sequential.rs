//! The file of a partition, read once from front to back and held against the list of checksums.

use super::{StoreError, loaded::Loaded};
use metalcast_formats::{
    clonezilla::Directory,
    stream::{Algorithm, Expected, Hasher},
};
use metalcast_shared::manifest::{Chunk, MAX_FRAME_BYTES, Partition};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt,
    path::PathBuf,
};

/// Read-ahead.
const BUFFER_BYTES: usize = 1 << 20;

/// The file.
pub(super) struct Sequential<'f> {
    loaded: &'f Loaded,
    path: PathBuf,
    file: &'f File,
    file_bytes: u64,
    at: u64,
    hasher: Hasher,
    expected: Expected,
}

impl<'f> Sequential<'f> {
    /// Begins with the first byte. `directory` is that of the revision.
    pub(super) fn open(
        loaded: &'f Loaded,
        partition: &Partition,
        directory: &Directory,
    ) -> Result<Self, StoreError> {
        let path = directory.path.join(&partition.file);
        let file = loaded.data(&partition.name)?;
        let image = directory.partitions.iter().find(|image| image.name == partition.name);
        let pieces = image.map(|image| &image.pieces[..]).unwrap_or_default();
        let is_it = |expected: &&Expected| expected.algorithm == Algorithm::Blake2b;
        let expected = match pieces {
            [piece] if piece.name == partition.file => piece.expected.iter().find(is_it).cloned(),
            _ => None,
        };
        let Some(expected) = expected else {
            return Err(loaded.damaged(path, 0, "it is not in the list of checksums, B2SUMS"));
        };
        let hasher = Algorithm::Blake2b.hasher();
        Ok(Self { loaded, path, file, file_bytes: partition.file_bytes, at: 0, hasher, expected })
    }

    /// The frame of a chunk, which lies further on.
    pub(super) fn frame(&mut self, chunk: &Chunk) -> Result<Vec<u8>, StoreError> {
        if chunk.offset < self.at || chunk.frame_bytes > MAX_FRAME_BYTES {
            let reason = format!("chunk {} cannot lie there", chunk.index);
            return Err(self.loaded.damaged(self.path.clone(), chunk.offset, reason));
        }
        self.skip_to(chunk.offset)?;
        let mut frame = vec![0; chunk.frame_bytes as usize];
        self.read_exact(&mut frame).map_err(|source| self.failed(source))?;
        Ok(frame)
    }

    /// Reads on up to this byte.
    pub(super) fn skip_to(&mut self, offset: u64) -> Result<(), StoreError> {
        let bytes = offset.saturating_sub(self.at);
        let mut buffered = BufReader::with_capacity(BUFFER_BYTES, self.by_ref().take(bytes));
        match io::copy(&mut buffered, &mut io::sink()) {
            Ok(skipped) if skipped == bytes => Ok(()),
            Ok(_) => Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Reads the rest, and compares the checksum of all.
    pub(super) fn finish(mut self) -> Result<(), StoreError> {
        self.skip_to(self.file_bytes)?;
        let Self { loaded, path, hasher, expected, .. } = self;
        match hasher.finish() == expected.digest {
            true => Ok(()),
            false => Err(loaded.damaged(path, 0, "it does not match its checksum in B2SUMS")),
        }
    }

    /// Why it cannot be read on.
    pub(super) fn failed(&self, source: io::Error) -> StoreError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.loaded.damaged(self.path.clone(), self.at, "the file ends too early")
            }
            _ => StoreError::io("reading", &self.path)(source),
        }
    }
}

impl Read for Sequential<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(buffer, self.at)?;
        self.at += bytes as u64;
        self.hasher.update(&buffer[..bytes]);
        Ok(bytes)
    }
}
