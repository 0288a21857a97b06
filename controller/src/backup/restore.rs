//! Restoring a backup: all of it is read and checked before the first byte is written.

use super::{CONFIGURATION, Contents, DATABASE, FORMAT, LIST, MEMBERS, Member};
use crate::{service::end_unfinished, store::Store};
use anyhow::{Context, ensure};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Longest list of files read; ours has under 2 KiB.
const MAX_LIST_BYTES: u64 = 64 << 10;

/// Lies in `state_dir` while a restore is under way.
const UNFINISHED: &str = "restore.unfinished";

/// What may lie in `state_dir` before: the images, which are copied apart, and what mke2fs makes.
const HARMLESS: [&str; 2] = ["images", "lost+found"];

/// Read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// What was, or would be, restored.
#[derive(Debug)]
pub struct Restored {
    /// What the backup holds.
    pub contents: Contents,
    /// Tasks that had not ended when the backup was made, and are ended now.
    pub ended_tasks: usize,
}

/// Reads all of a backup and compares it with its list.
///
/// # Errors
/// Says what is wrong, and in which file of the backup.
pub fn verify(backup: &Path) -> anyhow::Result<Contents> {
    read(backup, |_, data| io::copy(data, &mut io::sink()).map(drop))
        .with_context(|| format!("{} is not a whole backup", backup.display()))
}

/// Restores a backup into `state_dir`, which must be empty or absent. Work that had not ended when it
/// was made is ended: it may have been done since, and is not done twice unasked. On failure
/// nothing is left.
///
/// # Errors
/// When the backup is damaged, `state_dir` is in use, or something cannot be written.
pub async fn restore(
    backup: &Path,
    state_dir: &Path,
    who: &str,
    now_ms: i64,
) -> anyhow::Result<Restored> {
    let contents = check(backup, state_dir)?;
    let existed = state_dir.exists();
    let filled = match fill(backup, state_dir) {
        Ok(()) => end_tasks(&contents, state_dir, who, now_ms).await,
        Err(error) => Err(error),
    };
    match filled.and_then(|ended| finish(state_dir).map(|()| ended)) {
        Ok(ended_tasks) => Ok(Restored { contents, ended_tasks }),
        Err(error) => {
            clear(state_dir, existed);
            Err(error.context(format!("restoring into {}", state_dir.display())))
        }
    }
}

/// Whether a restore could begin: the backup is whole, and nothing is in its way.
///
/// # Errors
/// As [`restore`].
pub fn check(backup: &Path, state_dir: &Path) -> anyhow::Result<Contents> {
    let contents = verify(backup)?;
    let entries = match fs::read_dir(state_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(contents),
        entries => entries.with_context(|| format!("reading {}", state_dir.display()))?,
    };
    for entry in entries {
        let name = entry.with_context(|| format!("reading {}", state_dir.display()))?.file_name();
        ensure!(
            HARMLESS.iter().any(|harmless| name == *harmless),
            "{} is not empty, it has {}: stop the controller and move what is there away, or set \
             another state_dir",
            state_dir.display(),
            name.display(),
        );
    }
    Ok(contents)
}

/// Refuses a directory in which a restore was cut short.
///
/// # Errors
/// Says what to do.
pub fn check_finished(state_dir: &Path) -> anyhow::Result<()> {
    ensure!(
        !state_dir.join(UNFINISHED).exists(),
        "a restore into {} was cut short: remove all but images from it, and restore again",
        state_dir.display()
    );
    Ok(())
}

/// Reads a backup member by member; `take` gets each member's data and must read it to the end.
fn read(
    backup: &Path,
    mut take: impl FnMut(&str, &mut dyn Read) -> io::Result<()>,
) -> anyhow::Result<Contents> {
    let file = File::open(backup).context("opening it")?;
    let mut archive = tar::Archive::new(BufReader::with_capacity(BUFFER_BYTES, file));
    let mut entries = archive.entries().context("reading it as a tar file")?;
    let list = next(&mut entries, LIST)?;
    ensure!(list.size() <= MAX_LIST_BYTES, "its {LIST} is too long");
    let contents: Contents =
        serde_json::from_reader(list).with_context(|| format!("its {LIST}"))?;
    ensure!(
        contents.format == FORMAT,
        "it is of form {}, and this program reads {FORMAT}: use the program that made it ({})",
        contents.format,
        contents.version
    );
    check_names(&contents)?;
    for Member { name, bytes, blake3 } in &contents.files {
        let mut entry = next(&mut entries, name)?;
        ensure!(entry.size() == *bytes, "{name} has {} bytes instead of {bytes}", entry.size());
        let mut hashed = Hashed { inner: &mut entry, hasher: blake3::Hasher::new(), bytes: 0 };
        take(name, &mut hashed).with_context(|| format!("copying {name}"))?;
        ensure!(hashed.bytes == *bytes, "it ends in {name}, after {} bytes", hashed.bytes);
        ensure!(hashed.hasher.finalize().to_string() == *blake3, "{name} is damaged");
    }
    ensure!(entries.next().is_none(), "something follows after its last file");
    Ok(contents)
}

