//! What projects add to the systems that are deployed from their images: read from a directory of the operator's, packed,
//! and kept by its hash for as long as a task needs it.
//!
//! ```text
//! DIR/files/     a tree that is laid over the system's root directory
//! DIR/script     a program that runs in the system afterwards
//! ```

use metalcast_initramfs::{bundle, packed};
use metalcast_shared::{
    hash::Hash,
    post_install::{Content, Entry, Kind, MAX_BYTES, MAX_ENTRIES, MAX_PATH_BYTES, PostInstall},
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The tree below the directory.
const FILES: &str = "files";

/// The script in the directory.
const SCRIPT: &str = "script";

/// How a program begins: with its interpreter, or as an ELF file.
const PROGRAM_MAGIC: [&[u8]; 2] = [b"#!", b"\x7fELF"];

/// Why a directory cannot be what a project adds.
#[derive(Debug, thiserror::Error)]
pub enum PostInstallError {
    /// It cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// What of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it will not do.
    #[error("{}: {what}", path.display())]
    Wrong {
        /// What of it.
        path: PathBuf,
        /// What is wrong with it and what would do.
        what: String,
    },
    /// It cannot be kept.
    #[error("writing {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was read of a directory.
struct Found {
    path: String,
    mode: u16,
    kind: FoundKind,
}

enum FoundKind {
    Directory,
    File(Vec<u8>),
    Link(String),
}

/// Reads and packs a directory. The same content gives the same bytes; owners and times are left out.
///
/// # Errors
/// Names the file that will not do.
pub fn pack(dir: &Path) -> Result<(PostInstall, Vec<u8>), PostInstallError> {
    let mut reader = Reader { found: Vec::new(), bytes: 0 };
    let files = dir.join(FILES);
    if exists(&files)? {
        reader.tree(&files, "")?;
    }
    let script = dir.join(SCRIPT);
    let script = if exists(&script)? { Some(reader.script(&script)?) } else { None };
    if reader.found.is_empty() && script.is_none() {
        let what = format!("has neither a directory {FILES} with something in it nor a {SCRIPT}");
        return Err(wrong(dir, what));
    }
    let mut found = reader.found;
    found.sort_by(|one, other| one.path.cmp(&other.path));
    let entries: Vec<Entry<'_>> = found.iter().map(Found::entry).collect();
    let (count, has_script) = (entries.len(), script.is_some());
    let bytes = Content { entries, script: script.as_deref() }.to_bytes();
    let packed = packed::pack(&bytes).map_err(|source| read(dir, source))?;
    let length = |value: usize| u32::try_from(value).map_err(|_| wrong(dir, "is too large"));
    let added = PostInstall {
        hash: Hash::of(&packed),
        packed_bytes: length(packed.len())?,
        entries: length(count)?,
        has_script,
    };
    Ok((added, packed))
}

impl Found {
    fn entry(&self) -> Entry<'_> {
        let kind = match &self.kind {
            FoundKind::Directory => Kind::Directory,
            FoundKind::File(bytes) => Kind::File(bytes),
            FoundKind::Link(target) => Kind::Link(target),
        };
        Entry { path: &self.path, mode: self.mode, kind }
    }
}

struct Reader {
    found: Vec<Found>,
    bytes: usize,
}

impl Reader {
    /// Everything below a directory; `prefix` is its path in the system, empty or ending in a slash.
    fn tree(&mut self, dir: &Path, prefix: &str) -> Result<(), PostInstallError> {
        for entry in fs::read_dir(dir).map_err(|source| read(dir, source))? {
            let at = entry.map_err(|source| read(dir, source))?.path();
            let name = at.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| wrong(&at, "its name is not UTF-8"))?;
            let path = format!("{prefix}{name}");
            if path.len() > MAX_PATH_BYTES || self.found.len() == MAX_ENTRIES {
                let most = format!("at most {MAX_ENTRIES} files, with paths of {MAX_PATH_BYTES}");
                return Err(wrong(&at, format!("is one too many: {most} bytes, go")));
            }
            let meta = fs::symlink_metadata(&at).map_err(|source| read(&at, source))?;
            let mode = (meta.permissions().mode() & 0o7777) as u16;
            let kind = if meta.is_dir() {
                FoundKind::Directory
            } else if meta.is_file() {
                FoundKind::File(self.content(&at)?)
            } else if meta.is_symlink() {
                let target = fs::read_link(&at).map_err(|source| read(&at, source))?;
                let target = target.to_str().ok_or_else(|| wrong(&at, "points to no UTF-8"))?;
                FoundKind::Link(target.to_owned())
            } else {
                return Err(wrong(&at, "is no file, link or directory"));
            };
            let is_dir = matches!(kind, FoundKind::Directory);
            let below = format!("{path}/");
            self.found.push(Found { path, mode, kind });
            if is_dir {
                self.tree(&at, &below)?;
            }
        }
        Ok(())
    }

    fn script(&mut self, path: &Path) -> Result<Vec<u8>, PostInstallError> {
        let text = self.content(path)?;
        if PROGRAM_MAGIC.iter().any(|magic| text.starts_with(magic)) {
            return Ok(text);
        }
        Err(wrong(path, "is no program: a script begins with its interpreter, such as #!/bin/sh"))
    }

    fn content(&mut self, path: &Path) -> Result<Vec<u8>, PostInstallError> {
        let left = MAX_BYTES - self.bytes;
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|source| read(path, source))?;
        let limit = left as u64 + 1;
        file.take(limit).read_to_end(&mut bytes).map_err(|source| read(path, source))?;
        if bytes.len() > left {
            let most = MAX_BYTES >> 20;
            return Err(wrong(path, format!("with it there are more than the {most} MiB that go")));
        }
        self.bytes += bytes.len();
        Ok(bytes)
    }
}

