//! Where things lie in a checkout. Everything the lab makes is under `target/lab`; nothing is written elsewhere.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// The checkout's top directory.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in a workspace")
        .to_owned()
}

/// Cargo's output directory: `CARGO_TARGET_DIR` (relative to the checkout) or `target`.
pub fn target() -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace().join(named)
}

/// The lab's directory, made if missing.
///
/// # Errors
/// When it cannot be made.
pub fn lab() -> Result<PathBuf> {
    let dir = target().join("lab");
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

/// A directory of one run under `target/lab`; removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    // Locked while the owner lives, however it ends.
    _held: File,
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Makes a new directory `target/lab/mc-<name>-...`, and removes those of runs that were killed.
///
/// # Errors
/// When it cannot be made.
pub fn scratch(name: &str) -> Result<Scratch> {
    let lab = lab()?;
    sweep(&lab)?;
    let mut builder = tempfile::Builder::new();
    let dir = builder.prefix(&format!("mc-{name}-")).tempdir_in(lab);
    let dir = dir.context("creating a directory for this run")?;
    let held = File::create(dir.path().join(LOCK)).context("creating a lock")?;
    held.lock().context("locking a directory")?;
    Ok(Scratch { dir, _held: held })
}

/// The lock file in a run's directory.
const LOCK: &str = "lock";

/// A directory younger than this may not have been locked yet.
const YOUNG: Duration = Duration::from_secs(60);

fn sweep(lab: &Path) -> Result<()> {
    for entry in lab.read_dir().context("listing target/lab")? {
        let entry = entry.context("listing target/lab")?;
        if entry.file_name().to_string_lossy().starts_with("mc-") && is_left(&entry.path()) {
            // Another run may be sweeping too.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

fn is_left(dir: &Path) -> bool {
    let age = std::fs::metadata(dir).and_then(|m| m.created()).ok().and_then(|t| t.elapsed().ok());
    let free = || File::open(dir.join(LOCK)).map_or(true, |lock| lock.try_lock().is_ok());
    age.is_some_and(|age| age > YOUNG) && free()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_directory_is_not_swept() {
        let held = scratch("held").unwrap();
        assert!(!is_left(held.path()), "it is young");
        let lock = File::open(held.path().join(LOCK)).unwrap();
        assert!(lock.try_lock().is_err());
        drop(held);
        assert!(lock.try_lock().is_ok());
    }
}
