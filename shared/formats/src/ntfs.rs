//! The boot sector of an NTFS, fitted to the place that the volume has on its disk.
//!
//! Windows' boot code reads the volume by "hidden sectors", the sector of the disk that the volume begins
//! at. A copy of the sector lies right behind the volume, where no image has it: it belongs to no cluster.

use crate::{
    bpb,
    bytes::{le_u16, le_u64},
};

/// As much of a volume as [`fitted`] looks at, in bytes.
pub const SECTOR_BYTES: usize = 512;

const MAGIC: &[u8] = b"NTFS    ";
const MAGIC_AT: usize = 3;
const UNIT_AT: usize = 0x0b;
const TOTAL_AT: usize = 0x28;

/// A boot sector for one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// The sector.
    pub sector: [u8; SECTOR_BYTES],
    /// What it said of the place, in sectors from the disk's start.
    pub was: u32,
    /// What it says now.
    pub is: u32,
    /// Where its copy belongs, in bytes from the start of the volume.
    pub copy_at: u64,
}

/// The boot sector for a volume that begins at `start_bytes` of its disk; `None` if it is none of an NTFS.
pub fn fitted(sector: &[u8; SECTOR_BYTES], start_bytes: u64) -> Option<Fitted> {
    let unit = u64::from(le_u16(sector, UNIT_AT));
    let is_ntfs = &sector[MAGIC_AT..MAGIC_AT + MAGIC.len()] == MAGIC
        && unit.is_power_of_two()
        && (256..=4096).contains(&unit);
    let total = le_u64(sector, TOTAL_AT);
    let copy_at = total.checked_mul(unit).filter(|_| is_ntfs && total > 0)?;
    let mut sector = *sector;
    let [was, is] = bpb::set_place(&mut sector, start_bytes);
    Some(Fitted { sector, was, is, copy_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, os::unix::fs::FileExt, process::Command};

    #[test]
    fn the_copy_lies_where_mkfs_put_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = 8 << 20;
        file.as_file().set_len(bytes).unwrap();
        let made = Command::new("mkfs.ntfs").args(["-q", "-f", "-F"]).arg(file.path()).output();
        assert!(made.unwrap().status.success());
        let read = |at: u64| {
            let mut sector = [0; SECTOR_BYTES];
            File::open(file.path()).unwrap().read_exact_at(&mut sector, at).unwrap();
            sector
        };
        let first = read(0);
        let fitted = fitted(&first, 1 << 20).unwrap();
        assert_eq!((fitted.is, fitted.copy_at), (2048, bytes - 512));
        assert_eq!(read(fitted.copy_at), first);
        let [track, heads] = [0x18, 0x1a].map(|at| le_u16(&fitted.sector, at));
        assert_eq!((track, heads, bpb::sector_bytes(&first)), (63, 255, Some(512)));
        let again = super::fitted(&fitted.sector, 1 << 20).unwrap();
        assert_eq!((again.was, again.sector), (2048, fitted.sector));
        let far = super::fitted(&fitted.sector, 1 << 50).unwrap();
        assert_eq!(far.is, 2048, "what cannot be said stays");
    }

    #[test]
    fn what_is_no_ntfs_is_left_alone() {
        assert_eq!(fitted(&[0; SECTOR_BYTES], 0), None);
        let mut sector = [0xff; SECTOR_BYTES];
        sector[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(MAGIC);
        assert_eq!(fitted(&sector, 0), None, "sectors of 65535 bytes");
        sector[UNIT_AT..UNIT_AT + 2].copy_from_slice(&512u16.to_le_bytes());
        assert_eq!(fitted(&sector, 0), None, "a volume without end");
    }
}
