//! mount(2) and umount2(2).

use crate::{Result, during};
use std::io;
use std::path::{Path, PathBuf};

pub use nix::mount::MsFlags;

/// Mounts `source` of type `fstype` on `target`, which must be a directory; `data` holds the
/// filesystem's own options, comma separated.
pub fn mount(
    source: &Path,
    target: &Path,
    fstype: &str,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<()> {
    nix::mount::mount(Some(source), target, Some(fstype), flags, data).map_err(during(|| {
        format!("mounting {fstype} {} on {}", source.display(), target.display())
    }))
}

/// Unmounts what is on `target`; it fails with `EBUSY` while something uses it.
pub fn unmount(target: &Path) -> Result<()> {
    nix::mount::umount(target).map_err(during(|| format!("unmounting {}", target.display())))
}

/// Takes the mount on `target` out of the tree at once; the kernel ends it with its last user.
pub fn detach(target: &Path) -> Result<()> {
    nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH)
        .map_err(during(|| format!("detaching {}", target.display())))
}

/// Whether a filesystem is mounted on exactly this path, by `/proc/self/mountinfo` (proc(5)).
pub fn is_mounted(target: &Path) -> Result<bool> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(during(|| "reading /proc/self/mountinfo"))?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .any(|field| Path::new(&unescape(field)) == target))
}

/// A mount that ends with its owner.
///
/// [`Mount::close`] reports a failure; dropping detaches, so that an early return leaves nothing in
/// the tree.
#[derive(Debug)]
pub struct Mount {
    target: Option<PathBuf>,
}

impl Mount {
    /// Mounts like [`mount`].
    pub fn new(
        source: &Path,
        target: &Path,
        fstype: &str,
        flags: MsFlags,
        data: Option<&str>,
    ) -> Result<Self> {
        mount(source, target, fstype, flags, data)?;
        Ok(Self { target: Some(target.to_owned()) })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.target.as_deref().expect("the target is taken only by close, which consumes self")
    }

    /// Unmounts and reports what the kernel says; a filesystem that is still in use stays mounted
    /// until it is detached by the drop of `self` on that error.
    pub fn close(mut self) -> Result<()> {
        unmount(self.path())?;
        self.target = None;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(target) = self.target.take() {
            // Nobody is left to report to; close() is the way to hear of a failure.
            let _ = detach(&target);
        }
    }
}

/// Undoes the octal escapes of mountinfo: `\040` is a space.
fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Writes out one filesystem's data, given any path in it (syncfs(2)).
pub fn sync_filesystem(path: &Path) -> Result<()> {
    let sync = || -> io::Result<()> {
        let file = std::fs::File::open(path)?;
        nix::unistd::syncfs(&file)?;
        Ok(())
    };
    sync().map_err(during(|| format!("syncing the filesystem of {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmpfs_with_a_blank_in_its_path_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a b");
        std::fs::create_dir(&target).unwrap();
        let tmpfs = || {
            Mount::new(
                Path::new("tmpfs"),
                &target,
                "tmpfs",
                MsFlags::MS_NOSUID,
                Some("size=1m,mode=700"),
            )
        };
        let mounted = tmpfs().unwrap();
        assert!(is_mounted(&target).unwrap());
        std::fs::write(mounted.path().join("x"), "y").unwrap();
        sync_filesystem(mounted.path()).unwrap();
        mounted.close().unwrap();
        assert!(!is_mounted(&target).unwrap());
        assert!(!target.join("x").exists());

        drop(tmpfs().unwrap());
        assert!(!is_mounted(&target).unwrap(), "drop detaches");
    }

    #[test]
    fn a_busy_mount_is_reported_by_close_and_does_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            Mount::new(Path::new("tmpfs"), dir.path(), "tmpfs", MsFlags::empty(), None).unwrap();
        let held = std::fs::File::create(dir.path().join("open")).unwrap();
        let error = mounted.close().unwrap_err();
        assert_eq!(error.errno(), Some(libc::EBUSY));
        assert!(error.to_string().starts_with("unmounting "), "{error}");
        assert!(!is_mounted(dir.path()).unwrap());
        drop(held);
    }
}
