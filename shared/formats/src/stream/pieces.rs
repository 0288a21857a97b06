//! Files read one after the other as one, each verified at its end.

use super::digest::{Expected, Mismatch, Verifier};
use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// One file of a (split) stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Name within its directory, for messages.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes when it was found.
    pub bytes: u64,
    /// What it must hash to.
    pub expected: Vec<Expected>,
}

/// What is wrong with a file; travels inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// The file cannot be opened or read.
    #[error("{name} cannot be read at byte {offset}")]
    Io {
        /// The file.
        name: String,
        /// How far it was read.
        offset: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The file has another length than when it was found.
    #[error(
        "{name} ends at byte {offset}, but had {expected} bytes at the start; it is being changed"
    )]
    Length {
        /// The file.
        name: String,
        /// Its length now.
        offset: u64,
        /// Its length when it was found.
        expected: u64,
    },
    /// The file does not match its checksum.
    #[error("{name} does not match its checksum")]
    Checksum {
        /// The file.
        name: String,
        /// Which and how.
        source: Mismatch,
    },
}

/// How far the files of a stream have been read.
#[derive(Debug)]
pub struct Progress {
    read: AtomicU64,
    /// Names and ends of the files, counted in the whole stream.
    ends: Vec<(String, u64)>,
}

/// A place in the files of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the file.
    pub name: String,
    /// Offset in it, in bytes.
    pub offset: u64,
}

impl Progress {
    pub(super) fn new(pieces: &[Piece]) -> Self {
        let ends = pieces.iter().scan(0u64, |end, piece| {
            *end = end.saturating_add(piece.bytes);
            Some((piece.name.clone(), *end))
        });
        Self { read: AtomicU64::new(0), ends: ends.collect() }
    }

    /// Bytes read from the files.
    pub fn bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Length of all files in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.ends.last().map_or(0, |(_, end)| *end)
    }

    /// The file being read and how far; what was decompressed last lies at or shortly before it.
    pub fn place(&self) -> Place {
        let read = self.bytes();
        let at = self.ends.iter().position(|(_, end)| read <= *end);
        let at = at.unwrap_or(self.ends.len().saturating_sub(1));
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before].1);
        Place {
            name: self.ends.get(at).map(|(name, _)| name.clone()).unwrap_or_default(),
            offset: read - start,
        }
    }
}

/// The concatenation.
pub(super) struct Pieces {
    rest: std::vec::IntoIter<Piece>,
    open: Option<OpenPiece>,
    progress: Arc<Progress>,
}

struct OpenPiece {
    piece: Piece,
    file: File,
    offset: u64,
    verifier: Verifier,
}

impl Pieces {
    pub(super) fn new(pieces: Vec<Piece>, progress: Arc<Progress>) -> Self {
        Self { rest: pieces.into_iter(), open: None, progress }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => match self.rest.next() {
                    Some(piece) => OpenPiece::open(piece).map_err(wrap)?,
                    None => return Ok(0),
                },
            };
            let bytes = open.read(buffer).map_err(wrap)?;
            if bytes > 0 {
                self.progress.read.fetch_add(bytes as u64, Ordering::Relaxed);
                self.open = Some(open);
                return Ok(bytes);
            }
            open.finish().map_err(wrap)?;
        }
    }
}

fn wrap(error: PieceError) -> io::Error {
    io::Error::other(error)
}

impl OpenPiece {
    fn open(piece: Piece) -> Result<Self, PieceError> {
        let verifier = Verifier::new(&piece.expected);
        match File::open(&piece.path) {
            Ok(file) => Ok(Self { piece, file, offset: 0, verifier }),
            Err(source) => Err(PieceError::Io { name: piece.name, offset: 0, source }),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, PieceError> {
        let bytes = loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(bytes) => break bytes,
                Err(source) => {
                    let name = self.piece.name.clone();
                    return Err(PieceError::Io { name, offset: self.offset, source });
                }
            }
        };
        self.offset += bytes as u64;
        self.verifier.update(&buffer[..bytes]);
        Ok(bytes)
    }

    fn finish(self) -> Result<(), PieceError> {
        let Piece { name, bytes: expected, .. } = self.piece;
        if self.offset != expected {
            return Err(PieceError::Length { name, offset: self.offset, expected });
        }
        self.verifier.finish().map_err(|source| PieceError::Checksum { name, source })
    }
}
