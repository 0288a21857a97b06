//! Files of a mounted system that nobody vouches for.
//!
//! Paths are resolved by the kernel with the mount as their root (`RESOLVE_IN_ROOT`, openat2(2)), so
//! that no symbolic link, absolute or with dots, leads to a file of the running agent. Only plain
//! files are read and written, and only up to a limit.

use anyhow::{Context, bail};
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat},
    sys::stat::{Mode, fchmod, fstatat, mkdirat},
    unistd::{UnlinkatFlags, fsync, symlinkat, unlinkat},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Largest file that is read. Debconf's database, the largest that is touched, has a few MiB.
const MAX_FILE_BYTES: u64 = 32 << 20;

/// Most entries of a directory that are looked at.
const MAX_DIR_ENTRIES: usize = 1024;

/// Name of a file that is to replace another one in its directory.
const TEMPORARY: &str = ".metalcast-new";

/// The root directory of a mounted system.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens the directory that the system is mounted on.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let dir = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { dir: dir.into(), path: path.to_owned() })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file; `None` if there is no file of this name.
    pub fn read(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let file = match self.open_plain(path, OFlag::O_RDONLY, Mode::empty()) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("reading {path}"))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            bail!("{path} has more than {MAX_FILE_BYTES} bytes");
        }
        Ok(Some(bytes))
    }

    /// Rewrites a text file, of whatever encoding; says whether it is another one now, or `None` if
    /// there is none.
    pub fn edit(
        &self,
        path: &str,
        change: impl FnOnce(&str) -> String,
    ) -> anyhow::Result<Option<bool>> {
        let Some(old) = self.read(path)? else { return Ok(None) };
        let new = match std::str::from_utf8(&old) {
            Ok(text) => change(text).into_bytes(),
            // One character for each byte, so that what is not changed stays as it was.
            Err(_) => {
                let text: String = old.iter().copied().map(char::from).collect();
                let bytes: Result<_, _> =
                    change(&text).chars().map(|c| u8::try_from(u32::from(c))).collect();
                bytes
                    .with_context(|| format!("{path} is not UTF-8 and cannot say what it should"))?
            }
        };
        if new == old {
            return Ok(Some(false));
        }
        self.write(path, &new)?;
        Ok(Some(true))
    }

    /// Names of the plain files in a directory, sorted; none if there is no such directory.
    pub fn files(&self, path: &str) -> anyhow::Result<Vec<String>> {
        self.names(path, nix::libc::S_IFREG)
    }

    /// Names of the directories in a directory, sorted; none if there is no such directory.
    pub fn dirs(&self, path: &str) -> anyhow::Result<Vec<String>> {
        let mut names = self.names(path, nix::libc::S_IFDIR)?;
        names.retain(|name| name != "." && name != "..");
        Ok(names)
    }

    fn names(&self, path: &str, kind: nix::libc::mode_t) -> anyhow::Result<Vec<String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let dir = match self.open_at(path, flags, Mode::empty()) {
            Ok(dir) => Dir::from_fd(dir).with_context(|| format!("reading {path}"))?,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno).with_context(|| format!("opening {path}")),
        };
        let mut names = Vec::new();
        for entry in dir.into_iter().take(MAX_DIR_ENTRIES) {
            let entry = entry.with_context(|| format!("reading {path}"))?;
            if let Ok(name) = entry.file_name().to_str()
                && self.is_of(kind, &format!("{path}/{name}"))
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Replaces a file's content and keeps its owner and mode; a new file gets mode 0644.
    pub fn write(&self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let mode = Mode::from_bits_truncate(0o644);
        let mut file = self.open_plain(path, OFlag::O_RDWR | OFlag::O_CREAT, mode)?;
        // Same length stays the same blocks: GRUB writes to its environment file by sector.
        let mut write = || -> std::io::Result<()> {
            file.write_all(bytes)?;
            file.set_len(bytes.len() as u64)?;
            file.sync_all()
        };
        write().with_context(|| format!("writing {path}"))
    }

    /// Makes a file of this mode in the place of whatever had its name, which is there with all of its
    /// content until the new one is on the disk. Its directories are made too.
    pub fn create(&self, path: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        self.make_parent(path)?;
        let (parent, name) = self.parent(path)?;
        let temporary = Path::new(path).with_file_name(TEMPORARY);
        let temporary = temporary.to_string_lossy();
        // Power was cut in an earlier attempt.
        self.remove(&temporary)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let mode = Mode::from_bits_truncate(mode);
        let mut file = self.open_plain(&temporary, flags, mode)?;
        // The process's umask has taken its part of the mode.
        fchmod(&file, mode).with_context(|| format!("setting the mode of {path}"))?;
        let mut write = || file.write_all(bytes).and_then(|()| file.sync_all());
        write().with_context(|| format!("writing {path}"))?;
        renameat(&parent, TEMPORARY, &parent, name.as_path())
            .with_context(|| format!("putting {path} in its place"))?;
        // An O_PATH descriptor cannot be synced.
        let parent = openat(&parent, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        parent.and_then(|dir| fsync(&dir)).with_context(|| format!("writing the name {path}"))
    }

    /// Makes a symbolic link in the place of whatever had its name. Its directories are made too.
    pub fn link(&self, path: &str, to: &str) -> anyhow::Result<()> {
        self.make_parent(path)?;
        self.remove(path)?;
        let (parent, name) = self.parent(path)?;
        symlinkat(to, &parent, name.as_path()).with_context(|| format!("linking {path} to {to}"))
    }

    /// Makes a directory of this mode, unless there is one. Those above it are made too.
    pub fn make_dir(&self, path: &str, mode: u32) -> anyhow::Result<()> {
        self.make_parent(path)?;
        let (parent, name) = self.parent(path)?;
        match mkdirat(&parent, name.as_path(), Mode::from_bits_truncate(0o700)) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return self.open_dir(Path::new(path)).map(drop),
            Err(errno) => return Err(errno).with_context(|| format!("making {path}")),
        }
        // The process's umask has taken its part of the mode.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let made = self.open_at(path, flags, Mode::empty());
        made.and_then(|dir| fchmod(&dir, Mode::from_bits_truncate(mode)))
            .with_context(|| format!("setting the mode of {path}"))
    }

    /// Removes a file or link, if there is one.
    pub fn remove(&self, path: &str) -> anyhow::Result<()> {
        let (parent, name) = match self.parent(path) {
            Err(error) if is_absent(&error) => return Ok(()),
            other => other?,
        };
        match unlinkat(&parent, name.as_path(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno).with_context(|| format!("removing {path}")),
        }
    }

    /// Whether there is something of this name, at the end of all links.
    pub fn exists(&self, path: &str) -> bool {
        self.open_at(path, OFlag::O_PATH, Mode::empty()).is_ok()
    }

    /// Whether the name itself is a plain file and not a link to one.
    pub fn is_plain_file(&self, path: &str) -> bool {
        self.is_of(nix::libc::S_IFREG, path)
    }

    fn is_of(&self, kind: nix::libc::mode_t, path: &str) -> bool {
        let stat = self.parent(path).ok().and_then(|(parent, name)| {
            fstatat(&parent, name.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()
        });
        stat.is_some_and(|stat| stat.st_mode & nix::libc::S_IFMT == kind)
    }

    fn make_parent(&self, path: &str) -> anyhow::Result<()> {
        let mut so_far = PathBuf::new();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            let inside = self.open_dir(&so_far)?;
            let part = Path::new(part.as_os_str());
            so_far.push(part);
            match mkdirat(&inside, part, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => {
                    return Err(errno).with_context(|| format!("making {}", so_far.display()));
                }
            }
        }
        Ok(())
    }

    fn parent(&self, path: &str) -> anyhow::Result<(OwnedFd, PathBuf)> {
        let path = Path::new(path);
        let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
        Ok((self.open_dir(path.parent().unwrap_or(Path::new("")))?, PathBuf::from(name)))
    }

    fn open_dir(&self, path: &Path) -> anyhow::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        self.open_at(&path.to_string_lossy(), OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
            .with_context(|| format!("opening directory {}", path.display()))
    }

    fn open_plain(&self, path: &str, flags: OFlag, mode: Mode) -> anyhow::Result<File> {
        // Not blocking: a FIFO in the place of a file would hold us for ever.
        let flags = flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = self.open_at(path, flags, mode).with_context(|| format!("opening {path}"))?;
        let file = File::from(file);
        if !file.metadata().with_context(|| format!("looking at {path}"))?.is_file() {
            bail!("{path} is not a plain file");
        }
        Ok(file)
    }

    fn open_at(&self, path: &str, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
        openat2(self.dir.as_fd(), path, how)
    }
}

