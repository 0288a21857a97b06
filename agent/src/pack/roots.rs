//! The filesystems that a system lies on, as one tree: each is seen by itself, so what is mounted on it is
//! there only if it is one of them.

use crate::disk::Tree;

/// The filesystems.
pub(super) struct Roots {
    /// With the path of each, which is empty for the root's. Those beneath others stand first.
    trees: Vec<(Vec<u8>, Tree)>,
}

impl Roots {
    pub(super) fn new(mut trees: Vec<(Vec<u8>, Tree)>) -> Self {
        trees.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Self { trees }
    }

    /// On which of them something is, and its path there; `None` without a root.
    pub(super) fn of<'p>(&self, path: &'p [u8]) -> Option<(&Tree, &'p [u8])> {
        self.trees.iter().find_map(|(at, tree)| Some((tree, beneath(path, at)?)))
    }
}

/// The rest of a path that is, or lies beneath, another.
pub(super) fn beneath<'p>(path: &'p [u8], above: &[u8]) -> Option<&'p [u8]> {
    if above.is_empty() {
        return Some(path);
    }
    let rest = path.strip_prefix(above)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}
