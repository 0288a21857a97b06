//! The partition table that was saved with a disk: its kind, the disk's size and what is in it.
//!
//! `<disk>-pt.sf` is the output of `sfdisk -d`, `<disk>-pt.parted` that of `parted unit s print`.
//! Clonezilla needs both for an MBR disk; sfdisk before 2.26 knew no GPT, and what it printed of one
//! is worth nothing: `<disk>-gpt.gdisk` has the table then.

use super::{DirectoryError, Files, LeftOut, gdisk, partition_name, sfdisk};
use crate::gpt;

/// Length of the boot code in a first sector.
const BOOT_CODE_BYTES: u64 = 446;

/// What partitions without data are.
const EXTENDED: &str = "extended";
pub(super) const SWAP: &str = "swap";

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

/// A partition in a table: its number, and its type in lower case.
struct Row {
    number: u32,
    kind: String,
}

impl SavedTable {
    /// Reads the table of a disk, which must have the partitions among `parts` that are on it. What is
    /// not there gets an entry in `missing`; `None` if that leaves too little.
    pub(super) fn read(
        files: &Files,
        disk: &str,
        parts: &[String],
        missing: &mut Vec<String>,
    ) -> Result<Option<Self>, DirectoryError> {
        let [parted_name, sfdisk_name] = ["parted", "sf"].map(|end| format!("{disk}-pt.{end}"));
        let sfdisk = files.text(&sfdisk_name)?;
        let parted = files.text(&parted_name)?;
        if parted.is_none() {
            missing.push(format!("{parted_name} (size and partition table of {disk})"));
        }
        let bad = |what: &str| DirectoryError::invalid(&parted_name, what);
        // Dumps of sfdisk before 2.26 do not name the kind; parted's always do.
        let named = sfdisk.as_deref().and_then(|text| sfdisk::setting(text, "label"));
        let label = named.or_else(|| field(parted.as_deref()?, "Partition Table:"));
        let kind = match (label.map(str::trim), &parted) {
            (Some("dos" | "msdos"), _) => TableKind::Mbr,
            (Some("gpt"), _) => TableKind::Gpt,
            (None, None) => TableKind::Mbr,
            _ => return Err(bad("names no partition table that is known (gpt or msdos)")),
        };
        let (rows, table_name) = match (kind, &sfdisk) {
            (TableKind::Gpt, _) if named.is_none() => {
                let name = format!("{disk}-gpt.gdisk");
                (gdisk_rows(files, &name)?, name)
            }
            (_, sfdisk) => (sfdisk.as_deref().map(sfdisk_rows), sfdisk_name),
        };
        let Some(rows) = rows else {
            missing.push(format!("{table_name} (the partition table of {disk})"));
            return Ok(None);
        };
        missing.extend(absent(disk, parts, &rows, &table_name));
        let Some(parted) = parted else { return Ok(None) };
        let sectors = field(&parted, "Disk /")
            .and_then(|line| line.rsplit_once(": "))
            .and_then(|(_, size)| size.trim().strip_suffix('s')?.parse().ok())
            .ok_or_else(|| bad("does not say how many sectors the disk has"))?;
        let sector_bytes = field(&parted, "Sector size")
            .and_then(|line| line.rsplit_once(": ")?.1.split_once('B')?.0.parse().ok())
            .unwrap_or(512);
        let without_data = rows.iter().filter_map(|row| row.without_data(disk)).collect();
        Ok(Some(Self { disk: disk.to_owned(), kind, sectors, sector_bytes, without_data }))
    }
}

impl SavedTable {
    /// What its partition of this number is called.
    pub(super) fn partition(&self, number: u16) -> String {
        partition_name(&self.disk, number.into())
    }

    /// Files without which a restored disk does not start, or is not recognised, as the saved one was:
    /// boot code, and the names of swap. Clonezilla restores the rest of it without them.
    pub(super) fn lacking(&self, files: &Files) -> Result<Vec<String>, DirectoryError> {
        let mut lacking = Vec::new();
        let boot_code = self.without_data.iter().filter(|one| one.what == EXTENDED);
        let boot_code = boot_code.map(|one| format!("{}-ebr", one.partition));
        for file in std::iter::once(format!("{}-mbr", self.disk)).chain(boot_code) {
            match files.bytes(&file) {
                None => lacking.push(format!("{file} (boot code)")),
                Some(bytes @ ..BOOT_CODE_BYTES) => {
                    let what =
                        format!("has {bytes} bytes instead of the {BOOT_CODE_BYTES} of boot code");
                    return Err(DirectoryError::invalid(&file, what));
                }
                Some(_) => {}
            }
        }
        for swap in self.without_data.iter().filter(|one| one.what == SWAP) {
            let file = format!("swappt-{}.info", swap.partition);
            if files.bytes(&file).is_none() {
                lacking.push(format!("{file} (UUID and label of swap)"));
            }
        }
        Ok(lacking)
    }
}

/// The partitions of `parts` that are on this disk but not in its table.
fn absent(disk: &str, parts: &[String], rows: &[Row], table: &str) -> Vec<String> {
    let is_absent = |part: &&String| {
        number_on(disk, part).is_some_and(|number| rows.iter().all(|row| row.number != number))
    };
    let name = |part: &String| format!("{part} in {table} (its place on {disk})");
    parts.iter().filter(is_absent).map(name).collect()
}

/// The number of a partition if it is on this disk: `sda1`, `nvme0n1p1`.
pub(super) fn number_on(disk: &str, part: &str) -> Option<u32> {
    let rest = part.strip_prefix(disk)?;
    let digits = match disk.ends_with(|last: char| last.is_ascii_digit()) {
        true => rest.strip_prefix('p')?,
        false => rest,
    };
    digits.parse().ok()
}

fn sfdisk_rows(text: &str) -> Vec<Row> {
    let row = |row: sfdisk::Row<'_>| {
        let kind = row.kind()?.to_lowercase();
        Some(Row { number: row.number.into(), kind })
    };
    sfdisk::rows(text).filter_map(row).collect()
}

fn gdisk_rows(files: &Files, name: &str) -> Result<Option<Vec<Row>>, DirectoryError> {
    let Some(bytes) = files.read(name, gdisk::MAX_BYTES)? else { return Ok(None) };
    let table =
        gdisk::table(&bytes).ok_or_else(|| DirectoryError::invalid(name, gdisk::NOT_WHOLE))?;
    let row =
        |entry: &gpt::Entry| Row { number: entry.number.into(), kind: entry.kind.to_string() };
    Ok(Some(table.entries.iter().map(row).collect()))
}

impl Row {
    /// What it is, if it holds no data of its own.
    fn without_data(&self, disk: &str) -> Option<LeftOut> {
        let what = match self.kind.as_str() {
            "5" | "f" | "85" => EXTENDED,
            "82" | "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f" => SWAP,
            _ => return None,
        };
        Some(LeftOut { partition: partition_name(disk, self.number), what: what.to_owned() })
    }
}

/// The rest of the first line that begins so.
fn field<'t>(text: &'t str, start: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(start))
}
