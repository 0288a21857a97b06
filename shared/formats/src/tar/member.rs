//! What is known of a member once all its headers are read.

use serde::{Deserialize, Serialize};

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path below the directory that is unpacked into: without a leading `/`, without `.` and `..`;
    /// empty for that directory itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Owner, mode and the rest.
    pub meta: Meta,
    /// Bytes of content that follow in the archive, up to the padding of the last block.
    pub data_bytes: u64,
    /// Its length as a file.
    pub file_bytes: u64,
    /// Where the content belongs in a sparse file: ascending, and together `data_bytes`.
    pub map: Option<Vec<Piece>>,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this, whatever that is.
    Symlink(Vec<u8>),
    /// Another name of the member of this path, which is like [`Member::path`].
    HardLink(Vec<u8>),
    /// A character device.
    Character {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
}

/// Owner, mode, times and attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Permission bits, with set-user-ID, set-group-ID and sticky bit.
    pub mode: u32,
    /// Owner, by number.
    pub uid: u32,
    /// Group, by number.
    pub gid: u32,
    /// When it was changed.
    pub modified: Time,
    /// When it was read, if that is said.
    pub accessed: Option<Time>,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
    /// POSIX access control list, as text (acl(5)).
    pub access_acl: Option<Vec<u8>>,
    /// The one that what is made in a directory gets.
    pub default_acl: Option<Vec<u8>>,
}

/// A time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// And nanoseconds, below 10⁹.
    pub nanos: u32,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    /// Its name, such as `security.capability`, without NUL.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Consecutive bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Where they belong in the file.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

impl Member {
    /// Where bytes `from` to `to` of the content belong in the file.
    pub fn pieces(&self, from: u64, to: u64) -> Vec<Piece> {
        slice(self.map.as_deref(), from, to)
    }
}

/// The part of a map that covers the content from `from` to `to`; without a map content is where it is.
pub(super) fn slice(map: Option<&[Piece]>, from: u64, to: u64) -> Vec<Piece> {
    let Some(map) = map else {
        let bytes = to.saturating_sub(from);
        return if bytes == 0 { Vec::new() } else { vec![Piece { offset: from, bytes }] };
    };
    let mut at = 0_u64;
    let mut pieces = Vec::new();
    for piece in map {
        let (start, end) = (from.max(at), to.min(at.saturating_add(piece.bytes)));
        if start < end {
            pieces.push(Piece { offset: piece.offset + (start - at), bytes: end - start });
        }
        at = at.saturating_add(piece.bytes);
        if at >= to {
            break;
        }
    }
    pieces
}