fn is_absent(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Errno>(), Some(Errno::ENOENT | Errno::ENOTDIR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Host {
        dir: tempfile::TempDir,
        root: Root,
    }

    /// A directory with a file beside the root that must not change.
    fn host() -> Host {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::write(dir.path().join("host"), "host").unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        Host { dir, root }
    }

    #[test]
    fn links_of_any_kind_end_inside_of_the_root() {
        let Host { dir, root } = host();
        let inside = dir.path().join("root");
        let outside = dir.path().join("host");
        symlink(&outside, inside.join("absolute")).unwrap();
        symlink("../host", inside.join("dots")).unwrap();
        symlink("/", inside.join("etc")).unwrap();
        symlink("../../../..", inside.join("up")).unwrap();
        assert!(root.write("absolute", b"x").is_err(), "its directory is not in the root");
        root.write("dots", b"x").unwrap();
        root.write("etc/fstab", b"y").unwrap();
        root.create("up/created", b"z", 0o600).unwrap();
        root.create("absolute", b"now a file", 0o600).unwrap();
        root.link("up/link", "/anywhere").unwrap();
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "host");
        for (name, content) in
            [("host", "x"), ("fstab", "y"), ("created", "z"), ("absolute", "now a file")]
        {
            assert_eq!(std::fs::read_to_string(inside.join(name)).unwrap(), content);
        }
        assert_eq!(root.read("absolute").unwrap().unwrap(), b"now a file");
        let mode = inside.join("created").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_plain_file_is_neither_read_nor_waited_for() {
        let Host { dir, root } = host();
        let inside = dir.path().join("root");
        nix::unistd::mkfifo(&inside.join("fifo"), Mode::S_IRWXU).unwrap();
        std::fs::create_dir(inside.join("dir")).unwrap();
        assert!(root.read("fifo").is_err());
        assert!(root.read("dir").is_err());
        assert!(root.write("fifo", b"x").is_err());
        assert_eq!(root.read("absent/file").unwrap(), None);
        root.remove("absent/file").unwrap();
        std::fs::write(inside.join("binary"), [0xff, 0xfe]).unwrap();
        assert!(root.is_plain_file("binary") && !root.is_plain_file("fifo"));
        assert_eq!(root.files(".").unwrap(), ["binary"]);
        assert_eq!(root.dirs(".").unwrap(), ["dir"]);
        assert!(root.files("absent").unwrap().is_empty());
    }

    #[test]
    fn text_of_any_encoding_keeps_what_is_not_changed() {
        let Host { dir, root } = host();
        let path = dir.path().join("root/text");
        for (old, new) in [
            (&b"# gr\xfc\xdfe \x85\xa0\nold\n"[..], &b"# gr\xfc\xdfe \x85\xa0\nnew\n"[..]),
            ("# grüße\nold\n".as_bytes(), "# grüße\nnew\n".as_bytes()),
        ] {
            std::fs::write(&path, old).unwrap();
            assert_eq!(root.edit("text", |text| text.replace("old", "new")).unwrap(), Some(true));
            assert_eq!(std::fs::read(&path).unwrap(), new);
            assert_eq!(root.edit("text", str::to_owned).unwrap(), Some(false));
        }
        assert_eq!(root.edit("absent", str::to_owned).unwrap(), None);
    }

    #[test]
    fn a_file_is_replaced_in_one_step() {
        let Host { dir, root } = host();
        let inside = dir.path().join("root");
        root.create("dir/menu", b"old", 0o644).unwrap();
        let before = File::open(inside.join("dir/menu")).unwrap();
        std::fs::write(inside.join("dir").join(TEMPORARY), "of a power cut").unwrap();
        root.create("dir/menu", b"new", 0o600).unwrap();
        assert_eq!(std::io::read_to_string(before).unwrap(), "old", "the old file is whole");
        assert_eq!(std::fs::read_to_string(inside.join("dir/menu")).unwrap(), "new");
        assert_eq!(root.files("dir").unwrap(), ["menu"], "nothing else is left");
    }

    #[test]
    fn rewriting_keeps_mode_and_inode() {
        let Host { dir, root } = host();
        let path = dir.path().join("root/file");
        std::fs::write(&path, "long content").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        root.write("file", b"short").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    }
}
