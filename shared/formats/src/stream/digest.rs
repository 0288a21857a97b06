//! The checksums that Clonezilla writes beside an image: MD5, SHA-1, BLAKE2b and BLAKE3.
//!
//! MD5 and SHA-1 find damage, not malice; that is all they are used for here.

use blake2::Digest as _;
use sha1::Digest as _;
use std::fmt;

/// Algorithm of a checksum file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// `MD5SUMS`.
    Md5,
    /// `SHA1SUMS`.
    Sha1,
    /// `B2SUMS`: BLAKE2b with 512 bits.
    Blake2b,
    /// `B3SUMS`: BLAKE3 with 256 bits.
    Blake3,
}

/// A digest being computed.
#[derive(Clone)]
pub enum Hasher {
    /// MD5.
    Md5(md5::Md5),
    /// SHA-1.
    Sha1(sha1::Sha1),
    /// BLAKE2b.
    Blake2b(Box<blake2::Blake2b512>),
    /// BLAKE3.
    Blake3(Box<blake3::Hasher>),
}

/// What a file must hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Algorithm.
    pub algorithm: Algorithm,
    /// The digest.
    pub digest: Vec<u8>,
}

/// A file does not hash to what its checksum file says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} says {}, but the file hashes to {}; it is damaged, copy or save it again",
    .expected.algorithm.file_name(), Hex(&.expected.digest), Hex(.found)
)]
pub struct Mismatch {
    /// From the checksum file.
    pub expected: Expected,
    /// From the file.
    pub found: Vec<u8>,
}

/// Bytes as lower-case hexadecimal text.
pub(crate) struct Hex<'b>(pub &'b [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Blake2b, Self::Blake3];

    /// The file that Clonezilla lists such checksums in.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5SUMS",
            Self::Sha1 => "SHA1SUMS",
            Self::Blake2b => "B2SUMS",
            Self::Blake3 => "B3SUMS",
        }
    }

    /// Length of a digest in bytes.
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Blake2b => 64,
            Self::Blake3 => 32,
        }
    }

    /// Starts a digest.
    pub fn hasher(self) -> Hasher {
        match self {
            Self::Md5 => Hasher::Md5(md5::Md5::default()),
            Self::Sha1 => Hasher::Sha1(sha1::Sha1::default()),
            Self::Blake2b => Hasher::Blake2b(Box::default()),
            Self::Blake3 => Hasher::Blake3(Box::default()),
        }
    }
}

impl Hasher {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(hasher) => hasher.update(bytes),
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Blake2b(hasher) => hasher.update(bytes),
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    /// The digest.
    pub fn finish(self) -> Vec<u8> {
        match self {
            Self::Md5(hasher) => hasher.finalize().to_vec(),
            Self::Sha1(hasher) => hasher.finalize().to_vec(),
            Self::Blake2b(hasher) => hasher.finalize().to_vec(),
            Self::Blake3(hasher) => hasher.finalize().as_bytes().to_vec(),
        }
    }
}

/// Digests of one file that are compared at its end.
pub(crate) struct Verifier(Vec<(Expected, Hasher)>);

impl Verifier {
    pub(crate) fn new(expected: &[Expected]) -> Self {
        Self(expected.iter().map(|one| (one.clone(), one.algorithm.hasher())).collect())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.iter_mut().for_each(|(_, hasher)| hasher.update(bytes));
    }

    pub(crate) fn finish(self) -> Result<(), Mismatch> {
        for (expected, hasher) in self.0 {
            let found = hasher.finish();
            if found != expected.digest {
                return Err(Mismatch { expected, found });
            }
        }
        Ok(())
    }
}
