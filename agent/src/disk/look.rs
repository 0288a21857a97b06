//! Recognising what is on a disk or partition.

use super::Window;
use anyhow::Context;
use metalcast_formats::probe::{self, Contents, Kind};
use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    path::Path,
};

/// Kinds whose id names a filesystem or swap in an fstab.
const NAMED: [Kind; 8] = [
    Kind::Ext2,
    Kind::Ext3,
    Kind::Ext4,
    Kind::Xfs,
    Kind::Btrfs,
    Kind::Vfat,
    Kind::Swap,
    Kind::Hibernated,
];

/// What is on a partition or disk that may be in use.
pub fn look_at(node: &Path) -> anyhow::Result<Contents> {
    let look = || -> io::Result<Contents> {
        let mut file = File::open(node)?;
        let bytes = file.seek(SeekFrom::End(0))?;
        probe::probe(&mut file, 0, bytes)
    };
    look().with_context(|| format!("looking at {}", node.display()))
}

/// The UUID by which an fstab would name this.
pub fn uuid_of(contents: &Contents) -> Option<String> {
    NAMED.iter().find_map(|kind| contents.find(*kind)?.uuid.clone())
}

pub(super) fn look(window: &Window<'_>) -> anyhow::Result<Contents> {
    probe::probe(&mut window.reader(), 0, window.bytes()).context("looking at what is there")
}
