//! What a person has to see before something is destroyed.

use super::print;
use crate::inventory;
use metalcast_shared::disk::{Content, Disk};
use std::{fs, path::Path};

/// What lies on the disk of this kernel name, as far as it is recognised.
pub(super) fn contents(disk: &str) -> Vec<Content> {
    let disks = inventory::collect().disks;
    disks.into_iter().find(|found| found.name == disk).map_or(Vec::new(), |found| found.contents)
}

/// Prints which disk a device node belongs to; nothing if that is not known, as for a file.
pub(super) fn show_node(node: &Path) {
    let disk = node.canonicalize().ok().and_then(|node| disk_of(&node));
    if let Some(disk) = disk {
        print(&disk.to_string());
    }
}

fn disk_of(node: &Path) -> Option<Disk> {
    let name = node.file_name()?.to_str()?;
    // A partition's directory lies in that of its disk.
    let dir = fs::canonicalize(Path::new("/sys/class/block").join(name)).ok()?;
    let is_here = |disk: &Disk| dir.iter().any(|part| part == disk.name.as_str());
    inventory::disks().into_iter().find(is_here)
}
