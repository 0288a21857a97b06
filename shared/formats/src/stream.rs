//! The files of one partition image as one decompressed stream.
//!
//! ```text
//! x.gz.aa, x.gz.ab ... ──Pieces (concatenated, checksums verified)──> decompressor ──> Read
//! ```
//!
//! Clonezilla cuts the compressed stream at arbitrary bytes, and its parallel compressors write many
//! members or frames one after the other. The compression is taken from the file's name and must
//! agree with its first bytes.

mod digest;
mod lz4;
mod pieces;
mod xz;

pub use digest::{Algorithm, Expected, Hasher, Mismatch};
pub use pieces::{Piece, PieceError, Place, Progress};

use flate2::bufread::MultiGzDecoder;
use lz4::Lz4;
use lzma_rust2::LzmaReader;
use pieces::Pieces;
use std::{
    fmt,
    io::{self, BufReader, Cursor, Read},
    path::PathBuf,
    sync::Arc,
};
use xz::Xz;

/// Read-ahead of compressed bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// Memory for the old LZMA format, in KiB: that of `xz --format=lzma -9` is 65 MiB.
const MAX_LZMA_KIB: u32 = 66 << 10;

/// As many bytes as the longest magic has.
const MAGIC_BYTES: usize = 15;

/// How a partition image is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// Not at all (`uncomp`).
    None,
    /// gzip, pigz (`gz`).
    Gzip,
    /// zstd (`zst`).
    Zstd,
    /// bzip2, lbzip2 (`bz2`).
    Bzip2,
    /// lzop (`lzo`).
    Lzop,
    /// The old LZMA format (`lzma`).
    Lzma,
    /// xz, pixz (`xz`).
    Xz,
    /// lzip, plzip (`lzip`).
    Lzip,
    /// lz4 (`lz4`).
    Lz4,
    /// lrzip (`lrz`).
    Lrzip,
}

/// Why the stream cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No file at all.
    #[error("an image without files")]
    Empty,
    /// The first file cannot be read.
    #[error("{file} cannot be read")]
    Io {
        /// Its path.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The name says one compression, the content is something else.
    #[error("{file} is named as {named} but begins as {found}; it is damaged or misnamed")]
    Magic {
        /// Its path.
        file: PathBuf,
        /// From the name.
        named: Compression,
        /// From the first bytes.
        found: Found,
    },
    /// A compression that cannot be undone here.
    #[error(
        "{file}: {compression} compression is not supported yet; \
         save the image again with gzip (-z1p) or zstd (-z9p)"
    )]
    Unsupported {
        /// Its path.
        file: PathBuf,
        /// Its compression.
        compression: Compression,
    },
}

/// What the first bytes of a file look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A known compression, or an uncompressed partclone image.
    Known(Compression),
    /// Something else.
    Unknown,
}

/// The decompressed stream and how far its files have been read.
pub struct Opened {
    /// The decompressed bytes. Errors of the files are inside its errors, as [`PieceError`].
    pub stream: Box<dyn Read + Send>,
    /// Shared with the stream.
    pub progress: Arc<Progress>,
}

impl Compression {
    /// From the end of a file name, as Clonezilla writes it.
    pub fn from_suffix(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "uncomp" => Self::None,
            "gz" => Self::Gzip,
            "zst" => Self::Zstd,
            "bz2" => Self::Bzip2,
            "lzo" => Self::Lzop,
            "lzma" => Self::Lzma,
            "xz" => Self::Xz,
            "lzip" => Self::Lzip,
            "lz4" => Self::Lz4,
            "lrz" => Self::Lrzip,
            _ => return None,
        })
    }

    /// From the first bytes of a stream.
    pub fn detect(bytes: &[u8]) -> Found {
        const MAGICS: [(&[u8], Compression); 10] = [
            (b"\x1f\x8b", Compression::Gzip),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"BZh", Compression::Bzip2),
            (b"\x89LZO\0", Compression::Lzop),
            (b"\x5d\0\0", Compression::Lzma),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"LZIP", Compression::Lzip),
            (b"\x04\x22\x4d\x18", Compression::Lz4),
            (b"LRZI", Compression::Lrzip),
            (crate::partclone::MAGIC, Compression::None),
        ];
        // pzstd begins with a skippable frame (magic 0x184D2A50 .. 0x184D2A5F).
        let skippable =
            bytes.len() >= 4 && bytes[0] & 0xf0 == 0x50 && bytes[1..4] == *b"\x2a\x4d\x18";
        if skippable {
            return Found::Known(Self::Zstd);
        }
        MAGICS
            .iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map_or(Found::Unknown, |(_, compression)| Found::Known(*compression))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Lzop => "lzop",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzip => "lzip",
            Self::Lz4 => "lz4",
            Self::Lrzip => "lrzip",
        })
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(Compression::None) => f.write_str("an uncompressed partclone image"),
            Self::Known(compression) => compression.fmt(f),
            Self::Unknown => f.write_str("nothing known"),
        }
    }
}

/// Files one after the other as they are, verified against their checksums at their ends.
pub fn open_raw(pieces: Vec<Piece>) -> Opened {
    let progress = Arc::new(Progress::new(&pieces));
    let stream = Box::new(Pieces::new(pieces, Arc::clone(&progress)));
    Opened { stream, progress }
}

/// Opens the files of one image, in order, as one stream. `named` is the compression that the name
/// says; without one (names of old Clonezillas) the first bytes decide.
pub fn open(pieces: Vec<Piece>, named: Option<Compression>) -> Result<Opened, StreamError> {
    let file = pieces.first().ok_or(StreamError::Empty)?.path.clone();
    let progress = Arc::new(Progress::new(&pieces));
    let mut pieces = Pieces::new(pieces, Arc::clone(&progress));
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    if let Err(source) = (&mut pieces).take(MAGIC_BYTES as u64).read_to_end(&mut start) {
        return Err(StreamError::Io { file, source });
    }
    let found = Compression::detect(&start);
    let compression = match (named, found) {
        (Some(named), found) if found == Found::Known(named) => named,
        (None, Found::Known(found)) => found,
        (named, found) => {
            let named = named.unwrap_or(Compression::None);
            return Err(StreamError::Magic { file, named, found });
        }
    };
    let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(start).chain(pieces));
    let failed = |source| StreamError::Io { file: file.clone(), source };
    let stream: Box<dyn Read + Send> = match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Compression::Zstd => {
            Box::new(zstd::stream::read::Decoder::with_buffer(whole).map_err(failed)?)
        }
        Compression::Lzma => {
            Box::new(LzmaReader::new_mem_limit(whole, MAX_LZMA_KIB, None).map_err(failed)?)
        }
        Compression::Xz => Box::new(Xz::new(whole)),
        Compression::Lz4 => Box::new(Lz4::new(whole)),
        Compression::Bzip2 | Compression::Lzop | Compression::Lzip | Compression::Lrzip => {
            return Err(StreamError::Unsupported { file, compression });
        }
    };
    Ok(Opened { stream, progress })
}
