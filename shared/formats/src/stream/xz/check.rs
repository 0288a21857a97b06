//! The checks of blocks' content: none, CRC-32, CRC-64 or SHA-256.

use sha2::{Digest as _, Sha256};

/// How the content of blocks is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    None,
    Crc32,
    Crc64,
    Sha256,
}

/// A check being computed.
pub(super) enum Sum {
    None,
    Crc32(crc32fast::Hasher),
    Crc64(u64),
    Sha256(Box<Sha256>),
}

impl Check {
    /// Begins a block.
    pub(super) fn begin(self) -> Sum {
        match self {
            Self::None => Sum::None,
            Self::Crc32 => Sum::Crc32(crc32fast::Hasher::new()),
            Self::Crc64 => Sum::Crc64(u64::MAX),
            Self::Sha256 => Sum::Sha256(Box::default()),
        }
    }
}

impl Sum {
    /// Takes more content.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::None => {}
            Self::Crc32(hasher) => hasher.update(bytes),
            Self::Crc64(state) => {
                for byte in bytes {
                    let at = (*state as u8 ^ byte) as usize;
                    *state = CRC64[at] ^ (*state >> 8);
                }
            }
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// The check as it is written after the block.
    pub(super) fn finish(self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Crc32(hasher) => hasher.finalize().to_le_bytes().to_vec(),
            Self::Crc64(state) => (!state).to_le_bytes().to_vec(),
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
        }
    }
}

/// CRC-64/XZ: ECMA-182 reflected.
const CRC64: [u64; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut value = at as u64;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xc96c_5795_d787_0f42 } else { value >> 1 };
            bit += 1;
        }
        table[at] = value;
        at += 1;
    }
    table
};
