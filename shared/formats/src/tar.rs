//! Tar archives as images: the members of a system, to be put into a fresh filesystem.
//!
//! ```text
//! archive ──Packer──> Packed: some members, or a part of a large one ──Sealer──> frame + manifest entry
//!                     frame ──Opener──> blocks of the archive; with its Context ──Parts──> members
//! ```
//!
//! All frames one behind the other decompress to the archive as it came, which `zstd -dc | tar -t`
//! lists. In front of each lies a [`Context`], which zstd skips: what must be known to unpack the frame
//! alone, so that frames can be unpacked in any order. The last frame has the archive's end mark and its
//! [`Index`].
//!
//! [`write_headers`] is the way in for what is on a disk: it writes what reading gives again.
//!
//! Read are the old format, ustar, GNU's and pax, with sparse files of all four kinds. What would lead
//! out of the directory that it is unpacked into, or cannot be unpacked faithfully, is refused by name
//! and offset; a leading `/` is left out, as tar does.

mod acl;
mod block;
mod boot;
mod context;
mod headers;
mod member;
mod pack;
mod parts;
mod path;
mod pax;
mod sparse;
mod survey;
mod write;

pub use acl::{AclError, Names, acl_text, posix_acl};
pub use boot::{NotStartable, Start};
pub use context::{Context, ContextError, Index, Rest, context_of, with_context};
pub use headers::{Headers, Next};
pub use member::{Kind, Member, Meta, Piece, Time, Xattr};
pub use pack::{Packed, Packer, is_archive};
pub use parts::{Part, Parts};
pub use survey::MAX_PATHS;
pub use write::{END_MARK, WriteError, write_headers};

use std::{io, sync::Arc};

/// What an archive is made of, in bytes.
pub const BLOCK_BYTES: usize = 512;

/// Most bytes that all headers of one member may have, extended ones included: they must fit into a
/// frame. Extended attributes have at most 64 KiB each.
pub const MAX_HEADER_BYTES: usize = 768 << 10;

/// Most pieces of a sparse file.
pub const MAX_PIECES: usize = 1 << 16;

/// Why an archive cannot be taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TarError {
    /// It cannot be read, or not be decompressed.
    #[error("it cannot be read on at byte {offset} of the archive")]
    Read {
        /// Offset in the archive as it is unpacked.
        offset: u64,
        /// Why.
        source: Arc<io::Error>,
    },
    /// It ends too early.
    #[error("it ends at byte {offset}, {what}: it was cut off")]
    CutOff {
        /// Offset in the archive as it is unpacked.
        offset: u64,
        /// Where that is.
        what: &'static str,
    },
    /// It contradicts the format.
    #[error("byte {offset}{}: {what}", of(.member))]
    Invalid {
        /// Where the headers of the member begin, in the archive as it is unpacked.
        offset: u64,
        /// Which member, where that is known.
        member: Option<String>,
        /// What is wrong.
        what: String,
    },
}

fn of(member: &Option<String>) -> String {
    member.as_ref().map_or_else(String::new, |name| format!(", member {name}"))
}

/// A name as people see it: what is no text is replaced, and it is not endless.
fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    let text: String = String::from_utf8_lossy(name).chars().take(LONGEST).collect();
    format!("{text:?}")
}

/// Bytes up to the end of the last block.
pub fn padded(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64).saturating_mul(BLOCK_BYTES as u64)
}

#[cfg(test)]
mod tests;
