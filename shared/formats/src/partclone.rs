//! Partclone images, read as a stream and begun anew.
//!
//! ```text
//! v2: header (110) | bitmap, 1 bit per block | its CRC | used blocks, a checksum after each group
//! v1: header (4160) | 1 byte per block | "BiTmAgIc"    | used blocks, a checksum after each block
//! ```
//!
//! The [`Reader`] verifies every checksum that the image has and that it ends where it must. All
//! integers are little-endian. Offsets and meanings were taken from images made by partclone 0.2.89,
//! 0.3.23 and 0.3.47 and checked against those tools. What the blocks mean is not this module's
//! business, and it seeks nowhere. Images of [`ntfsclone`] become such images.

mod bitmap;
mod checksum;
mod error;
mod head;
mod header;
pub mod ntfsclone;
mod reader;

pub use bitmap::{Bitmap, MAX_BLOCKS};
pub use checksum::{ChecksumKind, Checksums};
pub use error::{ReadError, Section};
pub use head::{HEAD_OVERHEAD_BYTES, HeadFacts, head_bytes, write_head};
pub use header::{BitmapMode, Header, Version};
pub use reader::Reader;

/// First bytes of every partclone image.
pub const MAGIC: &[u8; 15] = b"partclone-image";

/// What ends a bitmap of one byte per block.
const BYTE_BITMAP_END: &[u8; 8] = b"BiTmAgIc";
