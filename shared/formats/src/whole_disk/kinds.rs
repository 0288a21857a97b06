//! Which types of partitions go with which filesystems. Windows and installers go by the type; Linux mostly
//! does not.

use metalcast_shared::table::PartitionKind;
use uuid::{Uuid, uuid};

/// Who a type says the partition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Windows,
    Fat,
    /// FAT that UEFI firmware reads.
    Firmware,
    Linux,
    Swap,
    /// Something that has no filesystem: LVM, RAID, boot code ...
    Other,
}

const GPT: [(Uuid, For); 11] = [
    (uuid!("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"), For::Windows),
    (uuid!("de94bba4-06d1-4d40-a16a-bfd50179d6ac"), For::Windows),
    (uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"), For::Firmware),
    (uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4"), For::Linux),
    (uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"), For::Linux),
    (uuid!("933ac7e1-2eb4-4f13-b844-0e14e2aef915"), For::Linux),
    (uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"), For::Swap),
    (uuid!("e6d6d379-f507-44c2-a23c-238f2a3df928"), For::Other),
    (uuid!("a19d880f-05fc-4d3b-a006-743f0f84911e"), For::Other),
    (uuid!("e3c9e316-0b5c-4db8-817d-f92df00215ae"), For::Other),
    (uuid!("21686148-6449-6e6f-744e-656564454649"), For::Other),
];

/// Whether a filesystem, by partclone's name or as `swap`, is what a partition of this type is for. Types
/// and filesystems that are not known here go with everything.
pub fn goes_with(kind: PartitionKind, filesystem: &str) -> bool {
    let is_for = match kind {
        PartitionKind::Mbr(kind) => of_mbr(kind),
        PartitionKind::Gpt(kind) => {
            GPT.iter().find(|(known, _)| *known == kind).map(|(_, what)| *what)
        }
    };
    let Some(is_for) = is_for else { return true };
    match filesystem {
        "ntfs" | "exfat" => is_for == For::Windows,
        // Windows has one type for all of its filesystems in a GPT.
        "vfat" | "fat12" | "fat16" | "fat32" => {
            let is_gpt = matches!(kind, PartitionKind::Gpt(_));
            matches!(is_for, For::Fat | For::Firmware) || (is_gpt && is_for == For::Windows)
        }
        "ext2" | "ext3" | "ext4" | "extfs" | "btrfs" | "xfs" | "f2fs" => is_for == For::Linux,
        "swap" => is_for == For::Swap,
        _ => true,
    }
}

fn of_mbr(kind: u8) -> Option<For> {
    match kind {
        0x07 | 0x17 | 0x27 => Some(For::Windows),
        0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e | 0x11 | 0x14 | 0x16 | 0x1b | 0x1c | 0x1e => {
            Some(For::Fat)
        }
        0xef => Some(For::Firmware),
        0x83 => Some(For::Linux),
        0x82 => Some(For::Swap),
        0x8e | 0xfd => Some(For::Other),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_go_with_the_filesystems_that_they_are_for() {
        let mbr = PartitionKind::Mbr;
        let gpt = |index: usize| PartitionKind::Gpt(GPT[index].0);
        for (kind, filesystem, goes) in [
            (mbr(0x83), "ext4", true),
            (mbr(0x83), "ntfs", false),
            (mbr(0x83), "swap", false),
            (mbr(0x07), "ntfs", true),
            (mbr(0x07), "vfat", false),
            (mbr(0x27), "ntfs", true),
            (mbr(0x0c), "vfat", true),
            (mbr(0xef), "vfat", true),
            (mbr(0x82), "swap", true),
            (mbr(0x8e), "xfs", false),
            (mbr(0x42), "ntfs", true),
            (mbr(0x83), "dd", true),
            (gpt(0), "ntfs", true),
            (gpt(0), "vfat", true),
            (gpt(0), "ext4", false),
            (gpt(2), "vfat", true),
            (gpt(2), "ntfs", false),
            (gpt(3), "btrfs", true),
            (gpt(6), "swap", true),
            (PartitionKind::Gpt(Uuid::from_u128(1)), "ntfs", true),
        ] {
            assert_eq!(goes_with(kind, filesystem), goes, "{kind} {filesystem}");
        }
    }
}
