//! Loop devices: a disk file that tools see as a disk.
//!
//! The device is marked for automatic release while we hold it open, so the kernel detaches it even when this process
//! is killed. Partitions are told to the kernel by partx(8): not every kernel reads partition tables by itself.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::{pause, run};

/// How long another program may look at a partition.
const IN_USE: Duration = Duration::from_secs(20);

/// An attached disk file; detached when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    path: PathBuf,
    // Held only to keep the device: the kernel detaches it when the last holder is gone.
    held: Option<File>,
}

impl LoopDisk {
    /// Attaches `file` to a free loop device.
    ///
    /// # Errors
    /// When losetup(8) cannot (no root, no free device).
    pub fn attach(file: &Path) -> Result<Self> {
        let out = run(Command::new("losetup").args(["--partscan", "--find", "--show"]).arg(file))?;
        let path = PathBuf::from(out.trim());
        let held = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        // On a device in use this sets the automatic release (LO_FLAGS_AUTOCLEAR) and detaches later.
        run(Command::new("losetup").arg("--detach").arg(&path))?;
        Ok(Self { path, held: Some(held) })
    }

    /// Lets reads and writes pass the page cache of the disk file, as nothing lies in front of a real disk either.
    ///
    /// # Errors
    /// When the file's filesystem has no such way (tmpfs).
    pub fn bypass_cache(&self) -> Result<()> {
        run(Command::new("losetup").arg("--direct-io=on").arg(&self.path)).map(drop)
    }

    /// The device node, `/dev/loopN`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device's name without its directory, `loopN`.
    pub fn name(&self) -> String {
        self.path.file_name().expect("a device has a name").to_string_lossy().into_owned()
    }

    /// Makes the kernel's partitions those of the table on the disk. Programs that look at every disk, Clonezilla for
    /// one, keep a partition for a moment, which is waited for.
    ///
    /// # Errors
    /// When partx(8) cannot read the table or a partition stays in use.
    pub fn reread_partitions(&self) -> Result<()> {
        let deadline = Instant::now() + IN_USE;
        loop {
            // Not --update, which leaves out logical partitions. Having none to delete is an error to partx.
            let _ = run(Command::new("partx").arg("--delete").arg(&self.path));
            match run(Command::new("partx").arg("--add").arg(&self.path)) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => pause()?,
            }
        }
    }

    /// Makes the disk as new: no partitions, and a hole where anything was written.
    ///
    /// # Errors
    /// When a partition is in use, or blkdiscard(8) cannot.
    pub fn make_blank(&self) -> Result<()> {
        // Having none to delete is an error to partx.
        let _ = run(Command::new("partx").arg("--delete").arg(&self.path));
        run(Command::new("blkdiscard").arg(&self.path)).map(drop)
    }

    /// The node of a partition, `/dev/loopNpM`.
    ///
    /// # Errors
    /// When there is no such partition.
    pub fn partition(&self, number: u32) -> Result<PathBuf> {
        let node = PathBuf::from(format!("{}p{number}", self.path.display()));
        let kind =
            std::fs::metadata(&node).with_context(|| format!("looking at {}", node.display()))?;
        ensure!(kind.file_type().is_block_device(), "{} is no block device", node.display());
        Ok(node)
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // The partitions hold the device on kernels that do not scan tables.
        let _ = run(Command::new("partx").arg("--delete").arg(&self.path));
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_shows_its_partitions_and_goes_away() {
        let dir = crate::paths::scratch("loop").unwrap();
        let file = dir.path().join("disk");
        File::create(&file).unwrap().set_len(16 << 20).unwrap();
        let script = "printf 'start=2048,size=4096,type=83\\n,,5\\n\\n\\n,4096,83\\n,,83\\n' | sfdisk -q \"$0\"";
        run(Command::new("sh").args(["-c", script]).arg(&file)).unwrap();
        let disk = LoopDisk::attach(&file).unwrap();
        disk.reread_partitions().unwrap();
        let logical = disk.partition(6).unwrap();
        assert!(disk.partition(7).is_err());
        let name = disk.path().to_owned();
        drop(disk);
        assert!(!logical.exists());
        let left = run(Command::new("losetup").arg("--associated").arg(&file)).unwrap();
        assert_eq!(left, "", "{} is still attached", name.display());
    }
}
