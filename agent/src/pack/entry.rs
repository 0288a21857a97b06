//! What is at a path, as a member of an archive.

use super::{links::Links, live::Live, roots::Roots};
use anyhow::{Context, bail};
use metalcast_formats::{
    swap,
    tar::{Kind, Member, Meta, Piece, Time, Xattr, acl_text},
};
use metalcast_sys::xattr;
use nix::{
    errno::Errno,
    fcntl::{PosixFadviseAdvice, posix_fadvise, readlinkat},
    sys::stat::{FileStat, SFlag, fstat, major, minor},
    unistd::{Whence, lseek},
};
use std::{
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::FileExt},
    },
};

/// Most pieces of a sparse file. Where it has more, the smallest holes are written as zeros.
const MAX_PIECES: usize = 8192;

/// Kept of a swap file: its header. The rest is zeros, since it must have no holes.
const KEPT_OF_SWAP_BYTES: u64 = 64 << 10;

/// A member, and where its content is read.
pub(super) struct Entry {
    pub(super) member: Member,
    pub(super) content: Option<Content>,
}

/// The content of a file.
pub(super) struct Content {
    pub(super) file: File,
    /// Where it is, in the file.
    pub(super) pieces: Vec<Piece>,
    /// What is behind this is not read, but zeros.
    pub(super) known_bytes: u64,
    /// When the file was changed last.
    pub(super) stamp: Stamp,
}

/// By what it is seen that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) bytes: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What is at a path.
pub(super) enum Found {
    Member(Box<Entry>),
    Socket,
    /// Something else is mounted there.
    Mount,
    /// Nothing is there any more.
    Nothing,
}

/// Whether an error of opening a path says that it is not what it was when its directory was listed.
pub(super) fn has_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ESTALE)
}

impl Stamp {
    pub(super) fn of(file: &impl AsFd) -> anyhow::Result<Self> {
        Ok(Self::new(&fstat(file)?))
    }

