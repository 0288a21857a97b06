//! Recognising what is on a disk or partition.

use super::Window;
use anyhow::Context;
use metalcast_formats::probe::{self, Contents, Kind};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
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
    let mut reader = Reader { window, at: 0 };
    probe::probe(&mut reader, 0, window.bytes()).context("looking at what is there")
}

/// A window as a file.
struct Reader<'w> {
    window: &'w Window<'w>,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.window.bytes().saturating_sub(self.at);
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        self.window.read_at(&mut buffer[..bytes], self.at).map_err(io::Error::other)?;
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.window.bytes().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
