//! A partition's filesystem, mounted out of everyone's way for as long as it is worked on.

use super::{Root, while_busy};
use anyhow::Context;
use metalcast_sys::mount::{self, MsFlags, sync_filesystem};
use std::path::{Path, PathBuf};

/// What may be done to a mounted filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Looking. A clean filesystem is not changed by it.
    Read,
    /// Changing.
    Write,
}

/// A mounted filesystem. Nothing on it is executed, no device node on it works.
#[derive(Debug)]
pub struct Mounted {
    /// `None` once it is unmounted.
    dir: Option<PathBuf>,
}

impl Mounted {
    /// Mounts `node` in a directory below `run_dir`. `driver` is the kernel's name of the filesystem,
    /// `options` are the driver's own, comma separated.
    pub fn open(
        node: &Path,
        driver: &str,
        options: Option<&str>,
        access: Access,
        run_dir: &Path,
    ) -> anyhow::Result<Self> {
        let name = node.file_name().unwrap_or_default();
        let dir = run_dir.join("mounts").join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let mut flags =
            MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NOATIME;
        if access == Access::Read {
            flags |= MsFlags::MS_RDONLY;
        }
        while_busy(|| mount::mount(node, &dir, driver, flags, options))?;
        Ok(Self { dir: Some(dir) })
    }

    /// The files on it.
    pub fn root(&self) -> anyhow::Result<Root> {
        Root::open(self.dir())
    }

    /// Writes everything out and unmounts.
    pub fn close(mut self) -> anyhow::Result<()> {
        sync_filesystem(self.dir())?;
        while_busy(|| mount::unmount(self.dir()))?;
        if let Some(dir) = self.dir.take() {
            // An empty directory in memory; its next user would make it again.
            let _ = std::fs::remove_dir(dir);
        }
        Ok(())
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        self.dir.as_deref().expect("only close, which consumes self, takes it")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take() {
            // Nobody is left to report to; close() is the way to hear of a failure.
            let _ = mount::detach(&dir);
        }
    }
}
