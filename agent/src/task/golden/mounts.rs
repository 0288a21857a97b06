//! Which filesystems a running system lies on: its root, and what of `/boot`, `/usr` and `/var` is one of its
//! own. All others are left out, and named if they are more than the kernel's.

use anyhow::{Context, bail, ensure};
use metalcast_sys::mount::MountPoint;
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Filesystems of disks.
const OF_DISKS: [&str; 12] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "nilfs2", "zfs", "vfat",
    "exfat",
];

/// What begins the names of those that others hold.
const OF_NETWORKS: [&str; 9] =
    ["nfs", "cifs", "smb", "9p", "ceph", "gfs", "ocfs", "lustre", "fuse."];

/// Without these there is no system.
const PARTS: [&str; 3] = ["/boot", "/usr", "/var"];

/// Most that are packed, or named.
const MAX: usize = 64;

/// What is mounted, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen<'m> {
    /// What is packed, the root first.
    pub(super) packed: Vec<&'m MountPoint>,
    /// What is not, though it holds files.
    pub(super) left: Vec<&'m MountPoint>,
}

/// Chooses.
///
/// # Errors
/// When the root is on no disk, or a part of the system is not.
pub(super) fn choose(mounted: &[MountPoint]) -> anyhow::Result<Chosen<'_>> {
    let mut seen: Vec<&MountPoint> = Vec::new();
    // What was mounted last on a place covers what was there, and is what the system sees.
    for one in mounted.iter().rev() {
        if !seen.iter().any(|other| other.target == one.target) {
            seen.push(one);
        }
    }
    seen.sort_by(|one, other| one.target.cmp(&other.target));
    let root = seen.iter().copied().find(|one| one.target == Path::new("/"));
    let root = root.context("the root of this process is no filesystem's root")?;
    ensure!(
        is_of_disk(root),
        "{} is not on a disk of this machine; start the system that is meant from its own disk",
        shown(root)
    );
    let (mut packed, mut left) = (vec![root], Vec::new());
    for one in seen {
        let is_part = PARTS.iter().any(|part| one.target == Path::new(part));
        let is_within = PARTS.iter().any(|part| one.target.starts_with(part));
        match () {
            () if one.target == root.target => {}
            () if is_within && is_of_disk(one) && !is_covered(one, mounted) => packed.push(one),
            // Until someone looks, nothing is there.
            () if one.kind == "autofs" => {}
            () if is_part => bail!(
                "{} is a part of the system, and not on a disk of this machine: copies would miss it",
                shown(one)
            ),
            () if is_of_disk(one) || is_of_network(one) => left.push(one),
            () => {}
        }
    }
    ensure!(
        packed.len() <= MAX,
        "more than {MAX} filesystems are mounted beneath /boot, /usr, /var"
    );
    left.truncate(MAX);
    Ok(Chosen { packed, left })
}

fn is_of_disk(one: &MountPoint) -> bool {
    OF_DISKS.contains(&one.kind.as_str())
}

fn is_of_network(one: &MountPoint) -> bool {
    OF_NETWORKS.iter().any(|start| one.kind.starts_with(start))
}

/// Whether something that was mounted above it since hides it.
fn is_covered(one: &MountPoint, mounted: &[MountPoint]) -> bool {
    let at = mounted.iter().rposition(|other| other == one).unwrap_or(0);
    let hides =
        |other: &MountPoint| other.target != one.target && one.target.starts_with(&other.target);
    mounted[at + 1..].iter().any(hides)
}

/// A path as the archive has it.
pub(super) fn beneath_root(path: &Path) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    path.strip_prefix(b"/").unwrap_or(path).to_vec()
}

/// A filesystem as people see it.
pub(super) fn shown(one: &MountPoint) -> String {
    format!("{} ({} of {})", one.target.display(), one.kind, one.source)
}

/// The files in what `/proc/swaps` says (proc(5)).
pub(super) fn swap_files(text: &str) -> Vec<Vec<u8>> {
    let file = |line: &str| {
        let mut fields = line.split_whitespace();
        let (name, kind) = (fields.next()?, fields.next()?);
        (kind == "file").then(|| beneath_root(&PathBuf::from(OsStr::new(&unescape(name)))))
    };
    text.lines().skip(1).filter_map(file).collect()
}

/// A blank in a name is `\\040`.
fn unescape(name: &str) -> String {
    name.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(text: &str) -> Vec<MountPoint> {
        let one = |line: &str| {
            let [target, kind, source] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            MountPoint { target: target.into(), kind: kind.into(), source: source.into() }
        };
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(one).collect()
    }

    fn check(text: &str, packed: &[&str], left: &[&str]) {
        let mounted = mounted(text);
        let chosen = choose(&mounted).unwrap();
        let names = |of: &[&MountPoint]| -> Vec<String> {
            of.iter().map(|one| one.target.display().to_string()).collect()
        };
        assert_eq!(
            (names(&chosen.packed), names(&chosen.left)),
            (
                packed.iter().map(ToString::to_string).collect(),
                left.iter().map(ToString::to_string).collect(),
            )
        );
    }

    #[test]
    fn parts_of_the_system_are_packed_and_others_named() {
        check(
            "/sys sysfs sysfs
             /proc proc proc
             /dev devtmpfs udev
             / ext4 /dev/sda2
             /run tmpfs tmpfs
             /boot ext4 /dev/sda1
             /boot/efi vfat /dev/sda3
             /home xfs /dev/sdb1
             /var xfs /dev/sda4
             /var/lib/nfs/rpc_pipefs rpc_pipefs sunrpc
             /var/lib/docker/overlay2/a/merged overlay overlay
             /var/mail nfs4 server:/mail
             /snap/core/1 squashfs /dev/loop0
             /mnt cifs //server/share
             /tmp tmpfs tmpfs",
            &["/", "/boot", "/boot/efi", "/var"],
            &["/home", "/mnt", "/var/mail"],
        );
        check("/ btrfs /dev/sda1\n/boot autofs systemd-1", &["/"], &[]);
        check(
            "/ xfs /dev/sda1\n/boot autofs systemd-1\n/boot ext4 /dev/sda2",
            &["/", "/boot"],
            &[],
        );
        check("/ xfs /dev/a\n/var ext4 /dev/b\n/var xfs /dev/c", &["/", "/var"], &[]);
        // What another mount hides is not what the system sees.
        check("/ xfs /dev/a\n/var/log ext4 /dev/b\n/var xfs /dev/c", &["/", "/var"], &["/var/log"]);
    }

    #[test]
    fn what_is_on_no_disk_is_refused_with_what_is_missing() {
        let check = |text: &str, expected: &str| {
            let error = choose(&mounted(text)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("/ nfs4 server:/root", "/ (nfs4 of server:/root) is not on a disk of this machine");
        check("/ overlay overlay", "start the system that is meant from its own disk");
        check("/ ext4 /dev/sda1\n/usr nfs server:/usr", "/usr (nfs of server:/usr) is a part");
        check("/ ext4 /dev/sda1\n/var tmpfs tmpfs", "copies would miss it");
        check("/x ext4 /dev/sda1", "no filesystem's root");
    }

    #[test]
    fn swap_files_are_found() {
        let text = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1 0 -2\n\
                    /var/swap\\040one file 1 0 -3\n";
        assert_eq!(swap_files(text), [b"var/swap one".to_vec()]);
        assert_eq!(swap_files(""), Vec::<Vec<u8>>::new());
    }
}
