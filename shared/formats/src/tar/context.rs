//! What lies in front of each frame, and is skipped by zstd: what must be known to unpack it alone.
//!
//! ```text
//! 50 2a 4d 18 | length, 32 bits | postcard      a skippable frame (RFC 8878, 3.1.2), number 13
//! ```

use super::{member::Piece, pax::Record};
use metalcast_shared::codec::{self, CodecError};
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 4] = 0x184d_2a5d_u32.to_le_bytes();

/// Most bytes that one has: the map of a sparse file, or the numbers of members that do not count.
const MAX_BYTES: usize = 16 << 20;

/// What must be known to unpack a frame alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// pax records that hold for its members.
    pub(super) globals: Vec<Record>,
    /// Number of the first member that begins in it.
    pub(super) first_member: u32,
    /// What it begins with, if that is a part of a member of an earlier frame.
    pub rest: Option<Rest>,
    /// What is known of the archive as a whole, in the last frame.
    pub index: Option<Index>,
}

/// A part of the content of a member that begins in an earlier frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Number of the member.
    pub number: u32,
    /// Its path, as [`super::Member::path`].
    pub path: Vec<u8>,
    /// Bytes of content, up to the padding of the last block.
    pub data_bytes: u64,
    /// Where they belong in the file.
    pub pieces: Vec<Piece>,
    /// Whether it is only to be skipped.
    pub is_skipped: bool,
}

/// What is known of an archive as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// How many members it has.
    pub members: u32,
    /// Numbers of those that do not count, because a later one has their name; ascending.
    pub superseded: Vec<u32>,
    /// Bytes that the files occupy in blocks of 4 KiB.
    pub content_bytes: u64,
    /// Whether it has a menu of GRUB.
    pub has_menu: bool,
    /// Names of kernels in `boot`.
    pub kernels: Vec<String>,
    /// Names of what may be initial RAM disks in `boot`.
    pub initrds: Vec<String>,
}

/// Why there is no context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// The frame has none.
    #[error("nothing says what is in the frame")]
    None,
    /// It cannot be understood.
    #[error("what says what is in the frame cannot be understood")]
    Bad(#[source] CodecError),
}

/// A frame with its context in front of it.
pub fn with_context(context: &Context, frame: &[u8]) -> Vec<u8> {
    let context = codec::encode(context);
    let length = u32::try_from(context.len()).expect("contexts are bounded far below 4 GiB");
    [&MAGIC[..], &length.to_le_bytes(), &context, frame].concat()
}

/// The context in front of a frame, whose hash was checked.
pub fn context_of(frame: &[u8]) -> Result<Context, ContextError> {
    let rest = frame.strip_prefix(&MAGIC).ok_or(ContextError::None)?;
    let (length, rest) = rest.split_first_chunk().ok_or(ContextError::None)?;
    let length = u32::from_le_bytes(*length) as usize;
    let context = rest.get(..length).ok_or(ContextError::None)?;
    codec::decode(context, MAX_BYTES).map_err(ContextError::Bad)
}