/// The next member, which must be a file of this name.
fn next<'a, R: Read>(
    entries: &mut tar::Entries<'a, R>,
    wanted: &str,
) -> anyhow::Result<tar::Entry<'a, R>> {
    let entry = entries.next().with_context(|| format!("it ends before {wanted}"))?;
    let entry = entry.with_context(|| format!("reading it as a tar file, before {wanted}"))?;
    let name = entry.path_bytes().into_owned();
    ensure!(
        name == wanted.as_bytes() && entry.header().entry_type().is_file(),
        "{wanted} is expected, and {} is there",
        String::from_utf8_lossy(&name).escape_debug()
    );
    Ok(entry)
}

/// Every name is one of ours, none is there twice, none is missing but the leases.
fn check_names(contents: &Contents) -> anyhow::Result<()> {
    let names: Vec<&str> = contents.files.iter().map(|file| file.name.as_str()).collect();
    let all = MEMBERS.map(|(name, _)| name);
    let optional = |name: &str| name == super::LEASES && !names.contains(&name);
    let expected: Vec<&str> = all.into_iter().filter(|name| !optional(name)).collect();
    ensure!(names == expected, "its {LIST} names other files than a backup has: {names:?}");
    Ok(())
}

struct Hashed<R> {
    inner: R,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..bytes]);
        self.bytes += bytes as u64;
        Ok(bytes)
    }
}

fn fill(backup: &Path, state_dir: &Path) -> anyhow::Result<()> {
    let dir = |path: &Path| {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("making {}", path.display()))
    };
    dir(state_dir)?;
    write(&state_dir.join(UNFINISHED), 0o600, &mut io::empty())
        .with_context(|| format!("writing into {}", state_dir.display()))?;
    sync(state_dir)?;
    dir(&state_dir.join("pki"))?;
    read(backup, |name, data| {
        if name == CONFIGURATION {
            return io::copy(data, &mut io::sink()).map(drop);
        }
        let mode = MEMBERS.iter().find(|(member, _)| *member == name);
        let mode = mode.map_or(0o600, |(_, mode)| *mode);
        write(&state_dir.join(name), mode, data)
    })?;
    sync(&state_dir.join("pki"))?;
    sync(state_dir)
}

fn write(path: &Path, mode: u32, data: &mut dyn Read) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    io::copy(data, &mut file)?;
    file.flush()?;
    file.sync_all()
}

fn sync(dir: &Path) -> anyhow::Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("flushing {}", dir.display()))
}

async fn end_tasks(
    contents: &Contents,
    state_dir: &Path,
    who: &str,
    now_ms: i64,
) -> anyhow::Result<usize> {
    let store = Store::open(&state_dir.join(DATABASE)).await?;
    let made = jiff::Timestamp::from_second(contents.created_unix)
        .map_or_else(|_| contents.created_unix.to_string(), |time| time.to_string());
    let ended = end_unfinished(&store, &format!("restore a backup of {made}"), who, now_ms).await;
    store.close().await;
    ended
}

fn finish(state_dir: &Path) -> anyhow::Result<()> {
    let path = state_dir.join(UNFINISHED);
    fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    sync(state_dir)
}

/// Removes what was written. What cannot be removed keeps the marker company.
fn clear(state_dir: &Path, existed: bool) {
    let journals = ["metalcast.db-wal", "metalcast.db-shm"];
    let names = MEMBERS.iter().map(|(name, _)| *name).filter(|name| *name != CONFIGURATION);
    let paths: Vec<PathBuf> = names.chain(journals).map(|name| state_dir.join(name)).collect();
    paths.iter().for_each(|path| drop(fs::remove_file(path)));
    if fs::remove_dir(state_dir.join("pki")).is_ok() {
        let _ = fs::remove_file(state_dir.join(UNFINISHED));
        if !existed {
            let _ = fs::remove_dir(state_dir);
        }
    }
}
