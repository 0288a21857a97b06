//! Mounting the deployed system where its root directory is.
//!
//! That is the root of the filesystem, but for btrfs: there distributions keep the system in a
//! subvolume, which the kernel is told by `rootflags=subvol=`.

use super::super::{StepLog, plan::Family};
use crate::disk::{Access, Mounted, Root};
use anyhow::bail;
use std::path::Path;

/// Files that every system has one of (os-release(5)), and the one that Debian's installer writes.
const SIGNS: [&str; 3] = ["etc/os-release", "usr/lib/os-release", "etc/fstab"];

/// Subvolumes for the system: of Debian's installer, of Ubuntu and many others, of Fedora. SUSE makes
/// its own the default one.
const SUBVOLUMES: [&str; 3] = ["@rootfs", "@", "root"];

/// What a system has that can be started: the first program of any distribution.
const FIRST_PROGRAMS: [&str; 3] = ["sbin/init", "usr/lib/systemd/systemd", "lib/systemd/systemd"];

/// Mounts the system on a filesystem.
pub(super) fn mount(family: Family, node: &Path, log: &StepLog<'_>) -> anyhow::Result<Mounted> {
    if family != Family::Btrfs {
        return open(family, node, None, Access::Write, log);
    }
    match subvolume(node, has_system, log)? {
        Place::Nowhere => {
            bail!(
                "no system in the default subvolume of this btrfs, nor in {}",
                SUBVOLUMES.join(", ")
            )
        }
        place => open(family, node, place.options(log).as_deref(), Access::Write, log),
    }
}

/// Mounts the system on a filesystem that may have none. One without is left as it is, to the bit.
pub(super) fn mount_if_there(
    family: Family,
    node: &Path,
    log: &StepLog<'_>,
) -> anyhow::Result<Option<Mounted>> {
    let place = match family {
        Family::Btrfs => subvolume(node, is_root, log)?,
        Family::Ext | Family::Xfs => {
            let looked = open(family, node, Some(family.only_look()), Access::Read, log)?;
            let has_root = looked.root().map(|root| is_root(&root, ""));
            looked.close()?;
            if has_root? { Place::Here } else { Place::Nowhere }
        }
    };
    match place {
        Place::Nowhere => Ok(None),
        place => open(family, node, place.options(log).as_deref(), Access::Write, log).map(Some),
    }
}

/// Where on a filesystem a system is.
enum Place {
    Here,
    Subvolume(&'static str),
    Nowhere,
}

impl Place {
    fn options(&self, log: &StepLog<'_>) -> Option<String> {
        let Self::Subvolume(name) = self else { return None };
        log.note(format!("the system is in subvolume {name}"));
        Some(format!("subvol={name}"))
    }
}

fn open(
    family: Family,
    node: &Path,
    options: Option<&str>,
    access: Access,
    log: &StepLog<'_>,
) -> anyhow::Result<Mounted> {
    Mounted::open(node, family.driver(), options, access, &log.machine().run_dir)
}

/// To look only. Linux before 6.3 remembers the generation that a mount found, and after one that
/// finds what another one wrote it would refuse the same image in another slot as stale.
fn subvolume(
    node: &Path,
    is_there: impl Fn(&Root, &str) -> bool,
    log: &StepLog<'_>,
) -> anyhow::Result<Place> {
    let options = Some(Family::Btrfs.only_look());
    let whole = open(Family::Btrfs, node, options, Access::Read, log)?;
    let root = whole.root()?;
    let place = if is_there(&root, "") {
        Place::Here
    } else {
        let found = SUBVOLUMES.into_iter().find(|name| is_there(&root, &format!("{name}/")));
        found.map_or(Place::Nowhere, Place::Subvolume)
    };
    drop(root);
    whole.close()?;
    Ok(place)
}

/// Whether what is here is a whole system, and not just `/boot` or `/home` of one. `dir` is empty or
/// ends in a slash.
fn is_root(root: &Root, dir: &str) -> bool {
    let has = |files: &[&str]| files.iter().any(|file| root.exists(&format!("{dir}{file}")));
    has(&SIGNS) && has(&FIRST_PROGRAMS)
}

/// `dir` is empty or ends in a slash.
fn has_system(root: &Root, dir: &str) -> bool {
    SIGNS.iter().any(|sign| root.exists(&format!("{dir}{sign}")))
}
