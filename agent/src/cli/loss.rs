//! What a person has to see before something is destroyed.

use super::print;
use crate::inventory;
use metalcast_shared::disk::{Content, Disk};
use std::{fs, path::Path};

/// What lies on the disk of this kernel name, as far as it is recognised.
pub(super) fn contents(name: &str) -> Vec<Content> {
    let found = inventory::collect(|disk| disk.name == name).disks;
    found.into_iter().flat_map(|disk| disk.contents).collect()
}

/// Prints which disk a device node belongs to and, if it is a whole disk, what lies in its partitions;
/// nothing for a file.
pub(super) fn show_node(node: &Path) {
    let Some((disk, name)) = node.canonicalize().ok().and_then(|node| disk_of(&node)) else {
        return;
    };
    print(&disk.to_string());
    if disk.name == name {
        let contents = contents(&disk.name);
        for content in contents.iter().filter(|content| content.partition.is_some()) {
            print(&format!("lost: {content}"));
        }
    }
}

/// The disk, and the node's own kernel name.
fn disk_of(node: &Path) -> Option<(Disk, String)> {
    let name = node.file_name()?.to_str()?;
    // A partition's directory lies in that of its disk.
    let dir = fs::canonicalize(Path::new("/sys/class/block").join(name)).ok()?;
    let is_here = |disk: &Disk| dir.iter().any(|part| part == disk.name.as_str());
    Some((inventory::disks().into_iter().find(is_here)?, name.to_owned()))
}
