//! The archive, from its first byte to its last.

use super::{
    entry::{Content, Entry, Found, Stamp},
    links::Links,
    walk::Walk,
};
use crate::disk::{Tree, shown};
use anyhow::{Context, ensure};
use metalcast_formats::tar::{END_MARK, Kind, padded, write_headers};
use metalcast_shared::hash::Hash;
use std::{fmt, io, os::unix::fs::FileExt, path::Path};

/// What is not in the archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Sockets.
    pub sockets: Count,
    /// Names with something mounted on them.
    pub mounts: Count,
    /// Bytes that swap files held, and are zeros.
    pub swap_bytes: u64,
}

/// How many there are, and the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub count: u64,
    /// The first, for people.
    pub first: String,
}

/// The archive. Memory: names of directories, of hard links, and the headers of a member, all bounded.
pub struct Stream {
    tree: Tree,
    walk: Walk,
    links: Links,
    /// What precedes or follows content.
    pending: Vec<u8>,
    at: usize,
    open: Option<Open>,
    has_ended: bool,
    members: u64,
    left_out: LeftOut,
    /// Of all headers so far.
    print: Hash,
}

/// A file that is being read.
struct Open {
    path: Vec<u8>,
    content: Content,
    piece: usize,
    /// Bytes of that piece, and of all, that are done.
    in_piece: u64,
    done: u64,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("members", &self.members).finish_non_exhaustive()
    }
}

impl Stream {
    /// Of what is mounted on a directory.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            tree: Tree::open(root)?,
            walk: Walk::new(),
            links: Links::default(),
            pending: Vec::new(),
            at: 0,
            open: None,
            has_ended: false,
            members: 0,
            left_out: LeftOut::default(),
            print: Hash::of(b""),
        })
    }

    /// How many members have come.
    pub fn members(&self) -> u64 {
        self.members
    }

    /// What was left out so far.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// By what two streams are known to have had the same headers so far, and the same holes.
    pub fn fingerprint(&self) -> u64 {
        u64::from_le_bytes(*self.print.0.first_chunk().expect("a hash has 32 bytes"))
    }

    /// The next so many bytes; fewer only at the end of the archive.
    pub fn read(&mut self, bytes: usize) -> anyhow::Result<Vec<u8>> {
        let mut data = Vec::with_capacity(bytes);
        self.advance(bytes, Some(&mut data))?;
        Ok(data)
    }

    /// Passes over the next so many bytes, or as many as there are. Content is not read for that.
    pub fn skip(&mut self, bytes: usize) -> anyhow::Result<usize> {
        self.advance(bytes, None)
    }

    fn advance(&mut self, bytes: usize, mut data: Option<&mut Vec<u8>>) -> anyhow::Result<usize> {
        let mut done = 0;
        while done < bytes {
            let room = bytes - done;
            if self.at < self.pending.len() {
                let here = &self.pending[self.at..];
                let here = &here[..here.len().min(room)];
                if let Some(data) = &mut data {
                    data.extend_from_slice(here);
                }
                (self.at, done) = (self.at + here.len(), done + here.len());
            } else if let Some(open) = &mut self.open {
                let read = open.advance(room, data.as_deref_mut());
                done += read.with_context(|| shown(&open.path))?;
                if open.is_done() {
                    self.close()?;
                }
            } else if !self.member()? {
                break;
            }
        }
        Ok(done)
    }

    /// Goes to the next member, or the end mark; `false` behind that.
    fn member(&mut self) -> anyhow::Result<bool> {
        self.pending.clear();
        self.at = 0;
        let Some(path) = self.walk.next() else {
            if std::mem::replace(&mut self.has_ended, true) {
                return Ok(false);
            }
            self.pending.extend_from_slice(&END_MARK);
            return Ok(true);
        };
        let found = Found::at(&self.tree, &path, &mut self.links);
        match found.with_context(|| shown(&path))? {
            Found::Member(entry) => self.begin(*entry)?,
            Found::Mount => self.left_out.mounts.add(&path),
            Found::Socket => self.left_out.sockets.add(&path),
        }
        Ok(true)
    }

    fn begin(&mut self, entry: Entry) -> anyhow::Result<()> {
        let Entry { member, content } = entry;
        write_headers(&member, &mut self.pending).with_context(|| shown(&member.path))?;
        self.members += 1;
        self.print = Hash::of(&[&self.print.0[..], &self.pending].concat());
        if member.kind == Kind::Directory {
            self.walk.enter(&self.tree, &member.path)?;
        }
        if let Some(content) = content {
            self.left_out.swap_bytes += member.file_bytes - content.known_bytes;
            self.open = Some(Open { path: member.path, content, piece: 0, in_piece: 0, done: 0 });
        }
        Ok(())
    }

    /// Ends a file, which must be what it was when it was begun.
    fn close(&mut self) -> anyhow::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let is_same = Stamp::of(&open.content.file)? == open.content.stamp;
        ensure!(is_same, "{} changed while it was read", shown(&open.path));
        self.pending.clear();
        self.at = 0;
        self.pending.resize((padded(open.done) - open.done) as usize, 0);
        Ok(())
    }
}

impl Open {
    fn is_done(&self) -> bool {
        self.piece == self.content.pieces.len()
    }

    /// At most so many bytes of one piece.
    fn advance(&mut self, room: usize, data: Option<&mut Vec<u8>>) -> anyhow::Result<usize> {
        let Some(piece) = self.content.pieces.get(self.piece) else { return Ok(0) };
        let bytes = (piece.bytes - self.in_piece).min(room as u64);
        if let Some(data) = data {
            let (at, offset) = (data.len(), piece.offset + self.in_piece);
            data.resize(at + bytes as usize, 0);
            let known = self.content.known_bytes.saturating_sub(offset).min(bytes) as usize;
            self.read(&mut data[at..at + known], offset)?;
        }
        self.in_piece += bytes;
        self.done += bytes;
        if self.in_piece == piece.bytes {
            (self.piece, self.in_piece) = (self.piece + 1, 0);
        }
        Ok(bytes as usize)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> anyhow::Result<()> {
        self.content.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                anyhow::anyhow!("it became shorter while it was read")
            }
            _ => anyhow::Error::from(error).context(format!(
                "reading {} bytes at byte {offset} of it; nothing is put in their place",
                buffer.len()
            )),
        })
    }
}

impl Count {
    fn add(&mut self, path: &[u8]) {
        if self.count == 0 {
            self.first = shown(path);
        }
        self.count += 1;
    }
}

impl fmt::Display for LeftOut {
    /// Nothing if nothing was.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut what = Vec::new();
        for (Count { count, first }, kind) in
            [(&self.sockets, "sockets"), (&self.mounts, "mounts beneath")]
        {
            if *count > 0 {
                what.push(format!("{count} {kind} ({first} ...)"));
            }
        }
        if self.swap_bytes > 0 {
            what.push(format!("{} MiB in swap files, which are zeros now", self.swap_bytes >> 20));
        }
        f.write_str(&what.join("; "))
    }
}