fn exists(path: &Path) -> Result<bool, PostInstallError> {
    path.try_exists().map_err(|source| read(path, source))
}

fn read(path: &Path, source: io::Error) -> PostInstallError {
    PostInstallError::Read { path: path.to_owned(), source }
}

fn wrong(path: &Path, what: impl Into<String>) -> PostInstallError {
    PostInstallError::Wrong { path: path.to_owned(), what: what.into() }
}

/// The directory that agents get packed files from, by their hashes.
#[derive(Clone, Debug)]
pub struct Shelf {
    dir: PathBuf,
}

impl Shelf {
    /// A shelf in a directory, which is made when there is something to put into it.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Puts a packed file there, and takes away all that nobody needs any more.
    ///
    /// # Errors
    /// When it cannot be written. What cannot be removed stays, and is logged.
    pub fn put(
        &self,
        hash: Hash,
        packed: &[u8],
        needed: &BTreeSet<Hash>,
    ) -> Result<(), PostInstallError> {
        let name = bundle::file_name(hash);
        let partial = self.dir.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.dir)?;
            fs::write(&partial, packed)?;
            File::open(&partial)?.sync_all()?;
            fs::rename(&partial, self.dir.join(&name))?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| PostInstallError::Write { path: partial.clone(), source })?;
        let kept: BTreeSet<String> =
            needed.iter().copied().chain([hash]).map(bundle::file_name).collect();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_none_or(|name| !kept.contains(name))
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!("removing {}: {error}", entry.path().display());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn project() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("files/etc");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("motd"), "hello\n").unwrap();
        symlink("motd", etc.join("issue")).unwrap();
        dir
    }

    fn refusal(dir: &Path) -> String {
        format!("{:#}", anyhow::Error::from(pack(dir).unwrap_err()))
    }

    #[test]
    fn a_directory_is_packed_as_it_is() {
        let dir = project();
        let (added, packed) = pack(dir.path()).unwrap();
        assert_eq!((added.entries, added.has_script), (3, false));
        assert_eq!((added.hash, added.packed_bytes as usize), (Hash::of(&packed), packed.len()));
        let bytes = packed::unpack(&packed).unwrap();
        let content = Content::of(&bytes).unwrap();
        let paths: Vec<_> = content.entries.iter().map(|entry| entry.path).collect();
        assert_eq!(paths, ["etc", "etc/issue", "etc/motd"]);
        assert_eq!(content.entries[1].kind, Kind::Link("motd"));
        assert_eq!(content.entries[2].kind, Kind::File(b"hello\n"));

        fs::write(dir.path().join("script"), "#!/bin/sh\n").unwrap();
        let (with_script, packed) = pack(dir.path()).unwrap();
        assert!(with_script.has_script && with_script.hash != added.hash);
        assert_eq!(pack(dir.path()).unwrap().1, packed, "twice the same");
    }

    #[test]
    fn what_will_not_do_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refusal(dir.path()).contains("neither"), "{}", refusal(dir.path()));
        fs::write(dir.path().join("script"), "echo\n").unwrap();
        assert!(refusal(dir.path()).contains("script: is no program"), "{}", refusal(dir.path()));
        let dir = project();
        let fifo = dir.path().join("files/fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(refusal(dir.path()).contains("fifo: is no file"), "{}", refusal(dir.path()));
        fs::remove_file(fifo).unwrap();
        let large = File::create(dir.path().join("files/large")).unwrap();
        large.set_len(MAX_BYTES as u64).unwrap();
        let error = refusal(dir.path());
        assert!(error.contains("more than the 8 MiB"), "{error}");
    }

    #[test]
    fn only_what_is_needed_stays_on_the_shelf() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().join("post-install"));
        let put = |text: &str, needed: &[&str]| {
            let needed = needed.iter().map(|text| Hash::of(text.as_bytes())).collect();
            shelf.put(Hash::of(text.as_bytes()), text.as_bytes(), &needed).unwrap();
            let mut names: Vec<_> = fs::read_dir(&shelf.dir)
                .unwrap()
                .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(put("one", &[]), ["one"]);
        assert_eq!(put("two", &["one"]), ["one", "two"]);
        assert_eq!(put("three", &["two"]), ["three", "two"]);
        assert_eq!(put("three", &[]), ["three"]);
    }
}
