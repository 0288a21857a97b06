//! The header of an image: its fields, and which values they may have.

use super::{
    MAGIC, ReadError, Section,
    bitmap::MAX_BLOCKS,
    checksum::{self, ChecksumKind, Checksums},
};
use crate::bytes::{le_u16, le_u32, le_u64};
use metalcast_shared::manifest::MAX_BLOCK_BYTES;

/// Length of a v2 header in bytes.
pub(super) const V2_BYTES: usize = 110;
/// Length of a v1 header in bytes.
pub(super) const V1_BYTES: usize = 4160;
/// Bytes needed to tell the versions apart.
pub(super) const PREFIX_BYTES: usize = 36;
/// Marker of a little-endian writer.
pub(super) const ENDIAN: u16 = 0xC0DE;
/// Size of the options struct within a v2 header.
pub(super) const FEATURE_BYTES: u32 = 18;
/// Where the CRC of a v2 header is.
pub(super) const CRC_AT: usize = 106;

/// Version of the image format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Written by partclone before 0.3.
    V1,
    /// Written by every partclone since.
    V2,
}

/// How the used blocks are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitmapMode {
    /// Not at all: every block is used.
    None,
    /// One bit per block.
    Bit,
    /// One byte per block.
    Byte,
}

/// A header whose fields agree with each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the format.
    pub version: Version,
    /// Version text of the program that wrote it; empty in v1.
    pub writer: String,
    /// Name of the filesystem as partclone calls it, such as `EXTFS`.
    pub filesystem: String,
    /// Bytes that a target must have at least.
    pub device_bytes: u64,
    /// Blocks of the filesystem.
    pub total_blocks: u64,
    /// Used blocks as the writer counted them; the reader trusts its own count instead.
    pub declared_used_blocks: u64,
    /// Size of a block in bytes.
    pub block_bytes: u32,
    /// Checksums over the blocks.
    pub checksums: Checksums,
    /// Form of the bitmap.
    pub bitmap_mode: BitmapMode,
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn invalid(offset: usize, what: impl Into<String>) -> ReadError {
    ReadError::Invalid { offset: offset as u64, what: what.into() }
}

fn unsupported(offset: usize, what: impl Into<String>) -> ReadError {
    ReadError::Unsupported { offset: offset as u64, what: what.into() }
}

/// Which version the first [`PREFIX_BYTES`] bytes of an image announce.
pub(super) fn version(prefix: &[u8; PREFIX_BYTES]) -> Result<Version, ReadError> {
    if &prefix[..MAGIC.len()] != MAGIC {
        return Err(ReadError::NotPartclone);
    }
    match &prefix[30..34] {
        b"0001" => Ok(Version::V1),
        b"0002" => Ok(Version::V2),
        other => {
            let other = String::from_utf8_lossy(other);
            Err(unsupported(30, format!("partclone image version {other:?}")))
        }
    }
}

impl Header {
    /// Reads a v2 header, whose CRC must match.
    pub(super) fn parse_v2(bytes: &[u8; V2_BYTES]) -> Result<Self, ReadError> {
        if le_u16(bytes, 34) != ENDIAN {
            return Err(unsupported(34, "an image of a big-endian machine"));
        }
        let computed = checksum::crc(&bytes[..CRC_AT]).to_le_bytes();
        checksum::compare(&bytes[CRC_AT..], &computed, CRC_AT as u64, Section::HeaderEnd)?;
        if le_u32(bytes, 88) != FEATURE_BYTES || le_u16(bytes, 92) != 2 {
            return Err(unsupported(88, "this size or version of the image options"));
        }
        let bitmap_mode = match bytes[105] {
            0 => BitmapMode::None,
            1 => BitmapMode::Bit,
            8 => BitmapMode::Byte,
            other => return Err(unsupported(105, format!("bitmap mode {other}"))),
        };
        Self {
            version: Version::V2,
            writer: text(&bytes[16..30]),
            filesystem: text(&bytes[36..52]),
            device_bytes: le_u64(bytes, 52),
            total_blocks: le_u64(bytes, 60),
            declared_used_blocks: le_u64(bytes, 76),
            block_bytes: le_u32(bytes, 84),
            checksums: v2_checksums(bytes)?,
            bitmap_mode,
        }
        .checked(84, 60, 76)
    }

    /// Reads a v1 header, which has no checksum.
    pub(super) fn parse_v1(bytes: &[u8; V1_BYTES]) -> Result<Self, ReadError> {
        Self {
            version: Version::V1,
            writer: String::new(),
            filesystem: text(&bytes[15..30]),
            block_bytes: le_u32(bytes, 36),
            device_bytes: le_u64(bytes, 40),
            total_blocks: le_u64(bytes, 48),
            declared_used_blocks: le_u64(bytes, 56),
            checksums: Checksums::FirstByte,
            bitmap_mode: BitmapMode::Byte,
        }
        .checked(36, 48, 56)
    }

    /// The limits that partclone 0.3.47 sets, and ours for the number of blocks.
    fn checked(self, block_at: usize, total_at: usize, used_at: usize) -> Result<Self, ReadError> {
        if self.block_bytes == 0 || self.block_bytes > MAX_BLOCK_BYTES {
            let what = format!("block size {} is not within 1 .. 64 MiB", self.block_bytes);
            return Err(invalid(block_at, what));
        }
        if self.total_blocks > MAX_BLOCKS {
            let what = format!("an image of {} blocks (limit {MAX_BLOCKS})", self.total_blocks);
            return Err(unsupported(total_at, what));
        }
        if self.declared_used_blocks > self.total_blocks {
            return Err(invalid(used_at, "more used blocks than blocks"));
        }
        if self.total_blocks * u64::from(self.block_bytes) > self.device_bytes {
            return Err(invalid(total_at, "more blocks than the imaged device has room for"));
        }
        Ok(self)
    }
}

/// The checksum options at bytes 96 .. 105. The values are those in real images; partclone's own
/// description of the format names others.
fn v2_checksums(bytes: &[u8; V2_BYTES]) -> Result<Checksums, ReadError> {
    let (kind, bytes_each) = match le_u16(bytes, 96) {
        0x00 => (None, 0),
        0x20 => (Some(ChecksumKind::Crc32), 4),
        0x30 => (Some(ChecksumKind::Xxh64), 8),
        0x31 => (Some(ChecksumKind::Xxh128), 16),
        other => return Err(unsupported(96, format!("checksum mode {other:#04x}"))),
    };
    if le_u16(bytes, 98) != bytes_each {
        return Err(invalid(98, "the checksums' size does not fit their kind"));
    }
    let Some(kind) = kind else { return Ok(Checksums::None) };
    let blocks = le_u32(bytes, 100);
    if blocks == 0 {
        return Err(invalid(100, "checksums over groups of no blocks"));
    }
    Ok(Checksums::Groups { kind, blocks, reseed: bytes[104] != 0 })
}
