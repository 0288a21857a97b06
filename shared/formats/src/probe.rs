//! What is on a disk or partition, so that a plan can say what it destroys.
//!
//! Looks at the first and the last MiB only and names every signature it knows; several can be true at
//! once (a RAID member with a file system inside, a GPT with its protective MBR). Nothing is mounted,
//! nothing is followed further than its own header. Names and ids are those that `blkid` prints.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

mod signatures;
mod size;
#[cfg(test)]
mod tests;

pub use size::{Growable, growable};

/// How much of the start and of the end is looked at, in bytes.
pub const WINDOW_BYTES: u64 = 1 << 20;

/// What a signature stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext2.
    Ext2,
    /// ext3.
    Ext3,
    /// ext4.
    Ext4,
    /// The journal of an ext3 or ext4 that keeps it apart.
    ExtJournal,
    /// XFS.
    Xfs,
    /// btrfs, of one or many devices.
    Btrfs,
    /// NTFS.
    Ntfs,
    /// FAT12, FAT16 or FAT32.
    Vfat,
    /// exFAT.
    Exfat,
    /// F2FS.
    F2fs,
    /// A Windows volume encrypted with BitLocker.
    BitLocker,
    /// Swap space.
    Swap,
    /// Swap space with the memory of a suspended system in it.
    Hibernated,
    /// A physical volume of LVM2.
    Lvm2,
    /// An encrypted LUKS volume, version 1 or 2.
    Luks,
    /// A member of a Linux software RAID.
    MdRaid,
    /// A member of a ZFS pool.
    Zfs,
    /// An ISO 9660 image.
    Iso9660,
    /// A squashfs image.
    Squashfs,
    /// A GUID partition table, or its backup.
    Gpt,
    /// An MBR partition table.
    Mbr,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Its id in the form that is usual for it.
    pub uuid: Option<String>,
    /// Its label or name.
    pub label: Option<String>,
}

/// What the two windows hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing but zeros.
    Blank,
    /// Something, without a signature known here.
    Unknown,
    /// Known things, at least one; the outermost is not told from the others.
    Known(Vec<Found>),
}

/// Looks at `bytes` bytes of a device from `start_byte` on: a whole disk, or a partition in it.
pub fn probe<D: Read + Seek>(device: &mut D, start_byte: u64, bytes: u64) -> io::Result<Contents> {
    let window = bytes.min(WINDOW_BYTES);
    let head = read_window(device, start_byte, window)?;
    let tail = read_window(device, start_byte.saturating_add(bytes - window), window)?;
    let found = signatures::all(&signatures::Windows { head: &head, tail: &tail, bytes });
    Ok(if !found.is_empty() {
        Contents::Known(found)
    } else if head.iter().chain(&tail).all(|&byte| byte == 0) {
        Contents::Blank
    } else {
        Contents::Unknown
    })
}

fn read_window<D: Read + Seek>(device: &mut D, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let mut window = vec![0; bytes as usize];
    device.seek(SeekFrom::Start(offset))?;
    device.read_exact(&mut window)?;
    Ok(window)
}

impl Kind {
    /// The name that `blkid` has for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext2 => "ext2",
            Kind::Ext3 => "ext3",
            Kind::Ext4 => "ext4",
            Kind::ExtJournal => "jbd",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
            Kind::Ntfs => "ntfs",
            Kind::Vfat => "vfat",
            Kind::Exfat => "exfat",
            Kind::F2fs => "f2fs",
            Kind::BitLocker => "BitLocker",
            Kind::Swap => "swap",
            Kind::Hibernated => "swsuspend",
            Kind::Lvm2 => "LVM2_member",
            Kind::Luks => "crypto_LUKS",
            Kind::MdRaid => "linux_raid_member",
            Kind::Zfs => "zfs_member",
            Kind::Iso9660 => "iso9660",
            Kind::Squashfs => "squashfs",
            Kind::Gpt => "gpt",
            Kind::Mbr => "dos",
        }
    }
}

impl Kind {
    /// Whether it leaves the first sector of its partition to boot code. All others start there, or are
    /// nothing to boot from.
    pub fn leaves_sector_0_free(self) -> bool {
        match self {
            Kind::Ext2 | Kind::Ext3 | Kind::Ext4 | Kind::Btrfs | Kind::F2fs | Kind::Vfat => true,
            Kind::ExtJournal
            | Kind::Xfs
            | Kind::Ntfs
            | Kind::Exfat
            | Kind::BitLocker
            | Kind::Swap
            | Kind::Hibernated
            | Kind::Lvm2
            | Kind::Luks
            | Kind::MdRaid
            | Kind::Zfs
            | Kind::Iso9660
            | Kind::Squashfs
            | Kind::Gpt
            | Kind::Mbr => false,
        }
    }
}

impl Contents {
    /// The first thing found of this kind.
    pub fn find(&self, kind: Kind) -> Option<&Found> {
        match self {
            Contents::Known(found) => found.iter().find(|found| found.kind == kind),
            Contents::Blank | Contents::Unknown => None,
        }
    }
}

impl Contents {
    /// What larger thing this is a part of: it holds more than what is on this partition.
    pub fn part_of(&self) -> Option<&'static str> {
        let part = |(kind, what): &(Kind, &'static str)| self.find(*kind).map(|_| *what);
        let larger = [
            (Kind::Lvm2, "it is a physical volume of LVM"),
            (Kind::MdRaid, "it is a member of a RAID"),
            (Kind::Zfs, "it is a member of a ZFS pool"),
        ];
        larger.iter().find_map(part)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(label) = &self.label {
            write!(f, " {label:?}")?;
        }
        match &self.uuid {
            Some(uuid) => write!(f, " {uuid}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contents::Blank => f.write_str("blank"),
            Contents::Unknown => f.write_str("unknown data"),
            Contents::Known(found) => {
                let names: Vec<String> = found.iter().map(ToString::to_string).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}
