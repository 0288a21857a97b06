//! What can be wrong with a partclone image, and where.

use std::{fmt, io};

/// Part of an image, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The fixed header.
    Header,
    /// The header's checksum.
    HeaderEnd,
    /// The map of used blocks.
    Bitmap,
    /// What follows the bitmap: its checksum, or the mark of its end.
    BitmapEnd,
    /// The block with this number among the used ones, from 0.
    Block(u64),
    /// The checksum of the blocks that end before this number among the used ones.
    Checksum(u64),
    /// Behind the last block.
    End,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("the header"),
            Self::HeaderEnd => f.write_str("the header's checksum"),
            Self::Bitmap => f.write_str("the bitmap"),
            Self::BitmapEnd => f.write_str("the bitmap's checksum"),
            Self::Block(number) => write!(f, "used block {number}"),
            Self::Checksum(number) => write!(f, "the checksum before used block {number}"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// Why an image cannot be read. Offsets count bytes of the decompressed stream.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream itself failed, for example in decompression.
    #[error("the image cannot be read on at byte {offset} ({section})")]
    Io {
        /// Bytes read before.
        offset: u64,
        /// What was being read.
        section: Section,
        /// The stream's error.
        source: io::Error,
    },
    /// The stream ended too early.
    #[error("the image ends at byte {offset}, within {section}; it was cut off")]
    Truncated {
        /// Length of the stream.
        offset: u64,
        /// What was being read.
        section: Section,
    },
    /// Some other file.
    #[error("not a partclone image: it does not begin with \"partclone-image\"")]
    NotPartclone,
    /// A field has a value that no image may have.
    #[error("byte {offset}: {what}; the image is damaged")]
    Invalid {
        /// Where the field begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// Possibly a good image, but of a kind that is not known here.
    #[error("byte {offset}: {what} is not supported")]
    Unsupported {
        /// Where it says so.
        offset: u64,
        /// The feature.
        what: String,
    },
    /// Bytes and their checksum disagree.
    #[error(
        "byte {offset}: {section} does not match what it covers \
         (stored {stored}, computed {computed}); the image is damaged before this byte"
    )]
    Checksum {
        /// Where the checksum is stored.
        offset: u64,
        /// What it is.
        section: Section,
        /// The stored bytes, in hexadecimal.
        stored: String,
        /// What it should be.
        computed: String,
    },
    /// The stream goes on after the image.
    #[error("byte {offset}: data follows after the image's last block; it is damaged")]
    Trailing {
        /// Where the image should end.
        offset: u64,
    },
}
