//! The filesystems of a running system, and two settings of the kernel that live in them.

use anyhow::{Context, Result};
use metalcast_sys::mount::{MsFlags, mount};
use std::path::Path;

/// If process 1 ends or the kernel fails, the machine starts again after this many seconds and
/// netboots, instead of standing still until somebody comes.
const RESTART_AFTER_PANIC_SECONDS: u32 = 30;

/// Mounts proc, sysfs, devtmpfs and two tmpfs.
pub(super) fn mount_all() -> Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let closed = plain | MsFlags::MS_NOEXEC;
    for (fstype, target, flags, data) in [
        ("proc", "/proc", closed, None),
        ("sysfs", "/sys", closed, None),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID, Some("mode=0755")),
        ("tmpfs", "/run", plain, Some("mode=0755,size=16m")),
        ("tmpfs", "/tmp", plain, Some("mode=1777,size=25%")),
    ] {
        mount(Path::new(fstype), Path::new(target), fstype, flags, data)?;
    }
    std::fs::write("/proc/sys/kernel/panic", RESTART_AFTER_PANIC_SECONDS.to_string())
        .context("telling the kernel to restart after a panic")?;
    nix::unistd::sethostname("metalcast").context("setting the host name")
}