    fn new(stat: &FileStat) -> Self {
        Self {
            bytes: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

impl Found {
    /// Looks.
    pub(super) fn at(
        roots: &Roots,
        path: &[u8],
        links: &mut Links,
        live: Option<&Live>,
    ) -> anyhow::Result<Self> {
        let (tree, beneath) = roots.of(path).context("it is on none of the filesystems")?;
        let entry = match tree.open_path(beneath) {
            Ok(entry) => entry,
            Err(Errno::EXDEV) => return Ok(Self::Mount),
            Err(errno) if live.is_some() && has_gone(errno) => return Ok(Self::Nothing),
            Err(errno) => return Err(errno).context("opening it"),
        };
        let stat = fstat(&entry).context("looking at it")?;
        let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFSOCK => return Ok(Self::Socket),
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFIFO => Kind::Fifo,
            SFlag::S_IFCHR => {
                let (major, minor) = device(&stat)?;
                Kind::Character { major, minor }
            }
            SFlag::S_IFBLK => {
                let (major, minor) = device(&stat)?;
                Kind::Block { major, minor }
            }
            SFlag::S_IFLNK => Kind::Symlink(target(&entry)?),
            _ => bail!("it is of a kind that is not known"),
        };
        let names = if kind == Kind::Directory { 1 } else { stat.st_nlink };
        let first = match names > 1 {
            true => links.first((stat.st_dev, stat.st_ino), names, path)?,
            false => None,
        };
        if let Some(first) = first {
            let kind = Kind::HardLink(first);
            let member = member(path, kind, meta(&stat, Vec::new())?);
            return Ok(Self::Member(Box::new(Entry { member, content: None })));
        }
        let attributes = xattr::all(entry.as_fd())?;
        let member = member(path, kind, meta(&stat, attributes)?);
        let entry = match (&member.kind, u64::try_from(stat.st_size)) {
            (Kind::File, Ok(bytes)) if bytes > 0 => {
                with_content(member, &entry, (&stat, bytes), live)?
            }
            _ => Entry { member, content: None },
        };
        Ok(Self::Member(Box::new(entry)))
    }
}

fn device(stat: &FileStat) -> anyhow::Result<(u32, u32)> {
    Ok((major(stat.st_rdev).try_into()?, minor(stat.st_rdev).try_into()?))
}

fn target(entry: &OwnedFd) -> anyhow::Result<Vec<u8>> {
    // An empty path is what is open itself.
    let target = readlinkat(entry, "").context("reading where it links to")?;
    Ok(target.into_vec())
}

fn member(path: &[u8], kind: Kind, meta: Meta) -> Member {
    Member { path: path.to_vec(), kind, meta, data_bytes: 0, file_bytes: 0, map: None }
}

fn meta(stat: &FileStat, attributes: Vec<xattr::Attribute>) -> anyhow::Result<Meta> {
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let mut meta = Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: Time { seconds: stat.st_mtime, nanos },
        ..Meta::default()
    };
    for (name, value) in attributes {
        let list = || acl_text(&value).context("its access control list cannot be understood");
        match &name[..] {
            b"system.posix_acl_access" => meta.access_acl = Some(list()?),
            b"system.posix_acl_default" => meta.default_acl = Some(list()?),
            // What XFS makes of these lists; other names are the filesystem's own.
            name if name.starts_with(b"trusted.SGI_ACL_") || name.starts_with(b"system.") => {}
            _ => meta.xattrs.push(Xattr { name, value }),
        }
    }
    Ok(meta)
}

fn with_content(
    mut member: Member,
    entry: &OwnedFd,
    (stat, bytes): (&FileStat, u64),
    live: Option<&Live>,
) -> anyhow::Result<Entry> {
    // The file that was looked at, whatever has its name now.
    let file = File::open(format!("/proc/self/fd/{}", entry.as_raw_fd())).context("opening it")?;
    let stamp = Stamp::new(stat);
    let is_swapped_to = live.is_some_and(|live| live.swap_files.contains(&member.path));
    let known_bytes = match is_swap(&member.path, is_swapped_to, &file, bytes) {
        true => KEPT_OF_SWAP_BYTES,
        false => bytes,
    };
    let has_holes = known_bytes == bytes && stat.st_blocks.cast_unsigned() < bytes.div_ceil(512);
    let whole = vec![Piece { offset: 0, bytes }];
    let pieces = match (has_holes, live) {
        (false, _) => whole.clone(),
        (true, None) => data(&file, bytes)?,
        // That of one that changes meanwhile may be none; all of it is read then.
        (true, Some(_)) => data(&file, bytes).unwrap_or_else(|_| whole.clone()),
    };
    member.file_bytes = bytes;
    member.data_bytes = pieces.iter().map(|piece| piece.bytes).sum();
    if pieces != whole {
        member.map = Some(pieces.clone());
    }
    Ok(Entry { member, content: Some(Content { file, pieces, known_bytes, stamp }) })
}

/// Whether it is a swap file that nothing is kept in.
fn is_swap(path: &[u8], is_swapped_to: bool, file: &File, bytes: u64) -> bool {
    let mut page = [0; swap::PAGE_BYTES];
    (is_swapped_to || swap::FILE_NAMES.iter().any(|name| name.as_bytes() == path))
        && bytes > KEPT_OF_SWAP_BYTES
        && file.read_exact_at(&mut page, 0).is_ok()
        && swap::is_plain(&page)
}

/// Where a file has data; between them are holes.
fn data(file: &File, bytes: u64) -> anyhow::Result<Vec<Piece>> {
    let end = i64::try_from(bytes).context("its size is wrong")?;
    // To XFS what is preallocated is data where it is in memory: a second look would find other holes.
    let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    posix_fadvise(file, 0, 0, advice).context("looking for its holes")?;
    let (mut pieces, mut least_hole, mut at) = (Vec::<Piece>::new(), 1, 0);
    while at < end {
        let start = match lseek(file, at, Whence::SeekData) {
            Ok(start) if start < end => start,
            // Nothing but a hole is left.
            Ok(_) | Err(Errno::ENXIO) => break,
            Err(errno) => return Err(errno).context("looking for its holes"),
        };
        let stop = lseek(file, start, Whence::SeekHole).context("looking for its holes")?.min(end);
        if stop <= start {
            bail!("it changes while its holes are looked for");
        }
        let (offset, bytes) = (start.cast_unsigned(), (stop - start).cast_unsigned());
        push(&mut pieces, Piece { offset, bytes }, least_hole);
        if pieces.len() > MAX_PIECES {
            least_hole *= 2;
            let before = std::mem::take(&mut pieces);
            before.into_iter().for_each(|piece| push(&mut pieces, piece, least_hole));
        }
        at = stop;
    }
    Ok(pieces)
}

/// Appends a piece, to the one before if the hole between them is smaller than that.
fn push(pieces: &mut Vec<Piece>, piece: Piece, least_hole: u64) {
    match pieces.last_mut() {
        Some(last) if piece.offset - (last.offset + last.bytes) < least_hole => {
            last.bytes = piece.offset + piece.bytes - last.offset;
        }
        _ => pieces.push(piece),
    }
}
