//! A saved disk with all that makes it one: table, boot code, swap, and which image goes where.
//!
//! Clonezilla's order counts: the table is that of `<disk>-pt.sf`, which people edit; `<disk>-gpt.gdisk`
//! has it where the dump is of an sfdisk that knew no GPT.

use super::{Directory, DirectoryError, SavedTable, TableKind, gdisk, sfdisk, table};
use crate::{mbr, stream::Piece};
use metalcast_shared::{
    to_agent::Placed,
    whole_disk::{
        BootCode, DiskTable, EXTENDED_CODE_BYTES, GptPartition, MBR_CODE_BYTES, MbrPartition, Swap,
        WholeDisk,
    },
};
use std::collections::BTreeMap;

/// Sectors between an extended boot record and its partition, where there is room: what all tools of
/// today keep.
const EBR_DISTANCE: u64 = 2048;

/// Slots of a GPT unless the dump says otherwise.
const USUAL_SLOTS: u32 = 128;

/// A disk that can be made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedDisk {
    /// Its name in the image.
    pub name: String,
    /// What it was; without what lies between MBR and first partition.
    pub whole: WholeDisk,
    /// The file with that, and most bytes that there is room for.
    pub gap: Option<(String, u64)>,
    /// Which image goes into which partition.
    pub partitions: Vec<Placed>,
}

/// Why an image is none of one whole disk.
#[derive(Debug, thiserror::Error)]
pub enum WholeDiskError {
    /// Only partitions were saved.
    #[error("it holds no whole disk, only partitions: {partitions}")]
    NoDisk {
        /// Their names.
        partitions: String,
    },
    /// Several disks were saved together.
    #[error("it holds several disks ({disks}); one that was saved alone can be deployed")]
    SeveralDisks {
        /// Their names.
        disks: String,
    },
    /// A file of it contradicts the format.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// Contents of side files by name.
pub type Contents = BTreeMap<String, Vec<u8>>;

impl Directory {
    /// The small files that [`SavedDisk::of`] needs, the one between MBR and first partition not among
    /// them.
    ///
    /// # Errors
    /// When the image is not that of one disk.
    pub fn disk_files(&self) -> Result<Vec<&Piece>, WholeDiskError> {
        let table = self.only_table()?;
        let disk = &table.disk;
        let mut names = vec![format!("{disk}-pt.sf"), format!("{disk}-gpt.gdisk")];
        names.push(format!("{disk}-mbr"));
        for one in &table.without_data {
            names.push(format!("swappt-{}.info", one.partition));
            names.push(format!("{}-ebr", one.partition));
        }
        Ok(self.side_files.iter().filter(|piece| names.contains(&piece.name)).collect())
    }

