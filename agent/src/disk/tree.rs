//! The members of an archive put below a directory, however hostile their names are.
//!
//! Every path is resolved by the kernel beneath that directory, through no symbolic link and onto no
//! other mount (openat2(2)); a link in the way is an error. Directories that are needed and not there are
//! made.

use anyhow::{Context, bail};
use metalcast_formats::tar::{Kind, Meta, Names, Time, posix_acl};
use metalcast_sys::xattr;
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2},
    sys::{
        stat::{
            FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mkdirat, mknodat,
            utimensat,
        },
        time::TimeSpec,
    },
    unistd::{Gid, LinkatFlags, Uid, fchownat, linkat, symlinkat},
};
use std::{
    ffi::OsStr,
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Owner of directories that no member is, and mode of what is not complete.
const DIRECTORY_MODE: u32 = 0o755;
const UNFINISHED_MODE: u32 = 0o600;

/// The directory.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

/// Where something is: the directory, and the name in it.
struct Place<'p> {
    dir: OwnedFd,
    name: &'p [u8],
}

/// What could not be set because the filesystem does not have it.
pub type Unsupported = Option<String>;

impl Place<'_> {
    fn name(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.name))
    }
}

impl Tree {
    /// Opens the directory.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let dir = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { root: dir.into() })
    }

    /// A directory that is open.
    pub fn of(root: OwnedFd) -> Self {
        Self { root }
    }

    /// Makes a directory, if it is not there.
    pub fn directory(&self, path: &[u8]) -> anyhow::Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        let Place { dir, name } = self.place(path)?;
        match mkdirat(&dir, OsStr::from_bytes(name), Mode::from_bits_truncate(DIRECTORY_MODE)) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => self.look_up(path, OFlag::O_PATH | OFlag::O_DIRECTORY).map(drop),
            Err(errno) => Err(errno).with_context(|| format!("making directory {}", shown(path))),
        }
    }

    /// A file to write to, which is made if it is not there.
    pub fn file(&self, path: &[u8]) -> anyhow::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match self.open_at(path, flags, UNFINISHED_MODE) {
            Err(Errno::ENOENT) => {
                self.make_parents(path)?;
                self.open_at(path, flags, UNFINISHED_MODE)
            }
            other => other,
        };
        self.plain(path, file)
    }

    /// A file to read.
    pub fn read(&self, path: &[u8]) -> anyhow::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        self.plain(path, self.open_at(path, flags, 0))
    }

    /// Makes what is neither file nor directory nor hard link.
    pub fn special(&self, path: &[u8], kind: &Kind) -> anyhow::Result<()> {
        let place = self.place(path)?;
        let mode = Mode::from_bits_truncate(UNFINISHED_MODE);
        let node = |kind, major: u32, minor: u32| {
            let device = makedev(u64::from(major), u64::from(minor));
            mknodat(&place.dir, place.name(), kind, mode, device)
        };
        let made = match kind {
            Kind::Symlink(to) => symlinkat(OsStr::from_bytes(to), &place.dir, place.name()),
            Kind::Character { major, minor } => node(SFlag::S_IFCHR, *major, *minor),
            Kind::Block { major, minor } => node(SFlag::S_IFBLK, *major, *minor),
            Kind::Fifo => node(SFlag::S_IFIFO, 0, 0),
            Kind::File | Kind::Directory | Kind::HardLink(_) => bail!("{} is none", shown(path)),
        };
        made.with_context(|| format!("making {}", shown(path)))
    }

    /// Gives what is at `target` another name; `false` if nothing is there yet.
    pub fn link(&self, path: &[u8], target: &[u8]) -> anyhow::Result<bool> {
        let (to, from) = (self.place(path)?, self.place(target)?);
        let linked = linkat(&from.dir, from.name(), &to.dir, to.name(), LinkatFlags::empty());
        match linked {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => {
                Err(errno).with_context(|| format!("linking {} to {}", shown(path), shown(target)))
            }
        }
    }

    /// Sets owner, mode, attributes and times, in an order in which none undoes another.
    pub fn set_meta(
        &self,
        path: &[u8],
        meta: &Meta,
        is_symlink: bool,
        names: &dyn Names,
    ) -> anyhow::Result<Unsupported> {
        let place = match path {
            b"" => Place { dir: self.root.try_clone().context("the root directory")?, name: b"." },
            path => self.place(path)?,
        };
        let said = |what: &str| format!("setting {what} of {}", shown(path));
        let owner = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
        fchownat(&place.dir, place.name(), owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)
            .with_context(|| said("the owner"))?;
        if !is_symlink {
            let mode = Mode::from_bits_truncate(meta.mode);
            // It is no link: nobody else makes any here.
            fchmodat(&place.dir, place.name(), mode, FchmodatFlags::FollowSymlink)
                .with_context(|| said("the mode"))?;
        }
        let mut unsupported = None;
        let mut set = |name: &[u8], value: &[u8]| -> anyhow::Result<()> {
            match xattr::set(place.dir.as_fd(), place.name, name, value) {
                Err(error) if is_unsupported(error.errno()) => {
                    let name = String::from_utf8_lossy(name);
                    unsupported.get_or_insert_with(|| format!("{name} of {}", shown(path)));
                    Ok(())
                }
                done => done.with_context(|| said("the attributes")),
            }
        };
        for xattr in &meta.xattrs {
            set(&xattr.name, &xattr.value)?;
        }
        for (name, list) in [
            (&b"system.posix_acl_access"[..], &meta.access_acl),
            (b"system.posix_acl_default", &meta.default_acl),
        ] {
            let Some(list) = list else { continue };
            if let Some(value) = posix_acl(list, names).with_context(|| said("the rights"))? {
                set(name, &value)?;
            }
        }
        let modified = spec(meta.modified);
        let accessed = meta.accessed.map_or(modified, spec);
        let flag = UtimensatFlags::NoFollowSymlink;
        utimensat(&place.dir, place.name(), &accessed, &modified, flag)
            .with_context(|| said("the times"))?;
        Ok(unsupported)
    }

    fn plain(&self, path: &[u8], file: nix::Result<OwnedFd>) -> anyhow::Result<File> {
        let file = file.with_context(|| format!("opening {}", shown(path)))?;
        let file = File::from(file);
        let metadata = file.metadata().with_context(|| format!("looking at {}", shown(path)))?;
        if !metadata.is_file() {
            bail!("{} is no plain file", shown(path));
        }
        Ok(file)
    }

    /// The directory that a path is in, which is made if it is not there.
    fn place<'p>(&self, path: &'p [u8]) -> anyhow::Result<Place<'p>> {
        let (parent, name) = split(path);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let dir = match self.open_at(parent, flags, 0) {
            Err(Errno::ENOENT) => {
                self.make_parents(path)?;
                self.look_up(parent, flags)?
            }
            other => other.with_context(|| format!("opening directory {}", shown(parent)))?,
        };
        Ok(Place { dir, name })
    }

    fn make_parents(&self, path: &[u8]) -> anyhow::Result<()> {
        let (parent, _) = split(path);
        if parent.is_empty() {
            return Ok(());
        }
        let slashes = parent.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for end in slashes.map(|(at, _)| at).chain([parent.len()]) {
            let (above, name) = split(&parent[..end]);
            let above = self.look_up(above, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            let mode = Mode::from_bits_truncate(DIRECTORY_MODE);
            match mkdirat(&above, OsStr::from_bytes(name), mode) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => {
                    let dir = shown(&parent[..end]);
                    return Err(errno).with_context(|| format!("making directory {dir}"));
                }
            }
        }
        Ok(())
    }

    /// Opens what a path leads to by itself; [`Errno::EXDEV`] if that is on another mount.
    pub(crate) fn open_path(&self, path: &[u8]) -> nix::Result<OwnedFd> {
        self.open_at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)
    }

    /// Opens a directory to list it.
    pub(crate) fn open_dir(&self, path: &[u8]) -> nix::Result<OwnedFd> {
        self.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, 0)
    }

    fn look_up(&self, path: &[u8], flags: OFlag) -> anyhow::Result<OwnedFd> {
        self.open_at(path, flags, 0).with_context(|| format!("opening {}", shown(path)))
    }

    fn open_at(&self, path: &[u8], flags: OFlag, mode: u32) -> nix::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(mode))
            .resolve(resolve);
        openat2(self.root.as_fd(), OsStr::from_bytes(path), how)
    }
}

