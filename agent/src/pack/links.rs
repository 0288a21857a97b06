//! Which files have further names that are still to come.

use anyhow::ensure;
use std::collections::{HashMap, hash_map::Entry};

/// Most bytes that are kept of them, each with its path.
const MAX_BYTES: usize = 24 << 20;
const EACH_BYTES: usize = 64;

/// Filesystem (btrfs has several in one) and number of an inode.
pub(super) type Inode = (u64, u64);

#[derive(Default)]
pub(super) struct Links {
    seen: HashMap<Inode, (Vec<u8>, u64)>,
    bytes: usize,
}

impl Links {
    /// Notes that an inode with `names` names has this path; its first one, if this is not the first.
    pub(super) fn first(
        &mut self,
        inode: Inode,
        names: u64,
        path: &[u8],
    ) -> anyhow::Result<Option<Vec<u8>>> {
        match self.seen.entry(inode) {
            Entry::Vacant(entry) => {
                self.bytes += path.len() + EACH_BYTES;
                ensure!(self.bytes <= MAX_BYTES, "more hard links than can be kept in mind");
                entry.insert((path.to_vec(), names - 1));
                Ok(None)
            }
            Entry::Occupied(mut entry) => {
                let (first, left) = entry.get_mut();
                *left -= 1;
                if *left > 0 {
                    return Ok(Some(first.clone()));
                }
                let (first, _) = entry.remove();
                self.bytes -= first.len() + EACH_BYTES;
                Ok(Some(first))
            }
        }
    }
}
