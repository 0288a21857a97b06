//! Key files: read with a limit and a check of their mode, written once as a whole directory; later
//! only single files are replaced.

use anyhow::{Context, bail};
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Longest key file read; the longest that is written has under 1 KiB.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// Everyone who may enter the directory.
    Public,
    /// The controller alone, mode 0600.
    Secret,
}

/// Whether nothing is in the place of the key directory yet. A packager may have made it empty.
pub fn is_absent_or_empty(dir: &Path) -> anyhow::Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("reading directory {}", dir.display())),
    }
}

/// Reads a text file.
pub fn read(path: &Path) -> anyhow::Result<String> {
    let context = || format!("reading {}", path.display());
    read_open(File::open(path).with_context(context)?).with_context(context)
}

/// Reads a text file that nobody but its owner may have access to.
pub fn read_secret(path: &Path) -> anyhow::Result<String> {
    let context = || format!("reading {}", path.display());
    let file = File::open(path).with_context(context)?;
    let mode = file.metadata().with_context(context)?.mode();
    if mode & 0o077 != 0 {
        bail!(
            "{} has mode {:04o}, so others could have read the key; if they have not, \
             `chmod 600 {}`",
            path.display(),
            mode & 0o7777,
            path.display()
        );
    }
    read_open(file).with_context(context)
}

fn read_open(file: File) -> anyhow::Result<String> {
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        bail!("longer than {MAX_FILE_BYTES} bytes");
    }
    Ok(text)
}

/// Makes `dir` (mode 0700) with these files: all of them or, if power fails, none. Replaces an
/// empty directory.
pub fn create_directory(dir: &Path, content: &[(&str, Secrecy, String)]) -> anyhow::Result<()> {
    let name = dir.file_name().context("the key directory has no name")?;
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let mut unfinished = name.to_owned();
    unfinished.push(".unfinished");
    let unfinished = parent.join(unfinished);
    // Left by a controller that was stopped in here; nothing has used those keys.
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", unfinished.display()));
        }
        Ok(()) | Err(_) => {}
    }
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&unfinished)
        .with_context(|| format!("creating {}", unfinished.display()))?;
    for (name, secrecy, text) in content {
        write(&unfinished.join(name), *secrecy, text)?;
    }
    sync_directory(&unfinished)?;
    fs::rename(&unfinished, dir)
        .with_context(|| format!("renaming {} to {}", unfinished.display(), dir.display()))?;
    sync_directory(parent)
}

/// Replaces a file of the directory: if power fails it is the old one or the new one.
pub fn replace(dir: &Path, name: &str, secrecy: Secrecy, text: &str) -> anyhow::Result<()> {
    let unfinished = dir.join(format!("{name}.new"));
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", unfinished.display()));
        }
        Ok(()) | Err(_) => {}
    }
    write(&unfinished, secrecy, text)?;
    fs::rename(&unfinished, dir.join(name))
        .with_context(|| format!("renaming {}", unfinished.display()))?;
    sync_directory(dir)
}

fn write(path: &PathBuf, secrecy: Secrecy, text: &str) -> anyhow::Result<()> {
    let mode = match secrecy {
        Secrecy::Public => 0o644,
        Secrecy::Secret => 0o600,
    };
    let context = || format!("writing {}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)?;
    file.sync_all().with_context(context)
}

fn sync_directory(dir: &Path) -> anyhow::Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("flushing directory {}", dir.display()))
}
