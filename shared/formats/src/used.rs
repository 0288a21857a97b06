//! Which blocks of a partition are used, by the records of the filesystem in it.
//!
//! ```text
//! read ──probe──> ext | ntfs | fat | exfat | xfs | btrfs | swap | raw (all blocks)  ──> UsedMap
//! ```
//!
//! The maps are those that partclone makes, or larger where that is safer; each file says where. Only
//! metadata is read, nothing is mounted or replayed: where a journal has to be replayed first,
//! [`UsedMap::unclean`] says so, and the map must not be trusted. Everything read is hostile: positions
//! are checked against the partition's size, walks end because their keys must ascend, and memory is
//! the bitmap and a few blocks.

mod btrfs;
mod disk;
mod exfat;
mod ext;
mod fat;
mod marks;
mod ntfs;
mod raw;
mod swap;
mod xfs;

use crate::{
    partclone::Bitmap,
    probe::{self, Contents, Kind},
};
use disk::Disk;
pub use ext::Places;
use marks::Marks;
use metalcast_shared::manifest::Run;
use std::{
    fmt,
    io::{self, Read, Seek},
};

/// Kept of every file whose content is left out: its header says what state it is in.
const KEPT_OF_LEFT_OUT_BYTES: u64 = 64 << 10;

/// partclone's programs whose images have one block a sector.
const OF_SECTORS: [&str; 3] = ["fat12", "vfat", "exfat"];

/// Blocks whose runs are looked at together.
const RUNS_OF: u32 = 1 << 16;

/// The used blocks of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedMap {
    /// The filesystem as partclone names it in a header, such as `EXTFS`.
    pub filesystem: &'static str,
    /// The suffix of partclone's program for it, such as `ext4`; `dd` for what is saved block by
    /// block, `swap` for what is not saved but made anew.
    pub program: &'static str,
    /// Size of a block in bytes.
    pub block_bytes: u32,
    /// Bytes that a target must have at least.
    pub device_bytes: u64,
    /// Which blocks are used.
    pub used: Bitmap,
    /// Content of files that is not counted as used, because every system makes it anew.
    pub left_out: Vec<LeftOut>,
    /// What speaks against trusting the map; empty for a filesystem that was unmounted properly.
    pub unclean: Vec<String>,
}

/// A file whose blocks are left out, but for its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its path within the filesystem.
    pub path: &'static str,
    /// How much of it, in bytes.
    pub bytes: u64,
}

/// Why there is no map.
#[derive(Debug, thiserror::Error)]
pub enum UsedError {
    /// The partition cannot be read.
    #[error("reading {bytes} bytes at byte {offset} ({what}) failed")]
    Read {
        /// What was being read.
        what: &'static str,
        /// Where, from the start of the partition.
        offset: u64,
        /// How much.
        bytes: usize,
        /// The system's reason.
        source: io::Error,
    },
    /// The filesystem contradicts itself.
    #[error("the {filesystem} filesystem is damaged: {what}; check and repair it first")]
    Damaged {
        /// Its kind.
        filesystem: &'static str,
        /// What is wrong, and where.
        what: String,
    },
    /// A good filesystem with something that is not known here.
    #[error("the {filesystem} filesystem has {what}, which is not supported")]
    Unsupported {
        /// Its kind.
        filesystem: &'static str,
        /// What it has.
        what: String,
    },
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} MiB)", self.path, self.bytes >> 20)
    }
}

impl UsedMap {
    /// Bytes in used blocks.
    pub fn used_bytes(&self) -> u64 {
        self.used.count_used() * u64::from(self.block_bytes)
    }

    /// Bytes of files that are left out.
    pub fn left_out_bytes(&self) -> u64 {
        self.left_out.iter().map(|file| file.bytes).sum()
    }

