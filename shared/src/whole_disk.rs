//! A whole disk as a deployment makes it: partition table, boot code and swap, as data. What lies in its
//! partitions is the manifest's business.

use crate::hash::Hash;
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// Bytes at the start of an MBR that are boot code; disk signature and table follow.
pub const MBR_CODE_BYTES: usize = 440;

/// Bytes at the start of an extended partition's first sector that may be boot code; a table follows.
pub const EXTENDED_CODE_BYTES: usize = 446;

/// Most bytes that are put between MBR and first partition: boot loaders need less than one MiB.
pub const MAX_GAP_BYTES: u32 = 16 << 20;

/// Filesystems, by partclone's names, that can be made larger where they are.
pub const GROWN_FILESYSTEMS: [&str; 7] = ["ext2", "ext3", "ext4", "extfs", "btrfs", "xfs", "ntfs"];

/// All of a disk but the content of its partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeDisk {
    /// The logical sector, in bytes, that a disk must have: tables and boot code count in sectors.
    pub sector_bytes: u32,
    /// Its partition table.
    pub table: DiskTable,
    /// Its swap partitions.
    pub swaps: Vec<Swap>,
    /// What starts it.
    pub boot: BootCode,
}

/// A partition table. All positions are in sectors from the disk's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskTable {
    /// Master boot record.
    Mbr {
        /// The disk signature.
        signature: u32,
        /// Primaries in order of number, then logicals in the order of their chain.
        partitions: Vec<MbrPartition>,
    },
    /// GUID partition table.
    Gpt {
        /// The disk's id.
        guid: Uuid,
        /// First sector that a partition may have.
        first_lba: u64,
        /// Room for so many partitions.
        slots: u32,
        /// In order of number.
        partitions: Vec<GptPartition>,
    },
}

/// A partition of an MBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MbrPartition {
    /// 1 to 4 for a primary, 5 and more for a logical.
    pub number: u16,
    /// Type byte.
    pub kind: u8,
    /// First sector.
    pub start_lba: u64,
    /// Length in sectors.
    pub sectors: u64,
    /// Whether the boot flag is set.
    pub bootable: bool,
    /// Sector of the extended boot record that describes a logical one.
    pub ebr_lba: Option<u64>,
}

/// A partition of a GPT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GptPartition {
    /// From 1.
    pub number: u16,
    /// Its type.
    pub kind: Uuid,
    /// Its own id, the `PARTUUID`.
    pub guid: Uuid,
    /// First sector.
    pub start_lba: u64,
    /// Length in sectors.
    pub sectors: u64,
    /// Attribute bits.
    pub attributes: u64,
    /// Its name, at most 36 UTF-16 units.
    pub name: String,
}

/// A swap partition: it is made anew under the names that it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Number of the partition.
    pub number: u16,
    /// Its UUID; a random one if it is not known.
    pub uuid: Option<Uuid>,
    /// Its label, empty for none.
    pub label: String,
}

/// What starts a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootCode {
    /// The first [`MBR_CODE_BYTES`] of the disk, or nothing.
    pub mbr: Vec<u8>,
    /// The first [`EXTENDED_CODE_BYTES`] of the extended partition, or nothing.
    pub extended: Vec<u8>,
    /// What lies behind the MBR, up to the first partition.
    pub gap: Option<SideFile>,
}

/// A small file beside the image. It is sent without the zeros at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideFile {
    /// Its name in the image.
    pub name: String,
    /// Length without the zeros at its end, in bytes.
    pub bytes: u32,
    /// Hash of those bytes.
    pub hash: Hash,
}

/// By what a table is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableId {
    /// The disk signature of an MBR.
    Mbr(u32),
    /// The disk's id in a GPT.
    Gpt(Uuid),
}

impl DiskTable {
    /// By what it is known again.
    pub fn id(&self) -> TableId {
        match self {
            Self::Mbr { signature, .. } => TableId::Mbr(*signature),
            Self::Gpt { guid, .. } => TableId::Gpt(*guid),
        }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mbr(signature) => write!(f, "MBR, disk signature {signature:08x}"),
            Self::Gpt(guid) => write!(f, "GPT, disk GUID {guid}"),
        }
    }
}
