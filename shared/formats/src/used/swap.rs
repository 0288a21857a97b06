//! Swap space: its first page, which holds size, label and UUID. The rest is nothing to keep.

use super::{Disk, UsedError, UsedMap, marks::Marks};
use crate::{probe::Kind, swap::PAGE_BYTES};
use std::io::{Read, Seek};

/// Larger pages exist on other machines; the header is in the first 4 KiB there too, its magic is not.
const MAX_PAGE_BYTES: u64 = 64 << 10;

pub(super) fn read<D: Read + Seek>(
    disk: &mut Disk<'_, D>,
    kind: Kind,
) -> Result<UsedMap, UsedError> {
    let page = PAGE_BYTES as u64;
    let blocks = disk.checked_blocks(disk.bytes() / page, page)?;
    let mut marks = Marks::none(blocks);
    marks.set(0, MAX_PAGE_BYTES / page);
    let mut unclean = Vec::new();
    if kind == Kind::Hibernated {
        let what = "it holds the memory of a system that was suspended to disk and may wake up";
        unclean.push(what.to_owned());
    }
    Ok(UsedMap {
        filesystem: "swap",
        program: "swap",
        block_bytes: PAGE_BYTES as u32,
        device_bytes: blocks * page,
        used: marks.into_bitmap(),
        left_out: Vec::new(),
        unclean,
    })
}
