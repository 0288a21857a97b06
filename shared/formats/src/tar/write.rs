//! Headers of members, written as GNU tar and we read them: pax, with everything by number.
//!
//! ```text
//! x header, records: only what the header proper has no room for | header | map of a sparse file | content
//! ```
//!
//! Sparse files are GNU's of version 1.0. Content, its padding and the end mark are the user's business.

use super::{
    BLOCK_BYTES, MAX_HEADER_BYTES, MAX_PIECES,
    block::Fields,
    member::{Kind, Member},
    padded, pax, sparse,
};

/// What ends an archive.
pub const END_MARK: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

/// Most bytes of a name in a header that is not the member's own.
const SHORT_BYTES: usize = 60;

/// Why a member cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// All its attributes and its map together.
    #[error("its headers would have more than {} KiB", MAX_HEADER_BYTES >> 10)]
    TooLong,
    /// A sparse file in too many pieces.
    #[error("it has {MAX_PIECES} pieces and more")]
    Pieces,
}

/// Appends all headers of a member. `data_bytes` of content follow, and zeros up to a block. A sparse
/// file's map must be ascending, within the file and together as long as its content.
pub fn write_headers(member: &Member, out: &mut Vec<u8>) -> Result<(), WriteError> {
    let from = out.len();
    let name = own_name(member);
    let link = match &member.kind {
        Kind::Symlink(target) => &target[..],
        Kind::HardLink(target) => target,
        Kind::File | Kind::Directory | Kind::Character { .. } | Kind::Block { .. } | Kind::Fifo => {
            b""
        }
    };
    let map = member.map.as_deref().map(|map| match map.len() >= MAX_PIECES {
        true => Err(WriteError::Pieces),
        false => Ok(sparse::to_lines(map, member.file_bytes)),
    });
    let map = map.transpose()?.unwrap_or_default();
    let size = (map.len() as u64).saturating_add(member.data_bytes);
    let records = records(member, &name, link, size);
    let shown = match member.map {
        Some(_) => [b"GNUSparseFile.0/", short(&name)].concat(),
        None => name,
    };
    if !records.is_empty() {
        let name = [b"PaxHeaders/", short(&member.path)].concat();
        let extended = Fields { size: records.len() as u64, ..fields(b'x', &name) };
        out.extend_from_slice(&extended.block());
        out.extend_from_slice(&records);
        out.resize(from + BLOCK_BYTES + padded(records.len() as u64) as usize, 0);
    }
    let meta = &member.meta;
    let (kind, device) = kind(&member.kind);
    let header = Fields {
        link,
        mode: meta.mode,
        uid: meta.uid.into(),
        gid: meta.gid.into(),
        size,
        modified: u64::try_from(meta.modified.seconds).unwrap_or(0),
        device,
        ..fields(kind, &shown)
    };
    out.extend_from_slice(&header.block());
    out.extend_from_slice(&map);
    match out.len() - from <= MAX_HEADER_BYTES {
        true => Ok(()),
        false => Err(WriteError::TooLong),
    }
}

/// A header of a kind, with nothing else in it.
fn fields(kind: u8, name: &[u8]) -> Fields<'_> {
    let device = (0, 0);
    Fields { kind, name, link: b"", mode: 0o644, uid: 0, gid: 0, size: 0, modified: 0, device }
}

/// As tar writes names: directories end with `/`.
fn own_name(member: &Member) -> Vec<u8> {
    match (&member.kind, &member.path[..]) {
        (_, b"") => b"./".to_vec(),
        (Kind::Directory, path) => [path, b"/"].concat(),
        (_, path) => path.to_vec(),
    }
}

/// The end of a name, for headers whose name nobody uses.
fn short(name: &[u8]) -> &[u8] {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let name = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    &name[..name.len().min(SHORT_BYTES)]
}

fn kind(kind: &Kind) -> (u8, (u32, u32)) {
    match kind {
        Kind::File => (b'0', (0, 0)),
        Kind::HardLink(_) => (b'1', (0, 0)),
        Kind::Symlink(_) => (b'2', (0, 0)),
        Kind::Character { major, minor } => (b'3', (*major, *minor)),
        Kind::Block { major, minor } => (b'4', (*major, *minor)),
        Kind::Directory => (b'5', (0, 0)),
        Kind::Fifo => (b'6', (0, 0)),
    }
}

/// What the header proper has no room for.
fn records(member: &Member, name: &[u8], link: &[u8], size: u64) -> Vec<u8> {
    let mut records = Vec::new();
    let mut put = |key: &[u8], value: &[u8]| pax::push(&mut records, key, value);
    let meta = &member.meta;
    if member.map.is_some() {
        put(b"GNU.sparse.major", b"1");
        put(b"GNU.sparse.minor", b"0");
        put(b"GNU.sparse.name", name);
        put(b"GNU.sparse.realsize", member.file_bytes.to_string().as_bytes());
    } else if name.len() > Fields::MAX_NAME_BYTES {
        put(b"path", name);
    }
    if link.len() > Fields::MAX_NAME_BYTES {
        put(b"linkpath", link);
    }
    if size > Fields::MAX_NUMBER {
        put(b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], meta.uid), (b"gid", meta.gid)] {
        if u64::from(id) > Fields::MAX_ID {
            put(key, id.to_string().as_bytes());
        }
    }
    let seconds = u64::try_from(meta.modified.seconds).ok();
    if meta.modified.nanos > 0 || seconds.is_none_or(|seconds| seconds > Fields::MAX_NUMBER) {
        put(b"mtime", pax::time_text(meta.modified).as_bytes());
    }
    if let Some(accessed) = meta.accessed {
        put(b"atime", pax::time_text(accessed).as_bytes());
    }
    for (key, list) in
        [(&b"SCHILY.acl.access"[..], &meta.access_acl), (b"SCHILY.acl.default", &meta.default_acl)]
    {
        if let Some(list) = list {
            put(key, list);
        }
    }
    for xattr in &meta.xattrs {
        put(&pax::xattr_key(&xattr.name), &xattr.value);
    }
    records
}
