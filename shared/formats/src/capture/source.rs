//! What is saved: a disk with its partition table, or one partition.

use super::CaptureError;
use crate::{
    clonezilla::{DiskFacts, DiskTable, partition_name},
    gpt,
    layout::SECTOR_BYTES,
    mbr,
    probe::{self, Kind},
    region::{ReadAt, Region},
};

/// What is known of a source before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFacts {
    /// What it is called in the image, such as `sda` or `sda1`.
    pub name: String,
    /// What the disk calls itself, for people.
    pub model: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its logical sector in bytes.
    pub sector_bytes: u32,
    /// Whether it is known to be a partition: those have no table, whatever their first sector resembles.
    pub is_partition: bool,
}

/// A source whose table was read.
#[derive(Debug)]
pub struct Source<S> {
    /// Where its bytes are read.
    pub medium: S,
    /// Its size in bytes.
    pub bytes: u64,
    /// If it is a whole disk.
    pub disk: Option<DiskFacts>,
    /// All of its partitions, or itself.
    pub partitions: Vec<Part>,
}

/// A partition of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number; 0 if it is the whole source.
    pub number: u16,
    /// What it is called in the image.
    pub name: String,
    /// Its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether it only holds other partitions.
    pub is_extended: bool,
}

impl<S: ReadAt> Source<S> {
    /// Reads the partition table, if there is one.
    pub fn read(medium: S, facts: SourceFacts) -> Result<Self, CaptureError> {
        let SourceFacts { name, model, bytes, sector_bytes, is_partition } = facts;
        if !is_device_name(&name) {
            return Err(CaptureError::Name(name));
        }
        let table = if is_partition { None } else { table(&medium, bytes, sector_bytes)? };
        let Some(table) = table else {
            let part = Part { number: 0, name, start: 0, bytes, is_extended: false };
            return Ok(Self { medium, bytes, disk: None, partitions: vec![part] });
        };
        let sectors = bytes / u64::from(sector_bytes);
        let disk = DiskFacts { model, sectors, sector_bytes, table, name };
        let partitions = parts(&disk);
        Ok(Self { medium, bytes, disk: Some(disk), partitions })
    }

    /// A part of it as a file.
    pub(super) fn region(&self, start: u64, bytes: u64) -> Region<&S> {
        Region::new(&self.medium, start, bytes)
    }
}

/// Letters and digits, as kernel names are; what is not would lead out of the image or be misread.
pub fn is_device_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

fn table<S: ReadAt>(
    medium: &S,
    bytes: u64,
    sector_bytes: u32,
) -> Result<Option<DiskTable>, CaptureError> {
    let mut file = Region::new(medium, 0, bytes);
    let sectors = bytes / u64::from(sector_bytes);
    let found = probe::probe(&mut file, 0, bytes).map_err(|source| CaptureError::Read {
        what: "its beginning and end".to_owned(),
        source,
    })?;
    if found.find(Kind::Gpt).is_some() {
        return Ok(Some(DiskTable::Gpt(gpt::read(&mut file, sectors, sector_bytes)?)));
    }
    if found.find(Kind::Mbr).is_none() {
        return Ok(None);
    }
    if u64::from(sector_bytes) != SECTOR_BYTES {
        return Err(CaptureError::MbrSectors(sector_bytes));
    }
    let table = mbr::read(&mut file, sectors)?;
    if table.is_gpt_protective() {
        return Err(CaptureError::OnlyGuard);
    }
    Ok(Some(DiskTable::Mbr(table)))
}

fn parts(disk: &DiskFacts) -> Vec<Part> {
    let part = |number: u16, start: u64, sectors: u64, is_extended| Part {
        number,
        name: partition_name(&disk.name, u32::from(number)),
        start: start * u64::from(disk.sector_bytes),
        bytes: sectors * u64::from(disk.sector_bytes),
        is_extended,
    };
    match &disk.table {
        DiskTable::Mbr(table) => table
            .entries
            .iter()
            .map(|entry| part(entry.number, entry.start_lba, entry.sectors, entry.is_extended()))
            .collect(),
        DiskTable::Gpt(table) => table
            .entries
            .iter()
            .map(|entry| part(entry.number, entry.start_lba, entry.sectors, false))
            .collect(),
    }
}
