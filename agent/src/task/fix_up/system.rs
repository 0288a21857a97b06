//! Mounting the deployed system where its root directory is.
//!
//! That is the root of the filesystem, but for btrfs: there distributions keep the system in a
//! subvolume, which the kernel is told by `rootflags=subvol=`.

use super::super::{
    StepLog,
    plan::{Family, System, Target},
};
use crate::disk::{Access, Mounted, Root};
use anyhow::bail;

/// Files that every system has one of (os-release(5)), and the one that Debian's installer writes.
const SIGNS: [&str; 3] = ["etc/os-release", "usr/lib/os-release", "etc/fstab"];

/// Subvolumes for the system: of Debian's installer, of Ubuntu and many others, of Fedora. SUSE makes
/// its own the default one.
const SUBVOLUMES: [&str; 3] = ["@rootfs", "@", "root"];

pub(super) fn mount(
    system: &System<'_>,
    target: &Target,
    log: &StepLog<'_>,
) -> anyhow::Result<Mounted> {
    let node = target.node(target.slot.number, log)?;
    let open = |options: Option<&str>, access| {
        let driver = system.family.driver();
        Mounted::open(&node, driver, options, access, &log.machine().run_dir)
    };
    if system.family != Family::Btrfs {
        return open(None, Access::Write);
    }
    // To look only. Linux before 6.3 remembers the generation that a mount found, and after one that
    // finds what another one wrote it would refuse the same image in another slot as stale.
    let whole = open(None, Access::Read)?;
    let root = whole.root()?;
    let is_whole = has_system(&root, "");
    let found = SUBVOLUMES.into_iter().find(|name| has_system(&root, &format!("{name}/")));
    drop(root);
    whole.close()?;
    if is_whole {
        return open(None, Access::Write);
    }
    let Some(name) = found else {
        bail!("no system in the default subvolume of this btrfs, nor in {}", SUBVOLUMES.join(", "));
    };
    log.note(format!("the system is in subvolume {name}"));
    open(Some(&format!("subvol={name}")), Access::Write)
}

/// `dir` is empty or ends in a slash.
fn has_system(root: &Root, dir: &str) -> bool {
    SIGNS.iter().any(|sign| root.exists(&format!("{dir}{sign}")))
}
