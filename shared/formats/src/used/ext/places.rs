//! What lives in the blocks of an ext2, ext3 or ext4 filesystem.

use super::{Geometry, head, swap_file};
use crate::{
    bytes::le_u32,
    used::{Disk, UsedError},
};
use std::io::{Read, Seek};

const MODE_REGULAR: u16 = 0x8000;

/// Where the metadata of a filesystem lies. Memory: a few words for each group of blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// First block, block behind the last, and what is in them; ascending and apart.
    known: Vec<(u64, u64, &'static str)>,
}

impl Places {
    /// What lives in a block.
    pub fn of(&self, block: u64) -> &'static str {
        let behind = self.known.partition_point(|(start, ..)| *start <= block);
        let found = behind.checked_sub(1).and_then(|at| self.known.get(at));
        match found {
            Some((_, end, what)) if block < *end => what,
            Some(_) | None => "directories and files",
        }
    }

    pub(super) fn read<D: Read + Seek>(disk: &mut Disk<'_, D>) -> Result<Self, UsedError> {
        let (superblock, _, geometry) = head(disk)?;
        let mut known = vec![(0, geometry.superblock_block() + 1, "boot and super block")];
        let mut table = vec![0; geometry.block_bytes as usize];
        let per_block = geometry.block_bytes / geometry.descriptor_bytes;
        let inode_blocks =
            (geometry.inodes_per_group * geometry.inode_bytes).div_ceil(geometry.block_bytes);
        for number in 0..geometry.groups {
            if number.is_multiple_of(per_block) {
                let at = geometry.descriptor_block(number / per_block) * geometry.block_bytes;
                disk.read(at, &mut table, "a block of group descriptors")?;
            }
            let at = ((number % per_block) * geometry.descriptor_bytes) as usize;
            let group = geometry.group(&table[at..at + geometry.descriptor_bytes as usize]);
            for (first, count, what) in [
                (geometry.range(number).0, geometry.base_blocks(number), "group descriptors"),
                (group.bitmap, 1, "bitmaps"),
                (group.inode_bitmap, 1, "bitmaps"),
                (group.inode_table, inode_blocks, "inode tables"),
            ] {
                if count > 0 && first.checked_add(count).is_some_and(|end| end <= geometry.blocks) {
                    known.push((first, first + count, what));
                }
            }
        }
        for (start, count) in journal(disk, &geometry, &superblock)? {
            known.push((start, start + count, "journal"));
        }
        known.sort_unstable();
        // Where a damaged filesystem says two things of a block, the first counts.
        let mut free_from = 0;
        for (start, end, _) in &mut known {
            *start = (*start).max(free_from);
            *end = (*end).max(*start);
            free_from = *end;
        }
        known.retain(|(start, end, _)| start < end);
        Ok(Self { known })
    }
}

/// Where the journal lies, if it is in the filesystem and kept in extents.
fn journal<D: Read + Seek>(
    disk: &mut Disk<'_, D>,
    geometry: &Geometry,
    superblock: &[u8],
) -> Result<Vec<(u64, u64)>, UsedError> {
    let number = le_u32(superblock, 0xe0);
    if number == 0 {
        return Ok(Vec::new());
    }
    let inode = geometry.inode(number, disk)?;
    let extents = swap_file::extents(&inode, MODE_REGULAR, geometry, disk)?;
    Ok(extents.into_iter().flatten().map(|extent| (extent.start, extent.count)).collect())
}
