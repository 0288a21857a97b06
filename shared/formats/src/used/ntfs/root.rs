//! Files of the root directory by name.
//!
//! All blocks of its index are looked through, used or not: an entry only counts if the file's own
//! record agrees.

use super::{
    ROOT, Volume,
    record::{Body, Record, mend},
    stream::{NUMBER, is_name},
};
use crate::{
    bytes::{le_u16, le_u32, le_u64},
    used::UsedError,
};
use std::io::{Read, Seek};

const FILE_NAME: u32 = 0x30;
const INDEX_ROOT: u32 = 0x90;
const INDEX_ALLOCATION: u32 = 0xa0;
const INDEX_NAME: &str = "$I30";
/// Much more than any root directory has; what is behind it is not looked through.
const MAX_INDEX_BYTES: u64 = 16 << 20;
/// Smallest and largest block of an index.
const INDEX_BLOCK: std::ops::RangeInclusive<u32> = 512..=64 << 10;
/// Flag of an entry that only ends its node.
const LAST: u16 = 2;

impl<D: Read + Seek> Volume<'_, '_, D> {
    /// The record of a file.
    pub(super) fn in_root(&mut self, name: &str) -> Result<Option<u64>, UsedError> {
        let record = self.record(ROOT)?;
        let root = record
            .attributes()
            .find(|attribute| attribute.kind == INDEX_ROOT && is_name(attribute.name, INDEX_NAME));
        let Some(Body::Resident(value)) = root.map(|attribute| attribute.body) else {
            return Err(self.disk.damaged("the root directory has no index"));
        };
        let has_more = value.len() >= 0x20 && le_u32(value, 0x1c) & 1 != 0;
        let block_bytes = value.get(8..12).map_or(0, |bytes| le_u32(bytes, 0));
        let mut references = entries(value.get(0x10..).unwrap_or(&[]), name);
        if has_more && INDEX_BLOCK.contains(&block_bytes) {
            self.index_blocks(block_bytes, name, &mut references)?;
        }
        for reference in references {
            if self.agrees(reference, name) {
                return Ok(Some(reference & NUMBER));
            }
        }
        Ok(None)
    }

    fn index_blocks(
        &mut self,
        block_bytes: u32,
        name: &str,
        references: &mut Vec<u64>,
    ) -> Result<(), UsedError> {
        let stream = self.stream_of(ROOT, INDEX_ALLOCATION, INDEX_NAME)?;
        let mut block = vec![0; block_bytes as usize];
        let end = stream.bytes.min(MAX_INDEX_BYTES);
        for at in (0..end - end % u64::from(block_bytes)).step_by(block_bytes as usize) {
            self.read_extents(&stream.extents, at, &mut block, "the root directory")?;
            if mend(&mut block, b"INDX").is_some() {
                references.extend(entries(&block[0x18..], name));
            }
        }
        Ok(())
    }

    /// Whether a file's own record says that it is of this name and in the root directory.
    fn agrees(&mut self, reference: u64, name: &str) -> bool {
        let Ok(record) = self.record(reference & NUMBER) else { return false };
        u64::from(record.sequence()) == reference >> 48 && has_only_name(&record, name)
    }
}

fn has_only_name(record: &Record, name: &str) -> bool {
    let mut names = record
        .attributes()
        .filter(|attribute| attribute.kind == FILE_NAME)
        .map(|attribute| match attribute.body {
            Body::Resident(value) => {
                value.len() >= 8 && le_u64(value, 0) & NUMBER == ROOT && is_value(value, name)
            }
            Body::Runs { .. } => false,
        })
        .peekable();
    names.peek().is_some() && names.all(|is_it| is_it)
}

/// Whether the value of a file name has this name.
fn is_value(value: &[u8], name: &str) -> bool {
    value.len() >= 0x42
        && value
            .get(0x42..0x42 + 2 * usize::from(value[0x40]))
            .is_some_and(|utf16| is_name(utf16, name))
}

/// References of the entries of a node with this name; it begins with its header.
fn entries(node: &[u8], name: &str) -> Vec<u64> {
    let mut found = Vec::new();
    if node.len() < 0x10 {
        return found;
    }
    let end = (le_u32(node, 4) as usize).min(node.len());
    let mut rest = node.get(le_u32(node, 0) as usize..end).unwrap_or(&[]);
    while rest.len() >= 0x10 && le_u16(rest, 0x0c) & LAST == 0 {
        let (length, key) = (usize::from(le_u16(rest, 8)), usize::from(le_u16(rest, 0x0a)));
        let Some((entry, behind)) = rest.split_at_checked(length).filter(|_| length >= 0x10) else {
            break;
        };
        if entry.get(0x10..0x10 + key).is_some_and(|value| is_value(value, name)) {
            found.push(le_u64(entry, 0));
        }
        rest = behind;
    }
    found
}