/// Directory and name. Paths here have no leading and no trailing `/`.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.seconds, i64::from(time.nanos))
}

/// What another kernel or filesystem would have taken.
fn is_unsupported(errno: Option<i32>) -> bool {
    errno.map(Errno::from_raw) == Some(Errno::EOPNOTSUPP)
}

/// A path as people see it.
pub(crate) fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, os::unix::fs::symlink};

    #[test]
    fn nothing_is_made_or_changed_outside_or_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(dir.path().join("host")).unwrap();
        std::fs::write(dir.path().join("host/file"), "host").unwrap();
        let tree = Tree::open(&inside).unwrap();
        symlink("../host", inside.join("out")).unwrap();
        symlink("../host/file", inside.join("file")).unwrap();
        for path in [&b"out/file"[..], b"out/new", b"file", b"../host/file", b"../new", b"/etc/new"]
        {
            assert!(tree.file(path).is_err(), "{}", shown(path));
            assert!(tree.special(path, &Kind::Fifo).is_err(), "{}", shown(path));
        }
        assert!(tree.directory(b"out/dir").is_err());
        assert!(tree.directory(b"out").is_err(), "it is a link to one");
        assert!(tree.link(b"stolen", b"out/file").is_err());
        assert!(tree.link(b"out/given", b"file").is_err());
        tree.file(b"a/b/c").unwrap().write_all(b"new").unwrap();
        assert_eq!(std::fs::read(inside.join("a/b/c")).unwrap(), b"new");
        tree.special(b"s/link", &Kind::Symlink(b"/anywhere".to_vec())).unwrap();
        assert!(!tree.link(b"later", b"not/there").unwrap());
        assert!(tree.link(b"later", b"a/b/c").unwrap());
        let host: Vec<_> = dir.path().join("host").read_dir().unwrap().collect();
        assert_eq!(host.len(), 1);
        assert_eq!(std::fs::read(dir.path().join("host/file")).unwrap(), b"host");
    }
}
