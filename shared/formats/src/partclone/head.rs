//! Writes the head of a new image: header and bitmap, to be followed by the bare used blocks.
//!
//! Checksum mode none, because partclone's checksum groups run over chunk borders; what is written
//! behind it is protected by the frames that carry it.

use super::{
    Bitmap, MAGIC, checksum,
    header::{CRC_AT, ENDIAN, FEATURE_BYTES, V2_BYTES},
};
use std::io::{self, Write};

/// Stands where partclone puts its own version; every partclone accepts any text of 13 bytes.
const WRITER: &[u8] = b"metalcast";

/// What a head says besides the bitmap.
#[derive(Clone, Copy, Debug)]
pub struct HeadFacts<'f> {
    /// Name of the filesystem as partclone calls it, such as `EXTFS`; cut after 15 bytes.
    pub filesystem: &'f str,
    /// Bytes that a target must have at least; no less than the blocks take.
    pub device_bytes: u64,
    /// Size of a block in bytes.
    pub block_bytes: u32,
}

/// What a head has beside the bits: the header and their CRC.
pub const HEAD_OVERHEAD_BYTES: u64 = V2_BYTES as u64 + 4;

/// Length of a head in bytes.
pub fn head_bytes(bitmap: &Bitmap) -> u64 {
    HEAD_OVERHEAD_BYTES + bitmap.blocks().div_ceil(8)
}

/// Writes a v2 header, the bitmap in bit mode and its CRC.
pub fn write_head(out: &mut impl Write, facts: &HeadFacts<'_>, bitmap: &Bitmap) -> io::Result<()> {
    out.write_all(&header(facts, bitmap))?;
    let mut summed = Summed { out, crc: crc32fast::Hasher::new() };
    bitmap.write(&mut summed)?;
    let crc = !summed.crc.finalize();
    out.write_all(&crc.to_le_bytes())
}

fn header(facts: &HeadFacts<'_>, bitmap: &Bitmap) -> [u8; V2_BYTES] {
    let used = bitmap.count_used().to_le_bytes();
    let name = facts.filesystem.as_bytes();
    let mut header = [0; V2_BYTES];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, MAGIC);
    put(16, WRITER);
    put(30, b"0002");
    put(34, &ENDIAN.to_le_bytes());
    put(36, &name[..name.len().min(15)]);
    put(52, &facts.device_bytes.to_le_bytes());
    put(60, &bitmap.blocks().to_le_bytes());
    put(68, &used);
    put(76, &used);
    put(84, &facts.block_bytes.to_le_bytes());
    put(88, &FEATURE_BYTES.to_le_bytes());
    put(92, &2u16.to_le_bytes());
    put(94, &64u16.to_le_bytes());
    // 96 .. 103: checksum mode, size and blocks per checksum are 0.
    put(104, &[1, 1]);
    let crc = checksum::crc(&header[..CRC_AT]);
    header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    header
}

struct Summed<'o, W> {
    out: &'o mut W,
    crc: crc32fast::Hasher,
}

impl<W: Write> Write for Summed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.crc.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
