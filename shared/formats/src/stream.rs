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
mod lzip;
mod lzo1x;
mod lzop;
mod pieces;
mod read;
mod summed;
mod xz;

pub use digest::{Algorithm, Expected, Hasher, Mismatch};
pub use pieces::{Piece, PieceError, Place, Progress};
pub(crate) use read::{array, read_whole};
pub use summed::{FileSum, Summed, is_unlisted};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lz4::Lz4;
use lzip::Lzip;
use lzma_rust2::LzmaReader;
use lzop::Lzop;
use pieces::Pieces;
use read::Blockwise;
use std::{
    fmt,
    io::{self, BufRead, BufReader, Cursor, Read},
    path::PathBuf,
    sync::Arc,
};
use xz::Xz;

/// Read-ahead of compressed bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// Memory for the old LZMA format, in KiB: that of `xz --format=lzma -9` is 65 MiB.
const MAX_LZMA_KIB: u32 = 66 << 10;

/// As many bytes as the longest magic has.
const MAGIC_BYTES: usize = 16;

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
    /// lrzip looks back over the whole image, and finds parts of it at the end of the file.
    #[error(
        "{file}: lrzip compresses an image as a whole, so that it cannot be read as a stream; \
         join its pieces with `cat`, `lrzip -d` them into a file whose name ends in -ptcl-img.uncomp \
         and take that one's place, or save the image again with zstd (-z9p)"
    )]
    Lrzip {
        /// Its path.
        file: PathBuf,
    },
}

/// What the first bytes of a file look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A known compression, or an image that is not compressed.
    Known(Compression),
    /// Something else.
    Unknown,
}

/// How a stream that is not compressed begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first bytes of an image that is known.
    Magic,
    /// Anyhow: it is a raw image.
    Any,
}

/// The decompressed stream and how far its files have been read.
pub struct Opened {
    /// The decompressed bytes. Errors of the files are inside its errors, as [`PieceError`].
    pub stream: Box<dyn Read + Send>,
    /// Shared with the stream.
    pub progress: Arc<Progress>,
}

impl Compression {
    /// All of them.
    const ALL: [Self; 10] = [
        Self::None,
        Self::Gzip,
        Self::Zstd,
        Self::Bzip2,
        Self::Lzop,
        Self::Lzma,
        Self::Xz,
        Self::Lzip,
        Self::Lz4,
        Self::Lrzip,
    ];

    /// The end of a file name, as Clonezilla writes it.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "uncomp",
            Self::Gzip => "gz",
            Self::Zstd => "zst",
            Self::Bzip2 => "bz2",
            Self::Lzop => "lzo",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzip => "lzip",
            Self::Lz4 => "lz4",
            Self::Lrzip => "lrz",
        }
    }

    /// From the end of a file name.
    pub fn from_suffix(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.suffix() == suffix)
    }

    /// From the first bytes of a stream.
    pub fn detect(bytes: &[u8]) -> Found {
        const MAGICS: [(&[u8], Compression); 11] = [
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
            (crate::partclone::ntfsclone::MAGIC, Compression::None),
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
            Self::None => "uncompressed",
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
            Self::Known(Compression::None) => f.write_str("an uncompressed image"),
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
pub fn open(
    pieces: Vec<Piece>,
    named: Option<Compression>,
    start: Start,
) -> Result<Opened, StreamError> {
    let file = pieces.first().ok_or(StreamError::Empty)?.path.clone();
    let progress = Arc::new(Progress::new(&pieces));
    let mut pieces = Pieces::new(pieces, Arc::clone(&progress));
    let mut magic = Vec::with_capacity(MAGIC_BYTES);
    if let Err(source) = (&mut pieces).take(MAGIC_BYTES as u64).read_to_end(&mut magic) {
        return Err(StreamError::Io { file, source });
    }
    let found = Compression::detect(&magic);
    let compression = match (named, found, start) {
        (Some(Compression::None), _, Start::Any) => Compression::None,
        (Some(named), found, _) if found == Found::Known(named) => named,
        (None, Found::Known(found), _) => found,
        (None, Found::Unknown, Start::Any) => Compression::None,
        (named, found, _) => {
            let named = named.unwrap_or(Compression::None);
            return Err(StreamError::Magic { file, named, found });
        }
    };
    if compression == Compression::Lrzip {
        return Err(StreamError::Lrzip { file });
    }
    let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(magic).chain(pieces));
    let stream =
        decompress(whole, compression).map_err(|source| StreamError::Io { file, source })?;
    Ok(Opened { stream, progress })
}

/// Undoes a compression. Memory: a dictionary and a block, at most 192 MiB whatever comes.
pub fn decompress<'r>(
    compressed: impl BufRead + Send + 'r,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send + 'r>> {
    Ok(match compression {
        Compression::None => Box::new(compressed),
        Compression::Gzip => Box::new(MultiGzDecoder::new(compressed)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(compressed)?),
        Compression::Bzip2 => Box::new(MultiBzDecoder::new(compressed)),
        Compression::Lzop => Box::new(Blockwise::new(Lzop::new(compressed))),
        Compression::Lzma => Box::new(LzmaReader::new_mem_limit(compressed, MAX_LZMA_KIB, None)?),
        Compression::Xz => Box::new(Xz::new(compressed)),
        Compression::Lzip => Box::new(Lzip::new(compressed)),
        Compression::Lz4 => Box::new(Blockwise::new(Lz4::new(compressed))),
        Compression::Lrzip => return Err(io::ErrorKind::Unsupported.into()),
    })
}