    fn only_table(&self) -> Result<&SavedTable, WholeDiskError> {
        match &self.tables[..] {
            [only] => Ok(only),
            [] => {
                let names: Vec<&str> =
                    self.partitions.iter().map(|partition| partition.name.as_str()).collect();
                Err(WholeDiskError::NoDisk { partitions: names.join(", ") })
            }
            _ => Err(WholeDiskError::SeveralDisks { disks: self.disks.join(", ") }),
        }
    }
}

impl SavedDisk {
    /// Puts together what the files say.
    ///
    /// # Errors
    /// When the image is not that of one disk, or a file contradicts the format.
    pub fn of(directory: &Directory, files: &Contents) -> Result<Self, WholeDiskError> {
        let saved = directory.only_table()?;
        let reader = Reader { saved, files };
        let disk_table = match saved.kind {
            TableKind::Mbr => reader.mbr()?,
            TableKind::Gpt => reader.gpt()?,
        };
        let placed = |name: &String| {
            let number = table::number_on(&saved.disk, name)?;
            Some(Placed { number: u16::try_from(number).ok()?, partition: name.clone() })
        };
        let partitions: Vec<Placed> =
            directory.partitions.iter().filter_map(|image| placed(&image.name)).collect();
        let (extended, first) = frame(&disk_table);
        let boot = BootCode {
            mbr: reader.code(&format!("{}-mbr", saved.disk), MBR_CODE_BYTES)?,
            extended: match extended {
                Some(number) => {
                    reader.code(&format!("{}-ebr", saved.partition(number)), EXTENDED_CODE_BYTES)?
                }
                None => Vec::new(),
            },
            gap: None,
        };
        let gap_file = format!("{}-hidden-data-after-mbr", saved.disk);
        let has_gap = directory.side_files.iter().any(|piece| piece.name == gap_file);
        // In a GPT the table itself lies there.
        let is_mbr = saved.kind == TableKind::Mbr;
        let room = first.saturating_sub(1).saturating_mul(u64::from(saved.sector_bytes));
        Ok(Self {
            name: saved.disk.clone(),
            whole: WholeDisk {
                sector_bytes: saved.sector_bytes,
                swaps: reader.swaps(&partitions)?,
                table: disk_table,
                boot,
            },
            gap: (is_mbr && has_gap).then_some((gap_file, room)),
            partitions,
        })
    }
}

/// The number of the extended partition, and the first sector of any partition.
fn frame(table: &DiskTable) -> (Option<u16>, u64) {
    match table {
        DiskTable::Mbr { partitions, .. } => {
            let extended = partitions.iter().find(|part| mbr::is_extended(part.kind));
            let first = partitions.iter().map(|part| part.start_lba).min();
            (extended.map(|part| part.number), first.unwrap_or(u64::MAX))
        }
        DiskTable::Gpt { partitions, .. } => {
            (None, partitions.iter().map(|part| part.start_lba).min().unwrap_or(u64::MAX))
        }
    }
}

struct Reader<'r> {
    saved: &'r SavedTable,
    files: &'r Contents,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<String> {
        self.files.get(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// The dump, and how its errors are told.
    fn dump(&self) -> (String, String) {
        let name = format!("{}-pt.sf", self.saved.disk);
        (self.text(&name).unwrap_or_default(), name)
    }

    fn mbr(&self) -> Result<DiskTable, DirectoryError> {
        let (text, name) = self.dump();
        let bad = |what: String| DirectoryError::invalid(&name, what);
        let mut partitions = Vec::new();
        for row in sfdisk::rows(&text) {
            let number = row.number;
            let kind = row.kind().and_then(|kind| u8::from_str_radix(kind, 16).ok());
            let (Some(kind), Some(start_lba), Some(sectors)) =
                (kind, row.sectors("start"), row.sectors("size"))
            else {
                return Err(bad(format!("partition {number} has no type, start or size")));
            };
            let bootable = row.is_bootable();
            let ebr_lba = None;
            partitions.push(MbrPartition { number, kind, start_lba, sectors, bootable, ebr_lba });
        }
        partitions.sort_by_key(|part| part.number);
        place_records(&mut partitions).map_err(|number| {
            bad(format!("no room for the extended boot record of partition {number}"))
        })?;
        Ok(DiskTable::Mbr { signature: self.signature(&text), partitions })
    }

    /// Dumps of sfdisk before 2.26 do not have it.
    fn signature(&self, dump: &str) -> u32 {
        let named = sfdisk::setting(dump, "label-id")
            .and_then(|id| u32::from_str_radix(id.trim_start_matches("0x"), 16).ok());
        let saved = || {
            let mbr = self.files.get(&format!("{}-mbr", self.saved.disk))?;
            let bytes = mbr.get(MBR_CODE_BYTES..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes))
        };
        named.or_else(saved).unwrap_or(0)
    }

    fn gpt(&self) -> Result<DiskTable, DirectoryError> {
        let (text, name) = self.dump();
        if sfdisk::setting(&text, "label").is_none() {
            return self.gdisk();
        }
        let bad = |what: String| DirectoryError::invalid(&name, what);
        let mut partitions = Vec::new();
        for row in sfdisk::rows(&text) {
            let number = row.number;
            let id = |field: &str| row.field(field).and_then(|text| text.parse().ok());
            let whole = || {
                Some(GptPartition {
                    number,
                    kind: id("type")?,
                    guid: id("uuid")?,
                    start_lba: row.sectors("start")?,
                    sectors: row.sectors("size")?,
                    attributes: row.attributes()?,
                    name: row.name()?,
                })
            };
            let part = whole().ok_or_else(|| {
                bad(format!("partition {number} lacks type, uuid, start or size, or one is none"))
            })?;
            partitions.push(part);
        }
        partitions.sort_by_key(|part| part.number);
        let number = |name: &str| sfdisk::setting(&text, name).and_then(|text| text.parse().ok());
        Ok(DiskTable::Gpt {
            guid: sfdisk::setting(&text, "label-id")
                .and_then(|id| id.parse().ok())
                .ok_or_else(|| bad("has no label-id that is a GUID".to_owned()))?,
            first_lba: number("first-lba").unwrap_or(0),
            slots: number("table-length")
                .map_or(Some(USUAL_SLOTS), |slots| u32::try_from(slots).ok())
                .ok_or_else(|| bad("has a table-length that is none".to_owned()))?,
            partitions,
        })
    }

