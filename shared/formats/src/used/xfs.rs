//! XFS: all blocks but those in the free-space trees.
//!
//! Every allocation group has a tree of its free extents by block number, and a short list of blocks
//! kept for growing the trees; both are free, as they are to partclone. The trees are as old as the
//! last write-back of the journal: [`log`] looks whether it was emptied by an unmount.

mod log;

use super::{Disk, UsedError, UsedMap, marks::Marks};
use crate::bytes::{be_u16, be_u32, be_u64};
use std::io::{Read, Seek};

const VERSION_5: u16 = 5;
const VERSION_BITS: u16 = 0xf;
/// ftype, sparse inodes, metadata UUID, big timestamps, needs repair, 64-bit extent counts, exchange
/// range, parent pointers: none of them changes the free-space trees.
const INCOMPAT_KNOWN: u32 = 0xff;
const INCOMPAT_NEEDS_REPAIR: u32 = 0x10;

const AGF_MAGIC: u32 = 0x5841_4746;
const AGFL_MAGIC: u32 = 0x5841_464c;
const TREE_MAGIC_4: u32 = 0x4142_5442;
const TREE_MAGIC_5: u32 = 0x4142_3342;
/// Deepest tree that the kernel makes.
const MAX_LEVELS: u32 = 9;
const NONE: u32 = u32::MAX;

struct Superblock {
    block_bytes: u64,
    sector_bytes: u64,
    blocks: u64,
    group_blocks: u32,
    groups: u32,
    is_version_5: bool,
    log_start: u64,
    log_blocks: u32,
}

/// An allocation group being read.
struct Group {
    number: u32,
    blocks: u32,
}

pub(super) fn read<D: Read + Seek>(disk: &mut Disk<'_, D>) -> Result<UsedMap, UsedError> {
    let mut sector = [0; 512];
    disk.read(0, &mut sector, "the superblock")?;
    let superblock = Superblock::read(&sector, disk)?;
    let mut unclean = standing(&sector, superblock.is_version_5);
    if !log::is_empty(disk, &superblock)? {
        unclean
            .push("its journal was not replayed: it is mounted, or was not unmounted".to_owned());
    }
    let mut marks = Marks::all(superblock.blocks);
    let mut miscounted = None;
    for number in 0..superblock.groups {
        let first = u64::from(number) * u64::from(superblock.group_blocks);
        let blocks = u64::from(superblock.group_blocks).min(superblock.blocks - first) as u32;
        let group = Group { number, blocks };
        if !superblock.clear_free(&group, &mut marks, disk)? {
            miscounted.get_or_insert(number);
        }
    }
    if let Some(number) = miscounted {
        unclean
            .push(format!("free-space tree and count of free blocks of group {number} disagree"));
    }
    Ok(UsedMap {
        filesystem: "XFS",
        program: "xfs",
        block_bytes: superblock.block_bytes as u32,
        device_bytes: superblock.blocks * superblock.block_bytes,
        used: marks.into_bitmap(),
        left_out: Vec::new(),
        unclean,
    })
}

fn standing(sector: &[u8; 512], is_version_5: bool) -> Vec<String> {
    let mut unclean = Vec::new();
    if sector[126] != 0 {
        unclean.push("mkfs or growfs was interrupted".to_owned());
    }
    if is_version_5 && be_u32(sector, 216) & INCOMPAT_NEEDS_REPAIR != 0 {
        unclean.push("it is marked as in need of xfs_repair".to_owned());
    }
    unclean
}

impl Superblock {
    fn read<D: Read + Seek>(sector: &[u8; 512], disk: &Disk<'_, D>) -> Result<Self, UsedError> {
        let version = be_u16(sector, 100) & VERSION_BITS;
        let unknown = if version == VERSION_5 { be_u32(sector, 216) & !INCOMPAT_KNOWN } else { 0 };
        if !(1..=VERSION_5).contains(&version) || unknown != 0 {
            let what = format!("version {version} with the unknown features {unknown:#x}");
            return Err(disk.unsupported(what));
        }
        let superblock = Self {
            block_bytes: u64::from(be_u32(sector, 4)),
            sector_bytes: u64::from(be_u16(sector, 102)),
            blocks: be_u64(sector, 8),
            group_blocks: be_u32(sector, 84),
            groups: be_u32(sector, 88),
            is_version_5: version == VERSION_5,
            log_start: be_u64(sector, 48),
            log_blocks: be_u32(sector, 96),
        };
        let Self { block_bytes, sector_bytes, blocks, group_blocks, groups, log_start, .. } =
            superblock;
        let is_sane = block_bytes.is_power_of_two()
            && (512..=64 << 10).contains(&block_bytes)
            && sector_bytes.is_power_of_two()
            && (512..=block_bytes.min(32 << 10)).contains(&sector_bytes)
            && group_blocks >= 64
            && u64::from(groups) == blocks.div_ceil(u64::from(group_blocks));
        if !is_sane {
            return Err(disk.damaged("the superblock's sizes cannot be"));
        }
        disk.checked_blocks(blocks, block_bytes)?;
        if be_u64(sector, 16) != 0 {
            return Err(disk.unsupported("a realtime section on another device"));
        }
        if log_start == 0 {
            return Err(disk.unsupported("a journal on another device"));
        }
        Ok(superblock)
    }

