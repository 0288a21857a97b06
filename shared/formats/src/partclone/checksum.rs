//! The checksums of an image: which kinds there are, and their running state.

use super::{ReadError, Section};
use xxhash_rust::{xxh3::Xxh3, xxh64::Xxh64};

/// Algorithm of the checksums in a v2 image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumKind {
    /// CRC-32 without final complement, 4 bytes: what Clonezilla wrote until 2026.
    Crc32,
    /// XXH64, 8 bytes: partclone 0.3.39 and later.
    Xxh64,
    /// XXH3-128, 16 bytes, low half first: partclone 0.3.46 and later, what Clonezilla writes now.
    Xxh128,
}

/// Where checksums stand between the blocks, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// There are none.
    None,
    /// One after every `blocks` used blocks, and one after the rest.
    Groups {
        /// Algorithm.
        kind: ChecksumKind,
        /// Used blocks in a group, at least 1.
        blocks: u32,
        /// Whether each group starts afresh; otherwise the state runs on.
        reseed: bool,
    },
    /// v1: a CRC after every block that runs over the whole image, and that takes the first byte of
    /// each block as often as the block has bytes. It cannot see damage anywhere else.
    FirstByte,
}

/// Longest checksum in bytes.
pub(super) const MAX_SUM_BYTES: usize = 16;

/// CRC-32 as partclone uses it: the usual one (polynomial 0xEDB88320) without the final complement.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    !crc32fast::hash(bytes)
}

/// Compares the checksum stored at `offset` with the computed one.
pub(super) fn compare(
    stored: &[u8],
    computed: &[u8],
    offset: u64,
    section: Section,
) -> Result<(), ReadError> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if stored == computed {
        return Ok(());
    }
    Err(ReadError::Checksum { offset, section, stored: hex(stored), computed: hex(computed) })
}

/// The running checksum over the blocks read so far.
pub(super) struct Running {
    state: State,
    /// Blocks to the next border; never reached without checksums.
    group_blocks: u64,
    in_group: u64,
    reseed: bool,
}

enum State {
    None,
    Crc32(crc32fast::Hasher),
    Xxh64(Box<Xxh64>),
    Xxh128(Box<Xxh3>),
    FirstByte(crc32fast::Hasher),
}

impl Running {
    pub(super) fn new(checksums: Checksums) -> Self {
        let (state, group_blocks, reseed) = match checksums {
            Checksums::None => (State::None, u64::MAX, false),
            Checksums::FirstByte => (State::FirstByte(crc32fast::Hasher::new()), 1, false),
            Checksums::Groups { kind, blocks, reseed } => {
                let state = match kind {
                    ChecksumKind::Crc32 => State::Crc32(crc32fast::Hasher::new()),
                    ChecksumKind::Xxh64 => State::Xxh64(Box::new(Xxh64::new(0))),
                    ChecksumKind::Xxh128 => State::Xxh128(Box::new(Xxh3::new())),
                };
                (state, u64::from(blocks), reseed)
            }
        };
        Self { state, group_blocks, in_group: 0, reseed }
    }

    /// How many blocks may be taken before a checksum follows.
    pub(super) fn blocks_to_border(&self) -> u64 {
        self.group_blocks - self.in_group
    }

    /// Takes whole blocks, not beyond the border.
    pub(super) fn update(&mut self, bytes: &[u8], block_bytes: usize) {
        self.in_group += (bytes.len() / block_bytes) as u64;
        match &mut self.state {
            State::None => self.in_group = 0,
            State::Crc32(state) => state.update(bytes),
            State::Xxh64(state) => state.update(bytes),
            State::Xxh128(state) => state.update(bytes),
            State::FirstByte(state) => {
                for block in bytes.chunks_exact(block_bytes) {
                    update_repeated(state, block[0], block_bytes);
                }
            }
        }
    }

    /// The checksum that must follow now, if one must: on a border, or where the blocks end within
    /// a group.
    pub(super) fn due(&mut self, is_end: bool) -> Option<([u8; MAX_SUM_BYTES], usize)> {
        if self.in_group == 0 || (self.in_group < self.group_blocks && !is_end) {
            return None;
        }
        self.in_group = 0;
        let reseed = self.reseed;
        let mut sum = [0; MAX_SUM_BYTES];
        let bytes = match &mut self.state {
            State::None => return None,
            State::Crc32(state) | State::FirstByte(state) => {
                sum[..4].copy_from_slice(&(!state.clone().finalize()).to_le_bytes());
                if reseed {
                    state.reset();
                }
                4
            }
            State::Xxh64(state) => {
                sum[..8].copy_from_slice(&state.digest().to_le_bytes());
                if reseed {
                    state.reset(0);
                }
                8
            }
            State::Xxh128(state) => {
                sum.copy_from_slice(&state.digest128().to_le_bytes());
                if reseed {
                    state.reset();
                }
                16
            }
        };
        Some((sum, bytes))
    }
}

fn update_repeated(state: &mut crc32fast::Hasher, byte: u8, mut times: usize) {
    let repeated = [byte; 4096];
    while times > 0 {
        let step = times.min(repeated.len());
        state.update(&repeated[..step]);
        times -= step;
    }
}