    fn gdisk(&self) -> Result<DiskTable, DirectoryError> {
        let name = format!("{}-gpt.gdisk", self.saved.disk);
        let table = self.files.get(&name).and_then(|bytes| gdisk::table(bytes));
        let table = table.ok_or_else(|| DirectoryError::invalid(&name, gdisk::NOT_WHOLE))?;
        let partitions = table.entries.into_iter().map(|entry| GptPartition {
            number: entry.number,
            kind: entry.kind,
            guid: entry.guid,
            start_lba: entry.start_lba,
            sectors: entry.sectors,
            attributes: entry.attributes,
            name: entry.name,
        });
        Ok(DiskTable::Gpt {
            guid: table.disk_guid,
            first_lba: table.first_lba,
            slots: table.slots,
            partitions: partitions.collect(),
        })
    }

    /// The first bytes of a file; nothing if there is none, or only zeros.
    fn code(&self, name: &str, bytes: usize) -> Result<Vec<u8>, DirectoryError> {
        let Some(file) = self.files.get(name) else { return Ok(Vec::new()) };
        let code = file.get(..bytes).ok_or_else(|| {
            let had = file.len();
            DirectoryError::invalid(name, format!("has {had} bytes instead of {bytes} and more"))
        })?;
        Ok(if code.iter().all(|byte| *byte == 0) { Vec::new() } else { code.to_vec() })
    }

    /// Swap whose content was not saved.
    fn swaps(&self, placed: &[Placed]) -> Result<Vec<Swap>, DirectoryError> {
        let mut swaps = Vec::new();
        for one in self.saved.without_data.iter().filter(|one| one.what == table::SWAP) {
            let number = table::number_on(&self.saved.disk, &one.partition);
            let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else {
                continue;
            };
            if placed.iter().any(|placed| placed.number == number) {
                continue;
            }
            let name = format!("swappt-{}.info", one.partition);
            let text = self.text(&name).unwrap_or_default();
            let value = |key: &str| {
                let line = text.lines().find_map(|line| line.trim().strip_prefix(key));
                line.map(|value| value.trim().trim_matches('"')).filter(|value| !value.is_empty())
            };
            let uuid = match value("UUID=").map(str::parse) {
                Some(Ok(uuid)) => Some(uuid),
                Some(Err(_)) => {
                    return Err(DirectoryError::invalid(&name, "has a UUID that is none"));
                }
                None => None,
            };
            swaps.push(Swap {
                number,
                uuid,
                label: value("LABEL=").unwrap_or_default().to_owned(),
            });
        }
        Ok(swaps)
    }
}

/// Gives each logical partition the sector of its extended boot record, which no dump names: the first
/// at the head of the extended partition, every other in the free sectors in front of its partition.
/// The number of one for which there is no room is the error.
fn place_records(partitions: &mut [MbrPartition]) -> Result<(), u16> {
    let Some(extended) = partitions.iter().find(|part| mbr::is_extended(part.kind)).copied() else {
        return Ok(());
    };
    let is_logical = |part: &MbrPartition| part.number >= mbr::FIRST_LOGICAL;
    let ends: Vec<u64> = partitions
        .iter()
        .filter(|part| is_logical(part))
        .map(|part| part.start_lba.saturating_add(part.sectors))
        .collect();
    for part in partitions.iter_mut().filter(|part| is_logical(part)) {
        if part.number == mbr::FIRST_LOGICAL {
            part.ebr_lba = Some(extended.start_lba);
            continue;
        }
        let before = ends.iter().copied().filter(|end| *end <= part.start_lba).max();
        // The head is the first one's.
        let free = before.unwrap_or(0).max(extended.start_lba.saturating_add(1));
        let ebr = free.max(part.start_lba.saturating_sub(EBR_DISTANCE));
        if ebr >= part.start_lba {
            return Err(part.number);
        }
        part.ebr_lba = Some(ebr);
    }
    Ok(())
}
