//! Which blocks of a filesystem are used.

use super::ReadError;
use metalcast_shared::manifest::Run;
use std::io::{self, Write};

/// Most blocks that an image may have: 16 TiB of 4 KiB blocks. The bitmap of such an image takes
/// 512 MiB of memory, one of 2 TB takes 64 MiB.
pub const MAX_BLOCKS: u64 = 1 << 32;

/// How much is written or reserved at once.
const PIECE_BYTES: usize = 64 << 10;

/// The used blocks of a filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    blocks: u64,
    bits: Bits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Bits {
    /// Nothing is stored, so that an image without bitmap costs no memory.
    AllUsed,
    /// Block i is bit `i & 7` of byte `i >> 3`; bits beyond the last block are 0.
    Stored(Vec<u8>),
}

impl Bitmap {
    /// Every block is used.
    pub fn all_used(blocks: u64) -> Self {
        Self { blocks, bits: Bits::AllUsed }
    }

    /// From one bit per block, lowest bit first; bits beyond the last block are ignored, for real
    /// FAT images have them set. `None` if `bits` is not exactly as long as `blocks` needs.
    pub fn from_bits(blocks: u64, mut bits: Vec<u8>) -> Option<Self> {
        if bits.len() as u64 != blocks.div_ceil(8) {
            return None;
        }
        if let (Some(last), rest @ 1..) = (bits.last_mut(), blocks % 8) {
            *last &= (1 << rest) - 1;
        }
        Some(Self { blocks, bits: Bits::Stored(bits) })
    }

    /// Number of blocks, used or not.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Number of used blocks.
    pub fn count_used(&self) -> u64 {
        match &self.bits {
            Bits::AllUsed => self.blocks,
            Bits::Stored(bits) => bits.iter().map(|byte| u64::from(byte.count_ones())).sum(),
        }
    }

    /// Whether a block is used; those beyond the end are not.
    pub fn is_used(&self, block: u64) -> bool {
        match &self.bits {
            Bits::AllUsed => block < self.blocks,
            Bits::Stored(bits) => {
                bits.get((block / 8) as usize).is_some_and(|byte| byte >> (block % 8) & 1 == 1)
            }
        }
    }

    /// Used blocks among the `count` from `first` on, as ascending runs that do not touch, counted
    /// from `first`.
    pub fn runs(&self, first: u64, count: u32) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut block = 0;
        while block < count {
            let at = first + u64::from(block);
            match self.whole_byte(at) {
                // Most of a disk is free or full: whole bytes are taken at once.
                Some(0) if count - block >= 8 => block += 8,
                Some(0xff) if count - block >= 8 => {
                    extend(&mut runs, block, 8);
                    block += 8;
                }
                _ => {
                    if self.is_used(at) {
                        extend(&mut runs, block, 1);
                    }
                    block += 1;
                }
            }
        }
        runs
    }

    /// The byte of the bitmap that begins with this block, if one does.
    fn whole_byte(&self, block: u64) -> Option<u8> {
        match &self.bits {
            Bits::Stored(bits) if block.is_multiple_of(8) => {
                bits.get((block / 8) as usize).copied()
            }
            Bits::AllUsed if block + 8 <= self.blocks => Some(0xff),
            _ => None,
        }
    }

    /// Writes one bit per block.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let bits = match &self.bits {
            Bits::Stored(bits) => return out.write_all(bits),
            Bits::AllUsed => self.blocks,
        };
        let ones = [0xff; PIECE_BYTES];
        let mut whole = bits / 8;
        while whole > 0 {
            let step = whole.min(PIECE_BYTES as u64);
            out.write_all(&ones[..step as usize])?;
            whole -= step;
        }
        match bits % 8 {
            0 => Ok(()),
            rest => out.write_all(&[(1 << rest) - 1]),
        }
    }
}

fn extend(runs: &mut Vec<Run>, start: u32, count: u32) {
    match runs.last_mut() {
        Some(last) if last.start + last.count == start => last.count += count,
        _ => runs.push(Run { start, count }),
    }
}

/// Reads `bytes` bytes through `fill`, a piece at a time: memory is taken as they arrive, not as
/// the header promises.
pub(super) fn read_bits(
    bytes: u64,
    mut fill: impl FnMut(&mut [u8]) -> Result<(), ReadError>,
) -> Result<Vec<u8>, ReadError> {
    let mut bits = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let from = bits.len();
        let step = left.min(PIECE_BYTES as u64);
        bits.resize(from + step as usize, 0);
        fill(&mut bits[from..])?;
        left -= step;
    }
    Ok(bits)
}

/// Reads one byte per block through `fill`; 1 is used, everything else is free.
pub(super) fn read_bytes(
    blocks: u64,
    mut fill: impl FnMut(&mut [u8]) -> Result<(), ReadError>,
) -> Result<Vec<u8>, ReadError> {
    let mut bits = Vec::new();
    let mut piece = [0; 8 << 10];
    let mut left = blocks;
    while left > 0 {
        let step = left.min(piece.len() as u64) as usize;
        fill(&mut piece[..step])?;
        bits.extend(piece[..step].chunks(8).map(|group| {
            group.iter().enumerate().fold(0, |bits, (at, byte)| bits | u8::from(*byte == 1) << at)
        }));
        left -= step as u64;
    }
    Ok(bits)
}
