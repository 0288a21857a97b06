//! How large a filesystem is by its own account, which may be less than its partition.

use super::{Contents, Kind};
use crate::{
    bytes::{be_u32, be_u64, le_u16, le_u64},
    ext,
};
use std::io::{self, Read, Seek, SeekFrom};

/// As much of a filesystem's start as is looked at: to the end of btrfs' superblock.
const HEAD_BYTES: u64 = (64 << 10) + 4096;
/// Where btrfs has its superblock, the size of all its devices, and its record of this one.
const BTRFS_AT: usize = 64 << 10;
const BTRFS_TOTAL_AT: usize = BTRFS_AT + 0x70;
const BTRFS_DEVICE_AT: usize = BTRFS_AT + 0xc9;

/// A filesystem that can be made to take more of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growable {
    /// One of ext2, ext3, ext4, XFS, btrfs, NTFS.
    pub kind: Kind,
    /// Its size.
    pub bytes: u64,
    /// What btrfs calls this device.
    pub device_id: u64,
}

/// What of this can grow in the `contents` of a partition that begins where `device` does.
pub fn growable<D: Read + Seek>(
    device: &mut D,
    contents: &Contents,
) -> io::Result<Option<Growable>> {
    const KINDS: [Kind; 6] =
        [Kind::Ext4, Kind::Ext3, Kind::Ext2, Kind::Xfs, Kind::Btrfs, Kind::Ntfs];
    let Some(kind) = KINDS.into_iter().find(|kind| contents.find(*kind).is_some()) else {
        return Ok(None);
    };
    let mut head = Vec::new();
    device.seek(SeekFrom::Start(0))?;
    device.take(HEAD_BYTES).read_to_end(&mut head)?;
    head.resize(HEAD_BYTES as usize, 0);
    let bytes = match kind {
        Kind::Xfs => be_u64(&head, 8).saturating_mul(u64::from(be_u32(&head, 4))),
        Kind::Btrfs => le_u64(&head, BTRFS_TOTAL_AT),
        Kind::Ntfs => le_u64(&head, 0x28).saturating_mul(u64::from(le_u16(&head, 0x0b))),
        _ => ext::Superblock::parse(&head[ext::OFFSET_BYTES as usize..])
            .map_err(io::Error::other)?
            .bytes(),
    };
    Ok(Some(Growable { kind, bytes, device_id: le_u64(&head, BTRFS_DEVICE_AT) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::probe;
    use std::{fs::File, process::Command};

    const MIB: u64 = 1 << 20;

    /// A filesystem of `mib` MiB in a file of one more, measured.
    fn made(mib: u64, command: &[&str]) -> Option<Growable> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(mib * MIB).unwrap();
        let output = Command::new(command[0]).args(&command[1..]).arg(file.path()).output();
        assert!(output.unwrap().status.success(), "{command:?}");
        file.as_file().set_len((mib + 1) * MIB).unwrap();
        let mut file = File::open(file.path()).unwrap();
        let contents = probe(&mut file, 0, (mib + 1) * MIB).unwrap();
        growable(&mut file, &contents).unwrap()
    }

    #[test]
    fn the_size_is_what_the_tools_made_it() {
        for (mib, kind, command) in [
            (16, Kind::Ext2, &["mke2fs", "-q", "-F"][..]),
            (16, Kind::Ext4, &["mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024"]),
            (304, Kind::Xfs, &["mkfs.xfs", "-q"]),
            (128, Kind::Btrfs, &["mkfs.btrfs", "-q"]),
        ] {
            let found = made(mib, command).unwrap();
            assert_eq!((found.kind, found.bytes), (kind, mib * MIB), "{command:?}");
            if kind == Kind::Btrfs {
                assert_eq!(found.device_id, 1);
            }
        }
        // NTFS leaves the last sector to the copy of its first, and counts clusters.
        let ntfs = made(16, &["mkfs.ntfs", "-q", "-f", "-F"]).unwrap();
        assert!((16 * MIB - 8192..16 * MIB).contains(&ntfs.bytes), "{ntfs:?}");
        assert_eq!(made(16, &["mkfs.vfat"]), None);
    }
}
