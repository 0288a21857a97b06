//! ext2, ext3, ext4: the block bitmaps of the groups.
//!
//! A group whose bitmap was never written (`BLOCK_UNINIT`) has only metadata in it; all groups'
//! metadata is marked anyway, wherever flex_bg has put it. In a bigalloc filesystem a bit stands for
//! a cluster of blocks. Of a swap file in the root directory only the beginning is counted.

mod places;
mod swap_file;

pub use places::Places;

use super::{Disk, UsedError, UsedMap, marks::Marks};
use crate::{
    bytes::{le_u16, le_u32},
    ext::{OFFSET_BYTES, SUPERBLOCK_BYTES, Superblock},
};
use std::io::{Read, Seek};

const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
/// filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, dirdata, csum_seed, largedir,
/// inline_data, encrypt, casefold: none of them changes what the bitmaps mean.
const INCOMPAT_KNOWN: u32 = 0x3_f7d6;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_GDT_CSUM: u32 = 0x10;
const RO_COMPAT_BIGALLOC: u32 = 0x200;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;
const BLOCK_UNINIT: u16 = 0x2;

/// mke2fs makes no smaller groups; a smaller one would cost a read for a handful of blocks.
const MIN_GROUP_BLOCKS: u64 = 256;

/// Which groups have a copy of the superblock, besides the first.
enum Backups {
    All,
    /// Group 1 and the powers of 3, 5 and 7.
    Sparse,
    Two([u32; 2]),
}

struct Geometry {
    block_bytes: u64,
    blocks: u64,
    first_block: u64,
    group_blocks: u64,
    cluster_blocks: u64,
    groups: u64,
    inodes_per_group: u64,
    inode_bytes: u64,
    descriptor_bytes: u64,
    reserved_blocks: u64,
    /// Descriptor blocks from this one on lie in their own groups.
    first_meta: u64,
    backups: Backups,
    has_uninit: bool,
}

/// A group's entry in the descriptor table.
struct Group {
    bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
    free: u64,
    is_uninit: bool,
}

pub(super) fn read<D: Read + Seek>(
    disk: &mut Disk<'_, D>,
    program: &'static str,
) -> Result<UsedMap, UsedError> {
    let (_, superblock, geometry) = head(disk)?;
    let mut marks = Marks::none(geometry.blocks);
    // The boot block, where blocks are so small that it is one.
    marks.set(0, geometry.first_block.max(1));
    let mut unclean = standing(&superblock);
    let per_block = geometry.block_bytes / geometry.descriptor_bytes;
    let mut table = vec![0; geometry.block_bytes as usize];
    let mut bitmap = vec![0; geometry.block_bytes as usize];
    let mut miscounted = None;
    for number in 0..geometry.groups {
        if number.is_multiple_of(per_block) {
            let at = geometry.descriptor_block(number / per_block) * geometry.block_bytes;
            disk.read(at, &mut table, "a block of group descriptors")?;
        }
        let at = ((number % per_block) * geometry.descriptor_bytes) as usize;
        let group = geometry.group(&table[at..at + geometry.descriptor_bytes as usize]);
        geometry.mark_metadata(number, &group, &mut marks, disk)?;
        if group.is_uninit {
            continue;
        }
        disk.read(group.bitmap * geometry.block_bytes, &mut bitmap, "a block bitmap")?;
        let (start, count) = geometry.range(number);
        let bits = count.div_ceil(geometry.cluster_blocks) as u32;
        let used = marks.set_by_bits(start, &bitmap, bits, geometry.cluster_blocks);
        if group.free != u64::from(bits) - used {
            miscounted.get_or_insert(number);
        }
    }
    if let Some(number) = miscounted {
        unclean.push(format!("bitmap and count of free blocks of group {number} disagree"));
    }
    let mut map = UsedMap {
        filesystem: "EXTFS",
        program,
        block_bytes: superblock.block_bytes,
        device_bytes: geometry.blocks * geometry.block_bytes,
        used: crate::partclone::Bitmap::all_used(0),
        left_out: Vec::new(),
        unclean,
    };
    swap_file::leave_out(disk, &geometry, &superblock, &mut marks, &mut map);
    map.used = marks.into_bitmap();
    Ok(map)
}

/// What lives in which blocks.
pub(super) fn places<D: Read + Seek>(disk: &mut Disk<'_, D>) -> Result<Places, UsedError> {
    Places::read(disk)
}

