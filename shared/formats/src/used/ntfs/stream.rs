//! Records and streams by number: one attribute may be spread over several records, which a list in the
//! first names.

use super::{
    MFT, Volume,
    record::{Body, Record},
    runs::{Extent, MAX_EXTENTS, unpack},
};
use crate::{
    bytes::{le_u16, le_u32, le_u64},
    used::UsedError,
};
use std::io::{Read, Seek};

const ATTRIBUTE_LIST: u32 = 0x20;
const DATA: u32 = 0x80;
/// Windows makes no longer list.
const MAX_LIST_BYTES: u64 = 256 << 10;
/// The low part of a reference is the record's number.
pub(super) const NUMBER: u64 = 0xffff_ffff_ffff;

/// An attribute in clusters of its own.
pub(super) struct Stream {
    /// Its pieces, from its beginning on, without gaps.
    pub(super) extents: Vec<Extent>,
    pub(super) bytes: u64,
    /// Neither compressed nor encrypted nor sparse.
    pub(super) is_plain: bool,
}

/// Whether a name in UTF-16 is this one, whatever its case.
pub(super) fn is_name(utf16: &[u8], name: &str) -> bool {
    utf16.len() == 2 * name.len()
        && utf16
            .chunks_exact(2)
            .zip(name.bytes())
            .all(|(unit, byte)| unit[1] == 0 && unit[0].eq_ignore_ascii_case(&byte))
}

impl<D: Read + Seek> Volume<'_, '_, D> {
    /// A record by its number.
    pub(super) fn record(&mut self, number: u64) -> Result<Record, UsedError> {
        let mut bytes = vec![0; self.boot.record_bytes as usize];
        let at = number.checked_mul(self.boot.record_bytes);
        let at = at.ok_or_else(|| self.disk.damaged(format!("there is no record {number}")))?;
        let table = std::mem::take(&mut self.table);
        let read = self.read_extents(&table, at, &mut bytes, "the master file table");
        self.table = table;
        read?;
        Record::new(bytes)
            .ok_or_else(|| self.disk.damaged(format!("record {number} of $MFT is not in order")))
    }

    /// Where the master file table is. Records that say so may lie in its own later pieces; each is
    /// read with the pieces known by then.
    pub(super) fn table_extents(&mut self) -> Result<Vec<Extent>, UsedError> {
        let record = self.record(MFT)?;
        let mut extents = Vec::new();
        self.take_runs(&record, DATA, "", &mut extents)?;
        self.table.clone_from(&extents);
        for number in self.listed(&record, DATA, "")? {
            let record = self.record(number)?;
            self.take_runs(&record, DATA, "", &mut extents)?;
            self.table.extend_from_slice(&extents[self.table.len()..]);
        }
        Ok(extents)
    }

    /// An attribute of a file that has clusters of its own.
    pub(super) fn stream_of(
        &mut self,
        number: u64,
        kind: u32,
        name: &str,
    ) -> Result<Stream, UsedError> {
        let record = self.record(number)?;
        let mut extents = Vec::new();
        let mut head = self.take_runs(&record, kind, name, &mut extents)?;
        for number in self.listed(&record, kind, name)?.into_iter().filter(|one| *one != number) {
            let record = self.record(number)?;
            let more = self.take_runs(&record, kind, name, &mut extents)?;
            head = head.or(more);
        }
        let (bytes, is_plain) = head.ok_or_else(|| {
            self.disk.damaged(format!("record {number} of $MFT has no attribute {kind:#x}"))
        })?;
        Ok(Stream { extents, bytes, is_plain })
    }

    /// Appends the runs of an attribute in one record; length and plainness if it begins there.
    fn take_runs(
        &self,
        record: &Record,
        kind: u32,
        name: &str,
        extents: &mut Vec<Extent>,
    ) -> Result<Option<(u64, bool)>, UsedError> {
        let mut head = None;
        for attribute in record.attributes() {
            if attribute.kind != kind || !is_name(attribute.name, name) {
                continue;
            }
            let Body::Runs { first, bytes, runs } = attribute.body else { continue };
            let behind = extents.last().map_or(0, |last| last.vcn + last.clusters);
            let more = unpack(runs, first, self.boot.clusters)
                .filter(|more| first == behind && extents.len() + more.len() <= MAX_EXTENTS)
                .ok_or_else(|| self.disk.damaged("the runs of a file cannot be"))?;
            extents.extend(more);
            if first == 0 {
                head = Some((bytes, !attribute.is_special));
            }
        }
        Ok(head)
    }

    /// Numbers of the further records with parts of an attribute, in the order of the parts.
    fn listed(&mut self, record: &Record, kind: u32, name: &str) -> Result<Vec<u64>, UsedError> {
        let list = record.attributes().find(|attribute| attribute.kind == ATTRIBUTE_LIST);
        let list = match list.map(|attribute| attribute.body) {
            None => return Ok(Vec::new()),
            Some(Body::Resident(value)) => value.to_vec(),
            Some(Body::Runs { first, bytes, runs }) => {
                let extents = unpack(runs, first, self.boot.clusters)
                    .filter(|_| bytes <= MAX_LIST_BYTES)
                    .ok_or_else(|| {
                        self.disk.damaged("the list of a file's attributes cannot be")
                    })?;
                let mut list = vec![0; bytes as usize];
                self.read_extents(&extents, 0, &mut list, "a list of attributes")?;
                list
            }
        };
        let mut numbers = Vec::new();
        let mut rest = &list[..];
        while rest.len() >= 0x1a {
            let length = usize::from(le_u16(rest, 4));
            let Some((entry, behind)) = rest.split_at_checked(length).filter(|_| length >= 0x1a)
            else {
                break;
            };
            let at = usize::from(entry[7]);
            let listed_name = entry.get(at..at + 2 * usize::from(entry[6])).unwrap_or(&[]);
            // The part at the beginning is in the record itself, or was taken from there.
            if le_u32(entry, 0) == kind && is_name(listed_name, name) {
                numbers.push(le_u64(entry, 0x10) & NUMBER);
            }
            rest = behind;
        }
        numbers.dedup();
        Ok(numbers)
    }

    /// Reads from the clusters of a stream; holes are damage, for nothing that is read here has any.
    pub(super) fn read_extents(
        &mut self,
        extents: &[Extent],
        offset: u64,
        buffer: &mut [u8],
        what: &'static str,
    ) -> Result<(), UsedError> {
        let cluster = self.boot.cluster_bytes;
        let (mut offset, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let vcn = offset / cluster;
            let index = extents.partition_point(|extent| extent.vcn + extent.clusters <= vcn);
            let extent = extents.get(index).filter(|extent| extent.vcn <= vcn);
            let Some((extent, lcn)) = extent.and_then(|one| Some((one, one.lcn?))) else {
                return Err(self.disk.damaged(format!("{what} has a hole at its byte {offset}")));
            };
            let within = offset - extent.vcn * cluster;
            let step = (extent.clusters * cluster - within).min(rest.len() as u64);
            let (part, behind) = rest.split_at_mut(step as usize);
            self.disk.read(lcn * cluster + within, part, what)?;
            offset += step;
            rest = behind;
        }
        Ok(())
    }
}
