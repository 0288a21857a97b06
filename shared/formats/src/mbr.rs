//! MBR partition tables with their chain of extended boot records (EBRs): read, check, write.
//!
//! Reading is strict: an entry that leaves the disk, a chain that turns back on itself or a record
//! without signature is an error, so that a damaged table is never taken for an empty one. Writing
//! yields a list of [`Write`]s for the caller to show or apply; nothing here touches a disk. Boot
//! code (the first [`BOOT_CODE_BYTES`] of sector 0) is never part of a write.
//!
//! ```text
//! MBR entry 4 (extended) --> EBR at its first sector: data entry relative to this EBR,
//!                            link entry relative to the extended partition --> next EBR ...
//! ```

mod entry;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{ReadError, read};
pub use write::WriteError;

/// Most logical partitions that are read or written. CentMesh has 21; the bound stops hostile chains.
pub const MAX_LOGICALS: usize = 128;
/// Partition type of a Linux file system.
pub const KIND_LINUX: u8 = 0x83;
/// Partition type of Linux swap.
pub const KIND_SWAP: u8 = 0x82;
/// Partition type of an extended partition that is addressed by LBA.
pub const KIND_EXTENDED_LBA: u8 = 0x0f;
/// Partition type of an extended partition, and of the links in its chain.
pub const KIND_EXTENDED: u8 = 0x05;
/// Partition type of the one entry with which a GPT protects itself from MBR tools.
pub const KIND_GPT_PROTECTIVE: u8 = 0xee;

/// Length of the boot code in sector 0; disk signature and table follow it.
pub const BOOT_CODE_BYTES: usize = 0x1b8;

/// Offset of the disk signature in sector 0, in bytes; the table follows it.
const SIGNATURE_OFFSET: usize = BOOT_CODE_BYTES;
/// The geometry that every tool assumes today: so many heads, and so many sectors in a track.
pub(crate) const HEADS: u16 = 255;
pub(crate) const SECTORS_PER_TRACK: u16 = 63;
pub(crate) const FIRST_LOGICAL: u16 = 5;

/// Bytes to be put on a disk. May be shorter than a sector: what is around them stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where, in bytes from the start of the disk.
    pub byte_offset: u64,
    /// What.
    pub bytes: Vec<u8>,
}

/// One partition, primary or logical. All positions in sectors of 512 bytes from the disk's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionEntry {
    /// 1..=4 for a primary, 5.. for a logical, as Linux counts them.
    pub number: u16,
    /// Type byte, such as [`KIND_LINUX`].
    pub kind: u8,
    /// First sector.
    pub start_lba: u64,
    /// Length in sectors.
    pub sectors: u64,
    /// Whether the boot flag (0x80) is set.
    pub bootable: bool,
    /// Sector of the EBR that describes a logical partition; none for a primary.
    pub ebr_lba: Option<u64>,
}

impl PartitionEntry {
    /// Whether this is an extended partition, of any of the types that Linux takes for one.
    pub fn is_extended(&self) -> bool {
        is_extended(self.kind)
    }

    /// The first sector behind it.
    pub fn end_lba(&self) -> u64 {
        self.start_lba + self.sectors
    }
}

/// A whole table: primaries in order of number, then logicals in the order of their chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The disk signature, part of every MBR PARTUUID.
    pub signature: u32,
    /// All partitions that are in use.
    pub entries: Vec<PartitionEntry>,
}

impl Table {
    /// The partition of this number.
    pub fn partition(&self, number: u16) -> Option<&PartitionEntry> {
        self.entries.iter().find(|entry| entry.number == number)
    }

    /// Whether the table only says "this disk has a GPT".
    pub fn is_gpt_protective(&self) -> bool {
        self.entries.iter().any(|entry| entry.kind == KIND_GPT_PROTECTIVE)
    }

    /// The `PARTUUID` by which Linux finds a partition of this table.
    pub fn partuuid(&self, number: u16) -> String {
        format!("{:08x}-{number:02x}", self.signature)
    }
}

/// Whether a type byte is that of an extended partition, as far as Linux takes it for one.
pub fn is_extended(kind: u8) -> bool {
    matches!(kind, KIND_EXTENDED | KIND_EXTENDED_LBA | 0x85)
}