    /// The same in blocks of another size, where that is no other filesystem: of FAT and exFAT, whose blocks are
    /// several sectors here and single ones in partclone's images.
    pub fn in_blocks_of(self, block_bytes: u32) -> Option<Self> {
        if self.block_bytes == block_bytes {
            return Some(self);
        }
        let each = u64::from(self.block_bytes.checked_div(block_bytes).unwrap_or(0));
        let is_whole = each * u64::from(block_bytes) == u64::from(self.block_bytes);
        let is_same = is_whole && OF_SECTORS.contains(&self.program);
        let blocks = self.used.blocks().checked_mul(each).filter(|_| is_same)?;
        let mut marks = Marks::none(blocks);
        for first in (0..self.used.blocks()).step_by(RUNS_OF as usize) {
            for Run { start, count } in self.used.runs(first, RUNS_OF) {
                marks.set((first + u64::from(start)) * each, u64::from(count) * each);
            }
        }
        Some(Self { block_bytes, used: marks.into_bitmap(), ..self })
    }

    /// Counts every block as used: for a filesystem whose records are not to be trusted.
    pub fn take_every_block(&mut self) {
        self.used = Bitmap::all_used(self.used.blocks());
        self.left_out.clear();
    }
}

/// Reads the map of a partition of `bytes` bytes.
pub fn read<D: Read + Seek>(source: &mut D, bytes: u64) -> Result<UsedMap, UsedError> {
    let Some(kind) = kind_of(source, bytes)? else { return every_block(bytes) };
    let disk = &mut Disk::new(source, bytes, kind.name());
    match kind {
        Kind::Ext2 | Kind::Ext3 | Kind::Ext4 => ext::read(disk, kind.name()),
        Kind::Ntfs => ntfs::read(disk),
        Kind::Vfat => fat::read(disk),
        Kind::Exfat => exfat::read(disk),
        Kind::Xfs => xfs::read(disk),
        Kind::Btrfs => btrfs::read(disk),
        Kind::Swap | Kind::Hibernated => swap::read(disk, kind),
        Kind::ExtJournal
        | Kind::F2fs
        | Kind::BitLocker
        | Kind::Lvm2
        | Kind::Luks
        | Kind::MdRaid
        | Kind::Zfs
        | Kind::Iso9660
        | Kind::Squashfs
        | Kind::Gpt
        | Kind::Mbr => every_block(bytes),
    }
}

/// What lives in which blocks of a partition of `bytes` bytes; `None` of filesystems of which that is not
/// known here.
pub fn places<D: Read + Seek>(source: &mut D, bytes: u64) -> Result<Option<Places>, UsedError> {
    match kind_of(source, bytes)? {
        Some(kind @ (Kind::Ext2 | Kind::Ext3 | Kind::Ext4)) => {
            ext::places(&mut Disk::new(source, bytes, kind.name())).map(Some)
        }
        Some(_) | None => Ok(None),
    }
}

fn kind_of<D: Read + Seek>(source: &mut D, bytes: u64) -> Result<Option<Kind>, UsedError> {
    let found = probe::probe(source, 0, bytes).map_err(|error| UsedError::Read {
        what: "its beginning and end",
        offset: 0,
        bytes: probe::WINDOW_BYTES.min(bytes) as usize,
        source: error,
    })?;
    Ok(only_kind(&found))
}

/// Every block of a partition, whatever is in it.
pub fn every_block(bytes: u64) -> Result<UsedMap, UsedError> {
    raw::map(bytes)
}

/// The one thing that a partition holds. Where there are signs of two, one may lie within the other
/// (a RAID member with its filesystem), and only all blocks are sure to be enough. Partition tables
/// do not count: boot code in a filesystem's first sector resembles one, and GPTs outlive their disks.
fn only_kind(contents: &Contents) -> Option<Kind> {
    let Contents::Known(found) = contents else { return None };
    let mut kinds =
        found.iter().map(|found| found.kind).filter(|kind| !matches!(kind, Kind::Gpt | Kind::Mbr));
    let first = kinds.next()?;
    kinds.next().is_none().then_some(first)
}
