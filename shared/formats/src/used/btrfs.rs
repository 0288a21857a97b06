//! btrfs: the blocks of every extent in the extent tree, in all copies that are on the device.
//!
//! ```text
//! superblock ─ system chunks ─> chunk tree ─ all chunks ─> root tree ─> extent tree ─> extents
//! ```
//!
//! A block is a node, as it is to partclone; a data extent marks every block that it touches. partclone
//! also marks what metadata may grow into and what it takes the addresses of files for, and its older
//! versions have only one of two copies; here it is exactly what is used, and all copies are. Only filesystems on one device are supported. The tree of what was fsynced last
//! is not in the extent tree: where there is one, the filesystem is unclean.

mod chunks;
mod tree;

use super::{Disk, UsedError, UsedMap, marks::Marks};
use crate::bytes::{le_u32, le_u64};
use chunks::Chunks;
use std::io::{Read, Seek};
use tree::Take;

/// Offsets of the superblock and its copies.
const SUPERBLOCKS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
const SUPERBLOCK_BYTES: usize = 4096;
/// Never given to chunks; boot loaders live here.
const RESERVED_BYTES: u64 = 1 << 20;

/// What may be there without changing how extents are found: mixed backrefs, default subvolume, mixed
/// groups, LZO, zstd, big metadata, extended references, RAID56, skinny metadata, no holes, metadata
/// UUID, RAID1 with 3 and 4 copies.
const INCOMPAT_KNOWN: u64 = 0xfff;

const INCOMPAT_METADATA_UUID: u64 = 0x400;

const EXTENT_TREE: u64 = 2;
const EXTENT_ITEM: u8 = 168;
const METADATA_ITEM: u8 = 169;
const ROOT_ITEM: u8 = 132;
const CHUNK_ITEM: u8 = 228;

/// What of the superblock is needed.
struct Superblock {
    fsid: [u8; 16],
    root: u64,
    root_level: u8,
    chunk_root: u64,
    chunk_root_level: u8,
    has_log: bool,
    node_bytes: u64,
    device: u64,
    device_bytes: u64,
    system_chunks: Vec<u8>,
}

/// The filesystem being read.
struct Filesystem<'f, 'd, D> {
    disk: &'f mut Disk<'d, D>,
    superblock: Superblock,
    chunks: Chunks,
}

pub(super) fn read<D: Read + Seek>(disk: &mut Disk<'_, D>) -> Result<UsedMap, UsedError> {
    let superblock = Superblock::read(disk)?;
    let node_bytes = superblock.node_bytes;
    let blocks = disk.checked_blocks(superblock.device_bytes / node_bytes, node_bytes)?;
    let mut unclean = Vec::new();
    if superblock.has_log {
        let what = "what was fsynced last is still in its log: it is mounted, or was not unmounted";
        unclean.push(what.to_owned());
    }
    let device_bytes = superblock.device_bytes;
    let chunks = Chunks::of_system(&superblock, disk)?;
    let mut filesystem = Filesystem { disk, superblock, chunks };
    let mut marks = Marks::none(blocks);
    marks.set(0, RESERVED_BYTES.div_ceil(node_bytes));
    for at in SUPERBLOCKS {
        marks.set(at / node_bytes, 1);
    }
    filesystem.read_chunks()?;
    filesystem.mark_extents(&mut marks)?;
    Ok(UsedMap {
        filesystem: "BTRFS",
        program: "btrfs",
        block_bytes: node_bytes as u32,
        device_bytes,
        used: marks.into_bitmap(),
        left_out: Vec::new(),
        unclean,
    })
}

