//! A small filesystem in memory, in the mount namespace of a lab: a disk that is as full as a test wants it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::process::run;

/// What takes the space that nothing else shall have.
const FILLER: &str = "filler";

/// A mounted tmpfs. It goes with the lab.
#[derive(Debug)]
pub struct Tmpfs {
    dir: PathBuf,
}

impl Tmpfs {
    /// Mounts one on a new directory, for the programs in the lab.
    ///
    /// # Errors
    /// When mount(8) cannot.
    pub fn mount(lab: &Lab, dir: &Path, mib: u32) -> Result<Self> {
        std::fs::create_dir(dir).with_context(|| format!("making {}", dir.display()))?;
        let size = format!("size={mib}m");
        run(lab.command("mount").args(["-t", "tmpfs", "-o", &size, "mc-small"]).arg(dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Takes the space that is free, but for this much. Others may be taking it too, and give up and give it back at
    /// once when there is none left.
    ///
    /// # Errors
    /// When df(1) or sh(1) cannot.
    pub fn fill(&self, lab: &Lab, left_mib: u64) -> Result<()> {
        let left = left_mib << 20;
        let taken = self.free_bytes(lab)?.saturating_sub(left).to_string();
        let write = "head -c \"$1\" /dev/zero >\"$0\" || true";
        run(lab.command("sh").args(["-c", write]).arg(self.dir.join(FILLER)).arg(taken)).map(drop)
    }

    /// Gives it back.
    ///
    /// # Errors
    /// When rm(1) cannot.
    pub fn relieve(&self, lab: &Lab) -> Result<()> {
        run(lab.command("rm").arg(self.dir.join(FILLER))).map(drop)
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// When df(1) cannot say.
    pub fn free_bytes(&self, lab: &Lab) -> Result<u64> {
        let printed =
            run(lab.command("df").args(["--block-size=1", "--output=avail"]).arg(&self.dir))?;
        let last = printed.lines().last().context("df printed nothing")?;
        last.trim().parse().context("understanding df")
    }

    /// What du(1) counts below a directory of it, in bytes; 0 where there is none.
    ///
    /// # Errors
    /// When du(1) cannot say.
    pub fn used_bytes(&self, lab: &Lab, below: impl AsRef<OsStr>) -> Result<u64> {
        let count = "test ! -e \"$0\" || du --bytes --summarize \"$0\" | cut -f1";
        let path = self.dir.join(below.as_ref());
        let printed = run(lab.command("sh").args(["-c", count]).arg(path))?;
        match printed.trim() {
            "" => Ok(0),
            number => number.parse().context("understanding du"),
        }
    }
}
