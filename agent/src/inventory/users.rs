//! Who uses the partitions of a disk: mounts, swap, and devices that are built on them.

use super::number;
use std::{collections::BTreeMap, fs, path::Path};

/// As much of a path is told.
const MAX_SHOWN: usize = 200;

/// Why partitions must not be written to, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Users(BTreeMap<u16, String>);

impl Users {
    /// Of the disk with this directory in sysfs.
    pub(super) fn of(dir: &Path) -> Self {
        let text = |file| fs::read_to_string(file).unwrap_or_default();
        Self::read(dir, &text("/proc/self/mountinfo"), &text("/proc/swaps"))
    }

    /// Why nothing may be written to a partition.
    pub(super) fn of_partition(&self, number: u16) -> Option<String> {
        self.0.get(&number).cloned()
    }

    fn read(dir: &Path, mounts: &str, swaps: &str) -> Self {
        let Ok(entries) = fs::read_dir(dir) else { return Self::default() };
        let user = |entry: fs::DirEntry| {
            let part = entry.path();
            let number = number(&part.join("partition"))?;
            let name = entry.file_name().into_string().ok()?;
            let device = fs::read_to_string(part.join("dev")).unwrap_or_default();
            let mounted = || mount_point(mounts, &name, device.trim());
            let swap = || is_swap(swaps, &name).then(|| "it is in use as swap".to_owned());
            let user = holder(&part).or_else(mounted).or_else(swap)?;
            Some((number, user))
        };
        Self(entries.flatten().filter_map(user).collect())
    }
}

fn holder(part: &Path) -> Option<String> {
    let first = fs::read_dir(part.join("holders")).ok()?.flatten().next()?;
    Some(format!("it is part of {}", first.file_name().to_string_lossy()))
}

/// btrfs shows no device number of its own, but its node.
fn mount_point(mounts: &str, name: &str, device: &str) -> Option<String> {
    let at = mounts.lines().find_map(|line| {
        let (places, source) = line.split_once(" - ")?;
        let mut places = places.split(' ');
        let (number, at) = (places.nth(2)?, places.nth(1)?);
        let node = source.split(' ').nth(1)?;
        (number == device || node.strip_prefix("/dev/") == Some(name)).then_some(at)
    });
    let shown = |at: &str| at.chars().take(MAX_SHOWN).collect::<String>();
    at.map(|at| format!("it is mounted at {}", shown(at)))
}

fn is_swap(swaps: &str, name: &str) -> bool {
    let mut nodes = swaps.lines().filter_map(|line| line.split_whitespace().next());
    nodes.any(|node| node.strip_prefix("/dev/") == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_swap_and_holders_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=5 {
            let part = dir.path().join(format!("sda{number}"));
            fs::create_dir_all(part.join("holders")).unwrap();
            fs::write(part.join("partition"), format!("{number}\n")).unwrap();
            fs::write(part.join("dev"), format!("8:{number}\n")).unwrap();
        }
        fs::create_dir(dir.path().join("sda4/holders/dm-0")).unwrap();
        let mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
             30 22 0:27 /@ /data rw - btrfs /dev/sda3 rw\n31 22 8:17 / /mnt rw - ext4 /dev/sdb1 rw\n";
        let swaps = "Filename\t\tType\n/dev/sda2   partition 100 0 -2\n";
        let users = Users::read(dir.path(), mounts, swaps);
        for (number, why) in [
            (1, Some("it is mounted at /")),
            (2, Some("it is in use as swap")),
            (3, Some("it is mounted at /data")),
            (4, Some("it is part of dm-0")),
            (5, None),
        ] {
            assert_eq!(users.of_partition(number).as_deref(), why, "{number}");
        }
    }
}
