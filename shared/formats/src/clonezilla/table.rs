//! The partition table that was saved with a disk: its kind and the disk's size.
//!
//! `<disk>-pt.sf` is the output of `sfdisk -d`, `<disk>-pt.parted` that of `parted unit s print`.
//! Clonezilla needs both for an MBR disk; for GPT `<disk>-gpt.gdisk` may stand in for the former.

use super::{DirectoryError, Files, LeftOut};

/// What kind of partition table a disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Master boot record.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// A saved partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedTable {
    /// The disk, such as `sda`.
    pub disk: String,
    /// Kind of its table.
    pub kind: TableKind,
    /// Size of the disk in logical sectors.
    pub sectors: u64,
    /// Size of a logical sector in bytes.
    pub sector_bytes: u32,
    /// Partitions that hold no data of their own: swap, and extended ones.
    pub without_data: Vec<LeftOut>,
}

impl SavedTable {
    /// Reads the table of a disk. `None` with an entry in `missing` if its files are not there.
    pub(super) fn read(
        files: &Files,
        disk: &str,
        missing: &mut Vec<String>,
    ) -> Result<Option<Self>, DirectoryError> {
        let (parted_name, sfdisk_name) = (format!("{disk}-pt.parted"), format!("{disk}-pt.sf"));
        let has_gdisk = files.entries.contains_key(&format!("{disk}-gpt.gdisk"));
        let sfdisk = files.text(&sfdisk_name)?;
        let parted = files.text(&parted_name)?;
        if sfdisk.is_none() && !has_gdisk {
            missing.push(format!("{sfdisk_name} (the partition table of {disk})"));
        }
        let Some(parted) = parted else {
            missing.push(format!("{parted_name} (size and partition table of {disk})"));
            return Ok(None);
        };
        let bad = |what: &str| DirectoryError::invalid(&parted_name, what);
        let sectors = field(&parted, "Disk /")
            .and_then(|line| line.rsplit_once(": "))
            .and_then(|(_, size)| size.trim().strip_suffix('s')?.parse().ok())
            .ok_or_else(|| bad("does not say how many sectors the disk has"))?;
        // Dumps of sfdisk before 2.26 do not name the kind; parted's always do.
        let label = sfdisk.as_deref().and_then(|text| field(text, "label:"));
        let label = label.or_else(|| field(&parted, "Partition Table:")).map(str::trim);
        let kind = match label {
            Some("dos" | "msdos") => TableKind::Mbr,
            Some("gpt") => TableKind::Gpt,
            _ => return Err(bad("names no partition table that is known (gpt or msdos)")),
        };
        let sector_bytes = field(&parted, "Sector size")
            .and_then(|line| line.rsplit_once(": ")?.1.split_once('B')?.0.parse().ok())
            .unwrap_or(512);
        let rows = sfdisk.as_deref().unwrap_or_default().lines();
        let without_data = rows.filter_map(without_data).collect();
        Ok(Some(Self { disk: disk.to_owned(), kind, sectors, sector_bytes, without_data }))
    }
}

/// A row of sfdisk's for a partition without data: `/dev/sda2 : start= 36864, size= 163840, type=5`.
fn without_data(row: &str) -> Option<LeftOut> {
    let (device, fields) = row.strip_prefix("/dev/")?.split_once(':')?;
    let kind = fields.split(',').find_map(|field| {
        let (key, value) = field.split_once('=')?;
        matches!(key.trim(), "type" | "Id").then(|| value.trim().to_lowercase())
    })?;
    let what = match kind.as_str() {
        "5" | "f" | "85" => "extended",
        "82" | "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f" => "swap",
        _ => return None,
    };
    Some(LeftOut { partition: device.trim().replace('/', "-"), what: what.to_owned() })
}

/// The rest of the first line that begins so.
fn field<'t>(text: &'t str, start: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(start))
}
