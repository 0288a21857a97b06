//! The text files that describe a saved disk, in the forms that Clonezilla reads.
//!
//! Clonezilla has sfdisk and parted print them; an agent has neither everywhere. `<disk>-pt.sf` is what
//! the table is made from again and agrees with sfdisk's to the byte; of `<disk>-pt.parted` the disk's
//! size, the kind of table, and the columns and flags that mark swap and extended partitions are read.

use crate::{gpt, mbr};
use std::fmt::Write;
use uuid::{Uuid, uuid};

const ESP: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
const SWAP: Uuid = uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f");
const LVM: Uuid = uuid!("e6d6d379-f507-44c2-a23c-238f2a3df928");
const RAID: Uuid = uuid!("a19d880f-05fc-4d3b-a006-743f0f84911e");
const BIOS_BOOT: Uuid = uuid!("21686148-6449-6e6f-744e-656564454649");
const MS_DATA: Uuid = uuid!("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7");
const MS_RESERVED: Uuid = uuid!("e3c9e316-0b5c-4db8-817d-f92df00215ae");
const MS_RECOVERY: Uuid = uuid!("de94bba4-06d1-4d40-a16a-bfd50179d6ac");

/// Attribute bits that parted has flags for.
const REQUIRED: u64 = 1;
const LEGACY_BOOT: u64 = 1 << 2;

/// How many slots a table has unless it says so.
const USUAL_SLOTS: u32 = 128;

/// Heads and sectors that every system takes for a disk of today.
const HEADS: u64 = 255;
const SECTORS_PER_TRACK: u64 = 63;

/// A disk's partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskTable {
    /// Master boot record.
    Mbr(mbr::Table),
    /// GUID partition table.
    Gpt(gpt::Table),
}

/// A disk that is being saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFacts {
    /// Its name in the image, such as `sda`.
    pub name: String,
    /// What it calls itself, for people.
    pub model: String,
    /// Its size in sectors.
    pub sectors: u64,
    /// Its logical sector in bytes.
    pub sector_bytes: u32,
    /// Its table.
    pub table: DiskTable,
}

/// A partition as the files name and describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionFacts {
    /// Its number.
    pub number: u16,
    /// Its name in the image, such as `sda1`.
    pub name: String,
    /// The filesystem in it as `blkid` names it, if one was recognised.
    pub filesystem: Option<String>,
}

impl DiskFacts {
    /// `<disk>-pt.sf`: what `sfdisk --dump` prints.
    pub fn sfdisk(&self, partitions: &[PartitionFacts]) -> String {
        let mut text = String::new();
        let mut line = |rest: String| text.push_str(&(rest + "\n"));
        match &self.table {
            DiskTable::Mbr(table) => {
                line("label: dos".to_owned());
                line(format!("label-id: {:#010x}", table.signature));
            }
            DiskTable::Gpt(table) => {
                line("label: gpt".to_owned());
                line(format!("label-id: {}", upper(table.disk_guid)));
            }
        }
        line(format!("device: /dev/{}", self.name));
        line("unit: sectors".to_owned());
        if let DiskTable::Gpt(table) = &self.table {
            line(format!("first-lba: {}", table.first_lba));
            line(format!("last-lba: {}", table.last_lba));
            if table.slots != USUAL_SLOTS {
                line(format!("table-length: {}", table.slots));
            }
        }
        line(format!("sector-size: {}\n", self.sector_bytes));
        for partition in partitions {
            if let Some((start, sectors, rest)) = self.sfdisk_row(partition.number) {
                let name = &partition.name;
                line(format!("/dev/{name} : start={start:>12}, size={sectors:>12}, {rest}"));
            }
        }
        text
    }

    fn sfdisk_row(&self, number: u16) -> Option<(u64, u64, String)> {
        match &self.table {
            DiskTable::Mbr(table) => {
                let entry = table.partition(number)?;
                let boot = if entry.bootable { ", bootable" } else { "" };
                Some((entry.start_lba, entry.sectors, format!("type={:x}{boot}", entry.kind)))
            }
            DiskTable::Gpt(table) => {
                let entry = table.entries.iter().find(|entry| entry.number == number)?;
                let mut rest = format!("type={}, uuid={}", upper(entry.kind), upper(entry.guid));
                if !entry.name.is_empty() {
                    write!(rest, ", name=\"{}\"", quoted(&entry.name)).expect("into memory");
                }
                if let Some(attributes) = attributes(entry.attributes) {
                    write!(rest, ", attrs=\"{attributes}\"").expect("into memory");
                }
                Some((entry.start_lba, entry.sectors, rest))
            }
        }
    }