/// The superblock and what follows from it.
fn head<D: Read + Seek>(
    disk: &mut Disk<'_, D>,
) -> Result<([u8; SUPERBLOCK_BYTES], Superblock, Geometry), UsedError> {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    disk.read(OFFSET_BYTES, &mut bytes, "the superblock")?;
    let superblock = Superblock::parse(&bytes).map_err(|error| disk.damaged(error.to_string()))?;
    let geometry = Geometry::read(&bytes, &superblock, disk)?;
    Ok((bytes, superblock, geometry))
}

/// What speaks against trusting the bitmaps.
fn standing(superblock: &Superblock) -> Vec<String> {
    let mut unclean = Vec::new();
    if superblock.needs_recovery {
        unclean
            .push("its journal was not replayed: it is mounted, or was not unmounted".to_owned());
    } else if !superblock.clean {
        unclean.push("it is mounted, or was not unmounted".to_owned());
    }
    if superblock.has_errors {
        unclean.push("the kernel has found errors in it; e2fsck repairs them".to_owned());
    }
    unclean
}

impl Geometry {
    fn read<D: Read + Seek>(
        bytes: &[u8; SUPERBLOCK_BYTES],
        superblock: &Superblock,
        disk: &Disk<'_, D>,
    ) -> Result<Self, UsedError> {
        let features = superblock.features;
        let unknown = features.incompatible & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(disk.unsupported(format!("the unknown features {unknown:#x}")));
        }
        let block_bytes = u64::from(superblock.block_bytes);
        let blocks = disk.checked_blocks(superblock.blocks, block_bytes)?;
        let is_bigalloc = features.read_only_compatible & RO_COMPAT_BIGALLOC != 0;
        let field = |at| u64::from(le_u32(bytes, at));
        let (first_block, group_blocks, group_clusters) = (field(0x14), field(0x20), field(0x24));
        let cluster_shift = field(0x1c).checked_sub(field(0x18)).filter(|_| is_bigalloc);
        let cluster_blocks = match cluster_shift {
            None if is_bigalloc => return Err(disk.damaged("clusters are smaller than blocks")),
            None => 1,
            Some(shift @ 0..=20) => 1 << shift,
            Some(shift) => return Err(disk.damaged(format!("clusters have 2^{shift} blocks"))),
        };
        let is_wide = features.incompatible & INCOMPAT_64BIT != 0;
        let descriptor_bytes = if is_wide { u64::from(le_u16(bytes, 0xfe)) } else { 32 };
        let inode_bytes =
            if le_u32(bytes, 0x4c) == 0 { 128 } else { u64::from(le_u16(bytes, 0x58)) };
        let is_sane = first_block < blocks
            && first_block <= 1
            && (MIN_GROUP_BLOCKS..=8 * block_bytes * cluster_blocks).contains(&group_blocks)
            && (!is_bigalloc || group_clusters.checked_mul(cluster_blocks) == Some(group_blocks))
            && descriptor_bytes.is_power_of_two()
            && (if is_wide { 64 } else { 32 }..=block_bytes).contains(&descriptor_bytes)
            && inode_bytes.is_power_of_two()
            && (128..=block_bytes).contains(&inode_bytes)
            && (1..=8 * block_bytes).contains(&field(0x28));
        if !is_sane {
            return Err(disk.damaged("the superblock's sizes of groups and inodes cannot be"));
        }
        let groups = (blocks - first_block).div_ceil(group_blocks);
        let has_meta = features.incompatible & INCOMPAT_META_BG != 0;
        let backups = if features.compatible & COMPAT_SPARSE_SUPER2 != 0 {
            Backups::Two([le_u32(bytes, 0x24c), le_u32(bytes, 0x250)])
        } else if features.read_only_compatible & RO_COMPAT_SPARSE_SUPER != 0 {
            Backups::Sparse
        } else {
            Backups::All
        };
        let checksums = RO_COMPAT_GDT_CSUM | RO_COMPAT_METADATA_CSUM;
        Ok(Self {
            block_bytes,
            blocks,
            first_block,
            group_blocks,
            cluster_blocks,
            groups,
            inodes_per_group: field(0x28),
            inode_bytes,
            descriptor_bytes,
            reserved_blocks: u64::from(le_u16(bytes, 0xce)),
            first_meta: if has_meta { field(0x104) } else { u64::MAX },
            backups,
            has_uninit: features.read_only_compatible & checksums != 0,
        })
    }

    /// First block and number of blocks of a group.
    fn range(&self, group: u64) -> (u64, u64) {
        let start = self.first_block + group * self.group_blocks;
        (start, self.group_blocks.min(self.blocks - start))
    }

    fn has_superblock(&self, group: u64) -> bool {
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        group == 0
            || match self.backups {
                Backups::All => true,
                Backups::Sparse => group == 1 || [3, 5, 7].into_iter().any(is_power),
                Backups::Two(two) => two.iter().any(|&backup| u64::from(backup) == group),
            }
    }

    /// Block of the superblock within group 0: behind the boot block, where blocks have 1 KiB.
    fn superblock_block(&self) -> u64 {
        u64::from(self.block_bytes == 1024)
    }

    /// Where a block of the descriptor table is.
    fn descriptor_block(&self, number: u64) -> u64 {
        if number < self.first_meta {
            return self.superblock_block() + 1 + number;
        }
        let group = number * (self.block_bytes / self.descriptor_bytes);
        let start = self.range(group).0.max(self.superblock_block());
        start + u64::from(self.has_superblock(group))
    }

    fn group(&self, bytes: &[u8]) -> Group {
        let wide = |low: usize, high: usize| {
            let high = if bytes.len() >= 64 { u64::from(le_u32(bytes, high)) << 32 } else { 0 };
            high | u64::from(le_u32(bytes, low))
        };
        let free_high = if bytes.len() >= 64 { u64::from(le_u16(bytes, 0x2c)) << 16 } else { 0 };
        Group {
            bitmap: wide(0x00, 0x20),
            inode_bitmap: wide(0x04, 0x24),
            inode_table: wide(0x08, 0x28),
            free: free_high | u64::from(le_u16(bytes, 0x0c)),
            is_uninit: self.has_uninit && le_u16(bytes, 0x12) & BLOCK_UNINIT != 0,
        }
    }

    /// Blocks of superblock and descriptors, with what is reserved for more of them, in a group.
    fn base_blocks(&self, group: u64) -> u64 {
        let per_block = self.block_bytes / self.descriptor_bytes;
        let table = self.groups.div_ceil(per_block);
        let superblock = u64::from(self.has_superblock(group));
        if group / per_block < self.first_meta {
            return superblock * (1 + table.min(self.first_meta) + self.reserved_blocks);
        }
        // The first, second and last of the groups that share a descriptor block have a copy of it.
        let place = group % per_block;
        superblock + u64::from(place <= 1 || place == per_block - 1)
    }

    fn mark_metadata<D: Read + Seek>(
        &self,
        number: u64,
        group: &Group,
        marks: &mut Marks,
        disk: &Disk<'_, D>,
    ) -> Result<(), UsedError> {
        let table = (self.inodes_per_group * self.inode_bytes).div_ceil(self.block_bytes);
        let places = [(group.bitmap, 1), (group.inode_bitmap, 1), (group.inode_table, table)];
        for (first, count) in places {
            if first == 0 || first.checked_add(count).is_none_or(|end| end > self.blocks) {
                return Err(disk.damaged(format!("metadata of group {number} lies outside of it")));
            }
            self.mark_clusters(first, count, marks);
        }
        let base = self.base_blocks(number);
        if base > 0 {
            let skip =
                if number == 0 && self.first_block == 0 { self.superblock_block() } else { 0 };
            self.mark_clusters(self.range(number).0, base + skip, marks);
        }
        Ok(())
    }

    /// Marks the whole clusters that some blocks lie in.
    fn mark_clusters(&self, first: u64, count: u64, marks: &mut Marks) {
        let start = first - first % self.cluster_blocks;
        let end = (first + count).next_multiple_of(self.cluster_blocks);
        marks.set(start, end - start);
    }

    /// Reads an inode, which must be one that can be.
    fn inode<D: Read + Seek>(
        &self,
        number: u32,
        disk: &mut Disk<'_, D>,
    ) -> Result<Vec<u8>, UsedError> {
        let index = u64::from(number).saturating_sub(1);
        let (group, index) = (index / self.inodes_per_group, index % self.inodes_per_group);
        if number == 0 || group >= self.groups {
            return Err(disk.damaged(format!("there is no inode {number}")));
        }
        let per_block = self.block_bytes / self.descriptor_bytes;
        let at = self.descriptor_block(group / per_block) * self.block_bytes
            + (group % per_block) * self.descriptor_bytes;
        let mut descriptor = vec![0; self.descriptor_bytes as usize];
        disk.read(at, &mut descriptor, "a group descriptor")?;
        let table = self.group(&descriptor).inode_table.checked_mul(self.block_bytes);
        let at = table.and_then(|table| table.checked_add(index * self.inode_bytes));
        let at = at.ok_or_else(|| disk.damaged(format!("inode {number} is nowhere")))?;
        let mut inode = vec![0; self.inode_bytes as usize];
        disk.read(at, &mut inode, "an inode")?;
        Ok(inode)
    }
}
