//! mount(2) and umount2(2).

use crate::{Result, during};
use nix::mount::MntFlags;
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub use nix::mount::MsFlags;

/// What a thread with mounts of its own hides for as long as it looks at others: every Linux has it.
const COVERED: &str = "/proc";

/// A line of `/proc/self/mountinfo` (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// Where it is mounted.
    pub target: PathBuf,
    /// The kernel's name of the filesystem: `ext4`, `nfs4`, `tmpfs` ...
    pub kind: String,
    /// What is mounted: a device node, mostly.
    pub source: String,
}

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
    nix::mount::umount2(target, MntFlags::MNT_DETACH)
        .map_err(during(|| format!("detaching {}", target.display())))
}

/// Whether a filesystem is mounted on exactly this path, by `/proc/self/mountinfo` (proc(5)).
pub fn is_mounted(target: &Path) -> Result<bool> {
    Ok(mounts()?.iter().any(|mounted| mounted.target == target))
}

/// All that this process sees mounted, what covers others behind them.
pub fn mounts() -> Result<Vec<MountPoint>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(during(|| "reading /proc/self/mountinfo"))?;
    Ok(text.lines().filter_map(mount_point).collect())
}

fn mount_point(line: &str) -> Option<MountPoint> {
    // Between the two come fields whose number varies.
    let (mount, filesystem) = line.split_once(" - ")?;
    let target = PathBuf::from(unescape(mount.split(' ').nth(4)?));
    let mut fields = filesystem.split(' ');
    let (kind, source) = (fields.next()?.to_owned(), unescape(fields.next()?));
    Some(MountPoint { target, kind, source })
}

/// Opens the filesystem on each of these mount points as it is by itself, without what is mounted beneath,
/// and only to be looked at: not even the times of reading are noted. Nobody else sees anything of it, and
/// it ends with what is returned.
pub fn views(targets: &[&Path]) -> Result<Vec<OwnedFd>> {
    let look = || {
        unshare(CloneFlags::CLONE_NEWNS).map_err(during(|| "making a mount namespace"))?;
        remount(Path::new("/"), MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
        targets.iter().map(|target| view(target)).collect()
    };
    // Its mounts end with the thread; what is open stays as it is.
    std::thread::scope(|scope| scope.spawn(look).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn view(target: &Path) -> Result<OwnedFd> {
    let covered = Path::new(COVERED);
    nix::mount::mount(Some(target), covered, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(during(|| format!("looking at {} by itself", target.display())))?;
    let only_look = MsFlags::MS_RDONLY | MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME;
    remount(covered, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | only_look)?;
    let opened = File::open(covered).map_err(during(|| format!("opening {}", target.display())))?;
    detach(covered)?;
    Ok(opened.into())
}

fn remount(target: &Path, flags: MsFlags) -> Result<()> {
    nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map_err(during(|| format!("changing how {} is mounted", target.display())))
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
    fn a_view_has_what_a_mount_covers_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let outer =
            Mount::new(Path::new("a"), dir.path(), "tmpfs", MsFlags::empty(), None).unwrap();
        std::fs::create_dir(at("in")).unwrap();
        std::fs::write(at("in/covered"), "x").unwrap();
        let inner = Mount::new(Path::new("b"), &at("in"), "tmpfs", MsFlags::empty(), None).unwrap();
        std::fs::write(at("in/over"), "y").unwrap();
        let found = mounts().unwrap();
        let outer_is = |one: &MountPoint| one.target == dir.path() && one.kind == "tmpfs";
        assert!(found.iter().any(|one| outer_is(one) && one.source == "a"), "{found:?}");

        let seen = views(&[dir.path(), &at("in")]).unwrap();
        let path = |view: &OwnedFd, name: &str| {
            PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(view)))
                .join(name)
        };
        assert_eq!(std::fs::read(path(&seen[0], "in/covered")).unwrap(), b"x");
        assert_eq!(std::fs::read(path(&seen[1], "over")).unwrap(), b"y");
        let written = std::fs::write(path(&seen[0], "in/covered"), "z").unwrap_err();
        assert_eq!(written.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(mounts().unwrap(), found, "nothing of it is seen by others");
        drop(seen);
        inner.close().unwrap();
        outer.close().unwrap();
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
