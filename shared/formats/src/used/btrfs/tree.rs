//! A walk over a tree's items from the first to the last.
//!
//! Levels must fall and keys must rise, over all leaves: a tree that turns back on itself ends the walk
//! with an error, and no node is visited twice.

use super::{Filesystem, items};
use crate::{
    bytes::{le_u32, le_u64},
    used::UsedError,
};
use std::io::{Read, Seek};

const HEADER_BYTES: usize = 101;
const POINTER_BYTES: usize = 33;
const ITEM_BYTES: usize = 25;
/// Highest level that btrfs knows.
const MAX_LEVEL: u8 = 7;

/// What items are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) object: u64,
    pub(super) kind: u8,
    pub(super) offset: u64,
}

impl Key {
    fn at(bytes: &[u8]) -> Self {
        Self { object: le_u64(bytes, 0), kind: bytes[8], offset: le_u64(bytes, 9) }
    }
}

/// Takes an item; what is wrong with it, if something is.
pub(super) type Take<'t> = dyn FnMut(Key, &[u8]) -> Result<(), String> + 't;

/// The walk, and how far it has come.
pub(super) struct Walk<'w, 'f, 'd, D> {
    filesystem: &'w mut Filesystem<'f, 'd, D>,
    last: Option<Key>,
}

impl<'w, 'f, 'd, D: Read + Seek> Walk<'w, 'f, 'd, D> {
    pub(super) fn new(filesystem: &'w mut Filesystem<'f, 'd, D>) -> Self {
        Self { filesystem, last: None }
    }

    pub(super) fn run(
        mut self,
        root: u64,
        level: u8,
        take: &mut Take<'_>,
    ) -> Result<(), UsedError> {
        if level > MAX_LEVEL {
            return Err(self.wrong("a tree is too deep"));
        }
        self.node(root, level, true, take)
    }

    fn node(
        &mut self,
        logical: u64,
        level: u8,
        is_root: bool,
        take: &mut Take<'_>,
    ) -> Result<(), UsedError> {
        let node = self.filesystem.node(logical, level)?;
        let entry_bytes = if level == 0 { ITEM_BYTES } else { POINTER_BYTES };
        let count = items(&node);
        // An empty node below the root would make no progress.
        if count > (node.len() - HEADER_BYTES) / entry_bytes || (count == 0 && !is_root) {
            return Err(self.wrong(&format!("the node at address {logical} cannot be")));
        }
        let entries =
            node[HEADER_BYTES..HEADER_BYTES + count * entry_bytes].chunks_exact(entry_bytes);
        for entry in entries {
            let key = Key::at(entry);
            if level > 0 {
                self.node(le_u64(entry, 17), level - 1, false, take)?;
                continue;
            }
            if self.last.is_some_and(|last| last >= key) {
                return Err(self.wrong(&format!("the node at address {logical} is out of order")));
            }
            self.last = Some(key);
            let (start, length) = (le_u32(entry, 17) as usize, le_u32(entry, 21) as usize);
            let item = node[HEADER_BYTES..]
                .get(start..)
                .and_then(|behind| behind.get(..length))
                .ok_or_else(|| self.wrong("an item lies outside of its node"))?;
            take(key, item).map_err(|what| self.wrong(&what))?;
        }
        Ok(())
    }

    fn wrong(&self, what: &str) -> UsedError {
        self.filesystem.disk.damaged(what)
    }
}
