//! Disks: how one is described, and how a job names the one it may write to.

use crate::table::FoundTable;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One disk as a node reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name without `/dev/`, such as `vda` or `nvme0n1`. Changes between boots.
    pub name: String,
    /// Serial number, blanks trimmed.
    pub serial: Option<String>,
    /// World wide name, such as `naa.5000c500a1b2c3d4` or `eui.0025388b710116a1`.
    pub wwn: Option<String>,
    /// Model, blanks trimmed.
    pub model: Option<String>,
    /// Size in bytes.
    pub bytes: u64,
    /// Logical sector size in bytes.
    pub logical_sector: u32,
    /// Physical sector size in bytes.
    pub physical_sector: u32,
    /// Whether it is a disk with moving parts.
    pub rotational: bool,
    /// How it is attached: `virtio`, `nvme`, `sata`, `usb`, `loop` ...
    pub transport: Option<String>,
    /// What lies on it, as far as it is recognised; empty for a blank disk.
    pub contents: Vec<Content>,
    /// Its partition table, if it has one that is whole.
    #[serde(default)]
    pub table: Option<FoundTable>,
}

/// Something recognised on a disk: what would be lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Number of the partition it fills; `None` when it lies on the disk itself.
    pub partition: Option<u32>,
    /// What it is, for people: `ext4 "root" 6f1c2a..`, `GPT with 3 partitions`, `unknown data`.
    pub what: String,
    /// Size of the partition or disk in bytes.
    pub bytes: u64,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition {
            Some(number) => write!(f, "partition {number}: {} ({} bytes)", self.what, self.bytes),
            None => write!(f, "whole disk: {} ({} bytes)", self.what, self.bytes),
        }
    }
}

/// The disk that a job may write to. A name under `/dev` is not enough: it may belong to another
/// disk after the next boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSelector {
    /// The serial number it must have.
    pub serial: Option<String>,
    /// The world wide name it must have.
    pub wwn: Option<String>,
    /// The size in bytes it must have.
    pub bytes: u64,
}

/// Why no disk, or more than one, answers to a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No disk has this identity.
    #[error("no disk with {wanted}; the node has {found}")]
    None {
        /// What was asked for.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// Two disks share it, so it names neither.
    #[error("{count} disks have {wanted}; refusing to choose between them")]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// How many have it.
        count: usize,
    },
}

impl DiskSelector {
    /// The selector of this very disk, if it can be told from others at all.
    pub fn of(disk: &Disk) -> Option<Self> {
        (disk.serial.is_some() || disk.wwn.is_some()).then(|| Self {
            serial: disk.serial.clone(),
            wwn: disk.wwn.clone(),
            bytes: disk.bytes,
        })
    }

    /// The one disk that is meant.
    pub fn select<'d>(&self, disks: &'d [Disk]) -> Result<&'d Disk, SelectError> {
        let matching: Vec<&Disk> = disks.iter().filter(|disk| self.matches(disk)).collect();
        match matching[..] {
            [disk] => Ok(disk),
            [] => {
                let found: Vec<String> = disks.iter().map(ToString::to_string).collect();
                let found = if found.is_empty() { "no disks".into() } else { found.join(", ") };
                Err(SelectError::None { wanted: self.to_string(), found })
            }
            _ => Err(SelectError::Ambiguous { wanted: self.to_string(), count: matching.len() }),
        }
    }

    fn matches(&self, disk: &Disk) -> bool {
        let named = self.serial.is_some() || self.wwn.is_some();
        named
            && (self.serial.is_none() || self.serial == disk.serial)
            && (self.wwn.is_none() || self.wwn == disk.wwn)
            && self.bytes == disk.bytes
    }
}

impl fmt::Display for DiskSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(serial) = &self.serial {
            write!(f, "serial {serial}, ")?;
        }
        if let Some(wwn) = &self.wwn {
            write!(f, "wwn {wwn}, ")?;
        }
        write!(f, "{} bytes", self.bytes)
    }
}

impl fmt::Display for Disk {
    /// `vda (QEMU HARDDISK, serial MC1, 4294967296 bytes)`: what an operator must see before a disk
    /// is written to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.name)?;
        if let Some(model) = &self.model {
            write!(f, "{model}, ")?;
        }
        match (&self.serial, &self.wwn) {
            (Some(serial), _) => write!(f, "serial {serial}, ")?,
            (None, Some(wwn)) => write!(f, "wwn {wwn}, ")?,
            (None, None) => write!(f, "no serial, ")?,
        }
        write!(f, "{} bytes)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, serial: Option<&str>, bytes: u64) -> Disk {
        Disk { name: name.into(), serial: serial.map(Into::into), bytes, ..Disk::default() }
    }

    #[test]
    fn a_disk_is_chosen_by_what_it_is_not_where_it_is() {
        let a = disk("vda", Some("A"), 100);
        let b = disk("vdb", Some("B"), 100);
        let selector = DiskSelector::of(&a).unwrap();
        assert_eq!(selector.select(&[b.clone(), disk("vdz", Some("A"), 100)]).unwrap().name, "vdz");
        assert!(matches!(selector.select(&[b]), Err(SelectError::None { .. })));
        assert!(matches!(
            selector.select(&[a.clone(), disk("vdb", Some("A"), 100)]),
            Err(SelectError::Ambiguous { count: 2, .. })
        ));
        assert!(selector.select(&[disk("vda", Some("A"), 99)]).is_err(), "another size");
    }

    #[test]
    fn a_disk_without_identity_cannot_be_named() {
        assert_eq!(DiskSelector::of(&disk("vda", None, 100)), None);
        let anything = DiskSelector { serial: None, wwn: None, bytes: 100 };
        assert!(anything.select(&[disk("vda", None, 100)]).is_err());
    }
}