    /// `<disk>-pt.parted`: what `parted unit s print` prints.
    pub fn parted(&self, partitions: &[PartitionFacts]) -> String {
        let (kind, head): (_, &[&str]) = match &self.table {
            DiskTable::Mbr(_) => {
                ("msdos", &["Number", "Start", "End", "Size", "Type", "File system", "Flags"])
            }
            DiskTable::Gpt(_) => {
                ("gpt", &["Number", "Start", "End", "Size", "File system", "Name", "Flags"])
            }
        };
        let mut rows = vec![head.iter().map(ToString::to_string).collect::<Vec<_>>()];
        rows.extend(partitions.iter().filter_map(|partition| self.parted_row(partition)));
        let Self { name, model, sectors, sector_bytes, .. } = self;
        let mut text = format!(
            "Model: {model}\nDisk /dev/{name}: {sectors}s\n\
             Sector size (logical/physical): {sector_bytes}B/{sector_bytes}B\n\
             Partition Table: {kind}\nDisk Flags: \n\n"
        );
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text + "\n"
    }

    fn parted_row(&self, partition: &PartitionFacts) -> Option<Vec<String>> {
        let place = |start: u64, sectors: u64| {
            let last = start + sectors - 1;
            [
                format!("{:>2}", partition.number),
                format!("{start}s"),
                format!("{last}s"),
                format!("{sectors}s"),
            ]
        };
        let filesystem = parted_filesystem(partition.filesystem.as_deref().unwrap_or_default());
        let mut row: Vec<String>;
        match &self.table {
            DiskTable::Mbr(table) => {
                let entry = table.partition(partition.number)?;
                row = place(entry.start_lba, entry.sectors).into();
                let kind = match (entry.is_extended(), entry.ebr_lba) {
                    (true, _) => "extended",
                    (false, Some(_)) => "logical",
                    (false, None) => "primary",
                };
                row.extend([kind.to_owned(), filesystem.to_owned(), mbr_flags(entry)]);
            }
            DiskTable::Gpt(table) => {
                let entry = table.entries.iter().find(|one| one.number == partition.number)?;
                row = place(entry.start_lba, entry.sectors).into();
                row.extend([filesystem.to_owned(), entry.name.clone(), gpt_flags(entry)]);
            }
        }
        Some(row)
    }

    /// `<disk>-chs.sf`: the geometry that old boot code wants to hear.
    pub fn geometry(&self) -> String {
        let cylinders = self.sectors / (HEADS * SECTORS_PER_TRACK);
        format!("cylinders={cylinders}\nheads={HEADS}\nsectors={SECTORS_PER_TRACK}\n")
    }
}

fn upper(guid: Uuid) -> String {
    guid.hyphenated().to_string().to_uppercase()
}

/// As sfdisk writes a name within quotes: what could end them, or is no plain ASCII, as `\xHH`.
fn quoted(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'"' | b'\\' | b'`' | b'$' => write!(text, "\\x{byte:02x}").expect("into memory"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => write!(text, "\\x{byte:02x}").expect("into memory"),
        }
        text
    })
}

/// The attribute bits as sfdisk names them.
fn attributes(bits: u64) -> Option<String> {
    let named = [(0, "RequiredPartition"), (1, "NoBlockIOProtocol"), (2, "LegacyBIOSBootable")];
    let mut words: Vec<String> = named
        .into_iter()
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .map(|(_, name)| name.to_owned())
        .collect();
    let special: Vec<String> =
        (48..64).filter(|bit| bits >> bit & 1 == 1).map(|bit: u32| bit.to_string()).collect();
    if !special.is_empty() {
        words.push(format!("GUID:{}", special.join(",")));
    }
    (!words.is_empty()).then(|| words.join(" "))
}

/// parted's name for a filesystem that blkid names so.
fn parted_filesystem(blkid: &str) -> &str {
    match blkid {
        "swap" | "swsuspend" => "linux-swap(v1)",
        other => other,
    }
}

fn mbr_flags(entry: &mbr::PartitionEntry) -> String {
    let kind = match entry.kind {
        mbr::KIND_SWAP => Some("swap"),
        0x0c | 0x0e | mbr::KIND_EXTENDED_LBA => Some("lba"),
        0x8e => Some("lvm"),
        0xef => Some("esp"),
        0xfd => Some("raid"),
        0x27 => Some("diag"),
        _ => None,
    };
    let boot = entry.bootable.then_some("boot");
    boot.into_iter().chain(kind).collect::<Vec<_>>().join(", ")
}

/// In the order in which parted prints them.
fn gpt_flags(entry: &gpt::Entry) -> String {
    let flags = [
        ("boot", entry.kind == ESP),
        ("swap", entry.kind == SWAP),
        ("hidden", entry.attributes & REQUIRED != 0),
        ("raid", entry.kind == RAID),
        ("lvm", entry.kind == LVM),
        ("msftres", entry.kind == MS_RESERVED),
        ("bios_grub", entry.kind == BIOS_BOOT),
        ("diag", entry.kind == MS_RECOVERY),
        ("legacy_boot", entry.attributes & LEGACY_BOOT != 0),
        ("msftdata", entry.kind == MS_DATA),
        ("esp", entry.kind == ESP),
    ];
    let set = flags.into_iter().filter(|(_, is_set)| *is_set);
    set.map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}