impl Superblock {
    fn read<D: Read + Seek>(disk: &mut Disk<'_, D>) -> Result<Self, UsedError> {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        disk.read(SUPERBLOCKS[0], &mut bytes, "the superblock")?;
        let unknown = le_u64(&bytes, 188) & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(disk.unsupported(format!("the features {unknown:#x}")));
        }
        let devices = le_u64(&bytes, 136);
        if devices != 1 {
            return Err(disk.unsupported(format!("{devices} devices")));
        }
        // Nodes keep the UUID that the filesystem was made with when it is given another.
        let has_other = le_u64(&bytes, 188) & INCOMPAT_METADATA_UUID != 0;
        let uuid_at = if has_other { 571 } else { 0x20 };
        let mut fsid = [0; 16];
        fsid.copy_from_slice(&bytes[uuid_at..uuid_at + 16]);
        let (sector_bytes, node_bytes) = (le_u32(&bytes, 144), le_u32(&bytes, 148));
        let array_bytes = le_u32(&bytes, 160) as usize;
        let is_sane = sector_bytes.is_power_of_two()
            && (4096..=64 << 10).contains(&sector_bytes)
            && node_bytes.is_power_of_two()
            && (sector_bytes..=64 << 10).contains(&node_bytes)
            && array_bytes <= 2048;
        if !is_sane {
            return Err(disk.damaged("the superblock's sizes cannot be"));
        }
        Ok(Self {
            fsid,
            root: le_u64(&bytes, 80),
            root_level: bytes[198],
            chunk_root: le_u64(&bytes, 88),
            chunk_root_level: bytes[199],
            has_log: le_u64(&bytes, 96) != 0,
            node_bytes: u64::from(node_bytes),
            device: le_u64(&bytes, 201),
            device_bytes: le_u64(&bytes, 209),
            system_chunks: bytes[811..811 + array_bytes].to_vec(),
        })
    }
}

impl<D: Read + Seek> Filesystem<'_, '_, D> {
    /// All chunks; those of the chunk tree itself were in the superblock.
    fn read_chunks(&mut self) -> Result<(), UsedError> {
        let (root, level) = (self.superblock.chunk_root, self.superblock.chunk_root_level);
        let mut all = Chunks::default();
        let device = self.superblock.device;
        self.walk(root, level, &mut |key, item| match key.kind {
            CHUNK_ITEM => all.add(key.offset, item, device),
            _ => Ok(()),
        })?;
        self.chunks = all;
        Ok(())
    }

    fn mark_extents(&mut self, marks: &mut Marks) -> Result<(), UsedError> {
        let (root, level) = (self.superblock.root, self.superblock.root_level);
        let mut extents = None;
        self.walk(root, level, &mut |key, item| {
            if key.object == EXTENT_TREE && key.kind == ROOT_ITEM {
                // The root's inode comes first, with 160 bytes; its generation and id follow.
                let field = item.get(176..184).zip(item.get(238));
                extents = field.map(|(at, level)| (le_u64(at, 0), *level));
            }
            Ok(())
        })?;
        let Some((root, level)) = extents else {
            return Err(self.disk.damaged("it has no extent tree"));
        };
        let node_bytes = self.superblock.node_bytes;
        // The chunks are not changed by the walk; taken out, so that both can be used.
        let chunks = self.chunks.clone();
        // No two extents share a place, so that together they are no more than the device.
        let (mut left, full) =
            (self.superblock.device_bytes, "extents for more than the device has");
        self.walk(root, level, &mut |key, _| {
            let bytes = match key.kind {
                EXTENT_ITEM => key.offset,
                METADATA_ITEM => node_bytes,
                _ => return Ok(()),
            };
            let mut is_full = false;
            chunks.each_copy(key.object, bytes, |start, length| {
                is_full |= length > left;
                left = left.saturating_sub(length);
                if !is_full {
                    let first = start / node_bytes;
                    let end = start.saturating_add(length).div_ceil(node_bytes);
                    marks.set(first, end - first);
                }
            })?;
            if is_full { Err(full.to_owned()) } else { Ok(()) }
        })
    }

    /// Hands over all items of a tree in ascending order.
    fn walk(&mut self, root: u64, level: u8, take: &mut Take<'_>) -> Result<(), UsedError> {
        tree::Walk::new(self).run(root, level, take)
    }

    /// A node from the first of its copies that is one.
    fn node(&mut self, logical: u64, level: u8) -> Result<Vec<u8>, UsedError> {
        let bytes = self.superblock.node_bytes;
        let mut copies = Vec::new();
        self.chunks
            .each_copy(logical, bytes, |start, _| copies.push(start))
            .map_err(|what| self.disk.damaged(what))?;
        let mut node = vec![0; bytes as usize];
        for start in copies {
            self.disk.read(start, &mut node, "a tree")?;
            let is_it = node[0x20..0x30] == self.superblock.fsid
                && le_u64(&node, 0x30) == logical
                && node[100] == level;
            if is_it {
                return Ok(node);
            }
        }
        Err(self.disk.damaged(format!("there is no node of level {level} at address {logical}")))
    }
}

/// Number of items in a node.
fn items(node: &[u8]) -> usize {
    le_u32(node, 96) as usize
}
