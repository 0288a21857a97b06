//! Results that are slow to make, kept by a hash of everything that goes into them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::paths;
use crate::process::run;

/// Hash digits in a directory's name: plenty for the few recipes of a checkout's life.
const HASH_DIGITS: usize = 12;

/// Returns the directory of a result; calls `build` with a new empty directory when there is none yet.
///
/// The directory gets its final name when it is complete, and other processes wait meanwhile.
pub(super) fn cached(
    kind: &str,
    recipe: &[&str],
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let mut hasher = blake3::Hasher::new();
    for part in recipe {
        // The length separates the parts.
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    let hash = hasher.finalize().to_hex();
    let done = paths::lab()?.join(format!("image-{kind}-{}", &hash[..HASH_DIGITS]));
    let lock = done.with_extension("lock");
    let lock = File::create(&lock).with_context(|| format!("creating {}", lock.display()))?;
    lock.lock().context("waiting for another process that makes the same image")?;
    if done.is_dir() {
        return Ok(done);
    }
    let unfinished = done.with_extension("new");
    if unfinished.exists() {
        let _ = std::fs::remove_dir_all(&unfinished);
    }
    std::fs::create_dir(&unfinished)
        .with_context(|| format!("creating {}", unfinished.display()))?;
    build(&unfinished)?;
    // `cargo clean` is for whom the checkout belongs to, also when sudo brought us here.
    let mut chown = Command::new("chown");
    chown.args(["--recursive", "--no-dereference", "--reference"]).arg(paths::target());
    run(chown.arg(&unfinished))?;
    std::fs::rename(&unfinished, &done).with_context(|| format!("naming {}", done.display()))?;
    Ok(done)
}
