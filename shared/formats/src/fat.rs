//! What the boot sector of a FAT says of the volume, and that sector's copy where there is one: the serial
//! number, by which Linux calls it `UUID=`, and where on its disk it is.

use crate::{
    bpb,
    bytes::{le_u16, le_u32},
};

/// As much of a volume as [`Labelled::of`] looks at, in bytes.
pub const SECTOR_BYTES: usize = 512;

const UNIT_AT: usize = 0x0b;
const COPY_AT: usize = 0x32;

/// Where the type is, and where the serial number is if it is that one.
const TYPES: [(usize, &[u8], usize); 3] =
    [(0x52, b"FAT32   ", 0x43), (0x36, b"FAT16   ", 0x27), (0x36, b"FAT12   ", 0x27)];

/// A boot sector with a serial number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The sector.
    pub sector: [u8; SECTOR_BYTES],
    /// The serial number.
    pub serial: u32,
    /// Where the sector's copy is, in bytes from the start of the volume: only a FAT32 has one.
    pub copy_at: Option<u64>,
    serial_at: usize,
}

impl Labelled {
    /// `None` if it is none of a FAT.
    pub fn of(sector: &[u8; SECTOR_BYTES]) -> Option<Self> {
        let is = |(at, name, _): &&(usize, &[u8], usize)| sector[*at..*at + name.len()] == **name;
        let &(_, name, serial_at) = TYPES.iter().find(is)?;
        let unit = le_u16(sector, UNIT_AT);
        if sector[0x1fe..] != [0x55, 0xaa] || !matches!(unit, 512 | 1024 | 2048 | 4096) {
            return None;
        }
        let copy = Some(le_u16(sector, COPY_AT))
            .filter(|copy| name.starts_with(b"FAT32") && !matches!(*copy, 0 | u16::MAX));
        let copy_at = copy.map(|copy| u64::from(copy) * u64::from(unit));
        Some(Self { sector: *sector, serial: le_u32(sector, serial_at), copy_at, serial_at })
    }

    /// With another serial number.
    #[must_use]
    pub fn with_serial(mut self, serial: u32) -> Self {
        self.sector[self.serial_at..self.serial_at + 4].copy_from_slice(&serial.to_le_bytes());
        self.serial = serial;
        self
    }

    /// Beginning at `start_bytes` of its disk. Besides it the first sector that it had and that it has.
    pub fn placed_at(mut self, start_bytes: u64) -> (Self, [u32; 2]) {
        let moved = bpb::set_place(&mut self.sector, start_bytes);
        (self, moved)
    }
}

/// A serial number as `blkid` prints it.
pub fn serial_text(serial: u32) -> String {
    format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, os::unix::fs::FileExt, process::Command};

    fn run(command: &mut Command) -> String {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn the_tools_read_another_serial_and_find_nothing_wrong() {
        for (width, mib) in [("12", 4), ("16", 32), ("32", 64)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(mib << 20).unwrap();
            run(Command::new("mkfs.vfat").args(["-F", width, "-i", "12345678"]).arg(file.path()));
            let disk = File::options().read(true).write(true).open(file.path()).unwrap();
            let mut sector = [0; SECTOR_BYTES];
            disk.read_exact_at(&mut sector, 0).unwrap();
            let fat = Labelled::of(&sector).unwrap();
            assert_eq!(
                (serial_text(fat.serial).as_str(), width == "32"),
                ("1234-5678", fat.copy_at.is_some())
            );
            let (new, [_, is]) = fat.with_serial(0xabc).placed_at(5 << 20);
            assert_eq!((is, bpb::sector_bytes(&new.sector)), (10240, Some(512)));
            disk.write_all_at(&new.sector, 0).unwrap();
            if let Some(at) = new.copy_at {
                disk.write_all_at(&new.sector, at).unwrap();
            }
            let id = run(Command::new("blkid")
                .args(["-p", "-o", "value", "-s", "UUID"])
                .arg(file.path()));
            assert_eq!(id, serial_text(0xabc));
            run(Command::new("fsck.vfat").arg("-n").arg(file.path()));
        }
    }

    #[test]
    fn what_is_no_fat_is_left_alone() {
        assert_eq!(Labelled::of(&[0; SECTOR_BYTES]), None);
        let mut sector = [0xff; SECTOR_BYTES];
        sector[0x52..0x5a].copy_from_slice(b"FAT32   ");
        assert_eq!(Labelled::of(&sector), None, "no end of a boot sector");
    }
}