    fn group_start(&self, group: &Group) -> u64 {
        u64::from(group.number) * u64::from(self.group_blocks)
    }

    /// Unmarks the free blocks of a group. Returns whether they are as many as the group counts.
    fn clear_free<D: Read + Seek>(
        &self,
        group: &Group,
        marks: &mut Marks,
        disk: &mut Disk<'_, D>,
    ) -> Result<bool, UsedError> {
        let start = self.group_start(group) * self.block_bytes;
        let mut header = vec![0; self.sector_bytes as usize];
        disk.read(start + self.sector_bytes, &mut header, "a group's free-space header")?;
        let is_header = be_u32(&header, 0) == AGF_MAGIC
            && be_u32(&header, 8) == group.number
            && be_u32(&header, 12) == group.blocks;
        if !is_header {
            return Err(disk.damaged(format!("group {} has no free-space header", group.number)));
        }
        let (root, levels) = (be_u32(&header, 16), be_u32(&header, 28));
        let free = self.clear_tree(group, root, levels, marks, disk)?;
        self.clear_list(group, &header, marks, disk)?;
        Ok(free == u64::from(be_u32(&header, 52)))
    }

    /// Walks the tree's leaves from left to right. Every leaf begins behind the one before, so that
    /// there are no more of them than blocks.
    fn clear_tree<D: Read + Seek>(
        &self,
        group: &Group,
        root: u32,
        levels: u32,
        marks: &mut Marks,
        disk: &mut Disk<'_, D>,
    ) -> Result<u64, UsedError> {
        let wrong = |what: &str| format!("the free-space tree of group {} {what}", group.number);
        let head = if self.is_version_5 { 56 } else { 16 };
        let room = self.block_bytes as usize - head;
        if !(1..=MAX_LEVELS).contains(&levels) {
            return Err(disk.damaged(wrong("has a depth that cannot be")));
        }
        let mut block = vec![0; self.block_bytes as usize];
        let mut at = root;
        for level in (1..levels).rev() {
            self.tree_block(group, at, level, &mut block, disk)?;
            // Keys fill the first part of the block, pointers the second.
            at = be_u32(&block, head + room / 12 * 8);
        }
        let (mut behind, mut free) = (0, 0);
        loop {
            self.tree_block(group, at, 0, &mut block, disk)?;
            let records = usize::from(be_u16(&block, 6));
            let next = be_u32(&block, 12);
            if records > room / 8 || (records == 0 && next != NONE) {
                return Err(disk.damaged(wrong("has a leaf that cannot be")));
            }
            for record in block[head..head + records * 8].chunks_exact(8) {
                let (first, count) = (be_u32(record, 0), be_u32(record, 4));
                let end = u64::from(first) + u64::from(count);
                if u64::from(first) < behind || count == 0 || end > u64::from(group.blocks) {
                    return Err(disk.damaged(wrong("has extents that contradict each other")));
                }
                marks.clear(self.group_start(group) + u64::from(first), u64::from(count));
                behind = end;
                free += u64::from(count);
            }
            if next == NONE {
                return Ok(free);
            }
            at = next;
        }
    }

    fn tree_block<D: Read + Seek>(
        &self,
        group: &Group,
        at: u32,
        level: u32,
        block: &mut [u8],
        disk: &mut Disk<'_, D>,
    ) -> Result<(), UsedError> {
        let number = group.number;
        if at >= group.blocks {
            return Err(disk.damaged(format!("the free-space tree of group {number} leaves it")));
        }
        let offset = (self.group_start(group) + u64::from(at)) * self.block_bytes;
        disk.read(offset, block, "a free-space tree")?;
        let magic = if self.is_version_5 { TREE_MAGIC_5 } else { TREE_MAGIC_4 };
        if be_u32(block, 0) != magic || u32::from(be_u16(block, 4)) != level {
            let what = format!("block {at} of group {number} is not of its free-space tree");
            return Err(disk.damaged(what));
        }
        Ok(())
    }

    /// The list of blocks that are kept for the trees: a ring in a sector of its own.
    fn clear_list<D: Read + Seek>(
        &self,
        group: &Group,
        header: &[u8],
        marks: &mut Marks,
        disk: &mut Disk<'_, D>,
    ) -> Result<(), UsedError> {
        let wrong = format!("the list of kept blocks of group {} cannot be", group.number);
        let start = self.group_start(group) * self.block_bytes;
        let mut list = vec![0; self.sector_bytes as usize];
        disk.read(start + 3 * self.sector_bytes, &mut list, "a group's list of kept blocks")?;
        let head = if self.is_version_5 { 36 } else { 0 };
        if self.is_version_5 && be_u32(&list, 0) != AGFL_MAGIC {
            return Err(disk.damaged(wrong));
        }
        let slots = (list.len() - head) / 4;
        let (first, count) = (be_u32(header, 40) as usize, be_u32(header, 48) as usize);
        if count > slots || (count > 0 && first >= slots) {
            return Err(disk.damaged(wrong));
        }
        for slot in (first..first + count).map(|slot| slot % slots) {
            let block = be_u32(&list, head + slot * 4);
            if block >= group.blocks {
                return Err(disk.damaged(wrong));
            }
            marks.clear(self.group_start(group) + u64::from(block), 1);
        }
        Ok(())
    }
}
