//! A swap file in the root directory, under one of the names that distributions give it.
//!
//! Whatever is unusual about it (block maps, encryption, no swap header) lets it be kept like any
//! other file.

use super::{Geometry, Superblock};
use crate::{
    bytes::{le_u16, le_u32},
    swap::{self, PAGE_BYTES},
    used::{Disk, KEPT_OF_LEFT_OUT_BYTES, LeftOut, UsedError, UsedMap, marks::Marks},
};
use std::io::{Read, Seek};

const ROOT_INODE: u32 = 2;

const MODE_KIND: u16 = 0xf000;
const MODE_REGULAR: u16 = 0x8000;
const MODE_DIRECTORY: u16 = 0x4000;
const FLAG_ENCRYPTED: u32 = 0x800;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_INLINE: u32 = 0x1000_0000;

const EXTENT_MAGIC: u16 = 0xf30a;
/// ext4's own limit.
const MAX_DEPTH: u16 = 5;
/// A file in more pieces is kept; memory for as many is a MiB.
const MAX_EXTENTS: usize = 1 << 16;
/// Blocks of the root directory that are looked through.
const MAX_DIRECTORY_BLOCKS: u64 = 256;

/// Blocks of a file that lie together.
pub(super) struct Extent {
    pub(super) logical: u64,
    pub(super) start: u64,
    pub(super) count: u64,
}

/// Takes what is behind the beginning of swap files off the marks, and says so in `map`. Nothing is
/// left out of a filesystem with a stale journal, whose records may be about other files.
pub(super) fn leave_out<D: Read + Seek>(
    disk: &mut Disk<'_, D>,
    geometry: &Geometry,
    superblock: &Superblock,
    marks: &mut Marks,
    map: &mut UsedMap,
) {
    if superblock.needs_recovery || !superblock.clean {
        return;
    }
    for name in swap::FILE_NAMES {
        // What cannot be followed is kept.
        let Ok(Some(extents)) = find(disk, geometry, name) else { continue };
        let mut page = [0; PAGE_BYTES];
        let Some(first) = extents.first().filter(|first| first.logical == 0) else { continue };
        if disk.read(first.start * geometry.block_bytes, &mut page, "a swap file").is_err() {
            continue;
        }
        if page[PAGE_BYTES - 10..].starts_with(b"S1SUSPEND") {
            map.unclean.push(format!("/{name} holds a system that was suspended to disk"));
        }
        if !swap::is_plain(&page) {
            continue;
        }
        let kept = KEPT_OF_LEFT_OUT_BYTES / geometry.block_bytes;
        let mut blocks = 0;
        for extent in extents {
            let skip = kept.saturating_sub(extent.logical).min(extent.count);
            marks.clear(extent.start + skip, extent.count - skip);
            blocks += extent.count - skip;
        }
        map.left_out.push(LeftOut { path: name, bytes: blocks * geometry.block_bytes });
    }
}

/// The extents of a regular file in the root directory.
fn find<D: Read + Seek>(
    disk: &mut Disk<'_, D>,
    geometry: &Geometry,
    name: &str,
) -> Result<Option<Vec<Extent>>, UsedError> {
    let root = geometry.inode(ROOT_INODE, disk)?;
    let Some(blocks) = extents(&root, MODE_DIRECTORY, geometry, disk)? else { return Ok(None) };
    let mut block = vec![0; geometry.block_bytes as usize];
    let numbers = blocks.iter().flat_map(|extent| extent.start..extent.start + extent.count);
    for number in numbers.take(MAX_DIRECTORY_BLOCKS as usize) {
        disk.read(number * geometry.block_bytes, &mut block, "the root directory")?;
        if let Some(number) = entry(&block, name.as_bytes()) {
            let inode = geometry.inode(number, disk)?;
            return extents(&inode, MODE_REGULAR, geometry, disk);
        }
    }
    Ok(None)
}

/// The inode number beside a name in a block of a directory.
fn entry(block: &[u8], name: &[u8]) -> Option<u32> {
    let mut rest = block;
    while rest.len() >= 8 {
        let (inode, bytes) = (le_u32(rest, 0), usize::from(le_u16(rest, 4)));
        if bytes < 8 || bytes > rest.len() {
            return None;
        }
        if inode != 0 && rest[8..bytes].get(..usize::from(rest[6])) == Some(name) {
            return Some(inode);
        }
        rest = &rest[bytes..];
    }
    None
}

/// The extents of an inode of this kind; `None` if it is of another or keeps its blocks otherwise.
pub(super) fn extents<D: Read + Seek>(
    inode: &[u8],
    kind: u16,
    geometry: &Geometry,
    disk: &mut Disk<'_, D>,
) -> Result<Option<Vec<Extent>>, UsedError> {
    let flags = le_u32(inode, 0x20);
    let is_plain = flags & FLAG_EXTENTS != 0 && flags & (FLAG_ENCRYPTED | FLAG_INLINE) == 0;
    if !is_plain || le_u16(inode, 0) & MODE_KIND != kind {
        return Ok(None);
    }
    let mut extents = Vec::new();
    walk(&inode[0x28..0x28 + 60], None, &mut extents, geometry, disk)?;
    Ok(Some(extents))
}

/// One node of an extent tree and what is below it. Depths must fall and logical blocks rise, so
/// that it ends.
fn walk<D: Read + Seek>(
    node: &[u8],
    depth_wanted: Option<u16>,
    extents: &mut Vec<Extent>,
    geometry: &Geometry,
    disk: &mut Disk<'_, D>,
) -> Result<(), UsedError> {
    let (entries, depth) = (usize::from(le_u16(node, 2)), le_u16(node, 6));
    let is_sane = le_u16(node, 0) == EXTENT_MAGIC
        && entries < node.len() / 12
        && depth <= MAX_DEPTH
        && depth_wanted.is_none_or(|wanted| wanted == depth);
    // An empty node below the root would make no progress.
    if !is_sane || (entries == 0 && depth_wanted.is_some()) {
        return Err(disk.damaged("a tree of extents is none"));
    }
    for entry in node[12..12 + entries * 12].chunks_exact(12) {
        if depth > 0 {
            let child = u64::from(le_u16(entry, 8)) << 32 | u64::from(le_u32(entry, 4));
            let mut block = vec![0; geometry.block_bytes as usize];
            let at = child.saturating_mul(geometry.block_bytes);
            disk.read(at, &mut block, "a tree of extents")?;
            walk(&block, Some(depth - 1), extents, geometry, disk)?;
            continue;
        }
        let length = u64::from(le_u16(entry, 4));
        // Above 32768 are extents that were never written.
        let count = if length > 0x8000 { length - 0x8000 } else { length };
        let start = u64::from(le_u16(entry, 6)) << 32 | u64::from(le_u32(entry, 8));
        let logical = u64::from(le_u32(entry, 0));
        let rises = extents.last().is_none_or(|last| last.logical + last.count <= logical);
        if count == 0 || !rises || start + count > geometry.blocks || extents.len() == MAX_EXTENTS {
            return Err(disk.damaged("the extents of a file contradict each other"));
        }
        extents.push(Extent { logical, start, count });
    }
    Ok(())
}
