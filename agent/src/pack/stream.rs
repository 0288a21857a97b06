//! The archive, from its first byte to its last.

use super::{
    entry::{Entry, Found, Stamp, has_gone},
    links::Links,
    live::{self, Live, Unsteady},
    open::Open,
    roots::Roots,
    walk::Walk,
};
use crate::disk::{Tree, shown};
use anyhow::{Context, ensure};
use metalcast_formats::tar::{END_MARK, Kind, padded, write_headers};
use metalcast_shared::hash::Hash;
use nix::sys::stat::{SFlag, fstat};
use std::{fmt, path::Path};

/// What is not in the archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Sockets.
    pub sockets: Count,
    /// Names with something mounted on them.
    pub mounts: Count,
    /// Bytes that swap files held, and are zeros.
    pub swap_bytes: u64,
    /// What lies in directories whose content is of no use elsewhere, and the bytes of that.
    pub passing: Count,
    /// See `passing`.
    pub passing_bytes: u64,
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
    roots: Roots,
    /// How, if the system runs.
    live: Option<Live>,
    walk: Walk,
    links: Links,
    /// What precedes or follows content.
    pending: Vec<u8>,
    at: usize,
    open: Option<Open>,
    has_ended: bool,
    members: u64,
    left_out: LeftOut,
    unsteady: Unsteady,
    /// Of all headers so far.
    print: Hash,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("members", &self.members).finish_non_exhaustive()
    }
}

impl Stream {
    /// Of what is mounted on a directory.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        Ok(Self::new(Roots::new(vec![(Vec::new(), Tree::open(root)?)]), None))
    }

    /// Of a system that runs: its filesystems by the paths that they are mounted on, without the first `/`.
    pub fn live(filesystems: Vec<(Vec<u8>, Tree)>, live: Live) -> Self {
        Self::new(Roots::new(filesystems), Some(live))
    }

    fn new(roots: Roots, live: Option<Live>) -> Self {
        Self {
            roots,
            live,
            walk: Walk::new(),
            links: Links::default(),
            pending: Vec::new(),
            at: 0,
            open: None,
            has_ended: false,
            members: 0,
            left_out: LeftOut::default(),
            unsteady: Unsteady::default(),
            print: Hash::of(b""),
        }
    }

    /// How many members have come.
    pub fn members(&self) -> u64 {
        self.members
    }

    /// What was left out so far.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// What changed so far while it was read.
    pub fn unsteady(&self) -> &Unsteady {
        &self.unsteady
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
                let read = open.advance(room, data.as_deref_mut(), self.live.is_some());
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
        if self.live.is_some() && self.pass_over(&path)? {
            return Ok(true);
        }
        let found = Found::at(&self.roots, &path, &mut self.links, self.live.as_ref());
        match found.with_context(|| shown(&path))? {
            Found::Member(entry) => self.begin(*entry)?,
            Found::Nothing => self.unsteady.add(&path, "vanished: it is left out"),
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
            self.enter(&member.path)?;
        }
        if let Some(content) = content {
            self.left_out.swap_bytes += member.file_bytes - content.known_bytes;
            self.open = Some(Open::new(member.path, content));
        }
        Ok(())
    }

    /// Goes on with what is in a directory.
    fn enter(&mut self, path: &[u8]) -> anyhow::Result<()> {
        let said = || format!("opening {}", shown(path));
        let (tree, beneath) = self.roots.of(path).with_context(said)?;
        match tree.open_dir(beneath) {
            Ok(dir) => self.walk.enter(dir, path),
            Err(errno) if self.live.is_some() && has_gone(errno) => {
                self.unsteady.add(path, "vanished: it is empty");
                Ok(())
            }
            Err(errno) => Err(errno).with_context(said),
        }
    }

    /// Whether a path is one that is of no use elsewhere; it is counted then.
    fn pass_over(&mut self, path: &[u8]) -> anyhow::Result<bool> {
        let Some((tree, beneath)) = self.roots.of(path) else { return Ok(false) };
        if !live::is_left_out(path, beneath) {
            return Ok(false);
        }
        // What has gone meanwhile needs no counting.
        let Ok(entry) = tree.open_path(beneath) else { return Ok(true) };
        let stat = fstat(&entry).with_context(|| format!("looking at {}", shown(path)))?;
        self.left_out.passing.add(path);
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => self.enter(path)?,
            SFlag::S_IFREG => {
                let bytes = u64::try_from(stat.st_size).unwrap_or(0);
                self.left_out.passing_bytes = self.left_out.passing_bytes.saturating_add(bytes);
            }
            _ => {}
        }
        Ok(true)
    }

    /// Ends a file, which must be what it was when it was begun, unless the system runs.
    fn close(&mut self) -> anyhow::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let (before, after) = (open.content.stamp, Stamp::of(&open.content.file)?);
        match self.live {
            Some(_) => {
                if let Some(how) = live::change(before, after, open.ended) {
                    self.unsteady.add(&open.path, &how);
                }
            }
            None => ensure!(after == before, "{} changed while it was read", shown(&open.path)),
        }
        self.pending.clear();
        self.at = 0;
        self.pending.resize((padded(open.done) - open.done) as usize, 0);
        Ok(())
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
        if self.passing.count > 0 {
            let Count { count, first } = &self.passing;
            let mib = self.passing_bytes.div_ceil(1 << 20);
            what.push(format!("{count} names with {mib} MiB in passing directories ({first} ...)"));
        }
        if self.swap_bytes > 0 {
            what.push(format!("{} MiB in swap files, which are zeros now", self.swap_bytes >> 20));
        }
        f.write_str(&what.join("; "))
    }
}
