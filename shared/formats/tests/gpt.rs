//! GUID partition tables that sfdisk made, whole and damaged.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use metalcast_formats::gpt::{self, ReadError, Table};
use proptest::prelude::*;
use std::{
    io::{Cursor, Write},
    process::{Command, Stdio},
    sync::LazyLock,
};

const SECTORS: u64 = 4096;

/// A disk of 2 MiB with three partitions.
fn disk() -> Vec<u8> {
    static DISK: LazyLock<Vec<u8>> = LazyLock::new(made_by_sfdisk);
    DISK.clone()
}

fn made_by_sfdisk() -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SECTORS * 512).unwrap();
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.arg("-q").arg(file.path()).stdin(Stdio::piped());
    let mut sfdisk = sfdisk.spawn().unwrap();
    let script = "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\n\
         start=64,size=100,type=U,name=first\nstart=200,size=1000,type=L,attrs=\"GUID:60\"\n\
         start=2000,size=2000,type=S,uuid=AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE\n";
    sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    std::fs::read(file.path()).unwrap()
}

fn read(disk: &[u8]) -> Result<Table, ReadError> {
    gpt::read(&mut Cursor::new(disk), SECTORS, 512)
}

/// Makes the check sums of the primary table right again.
fn sum(disk: &mut [u8]) {
    let entries = crc32fast::hash(&disk[1024..1024 + 128 * 128]);
    disk[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
    disk[512 + 16..512 + 20].fill(0);
    let header = crc32fast::hash(&disk[512..512 + 92]);
    disk[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
}

#[test]
fn what_sfdisk_wrote_is_read_and_the_backup_where_the_first_is_damaged() {
    let mut disk = disk();
    let table = read(&disk).unwrap();
    assert_eq!(table.disk_guid.to_string(), "11111111-2222-3333-4444-555555555555");
    assert_eq!((table.slots, table.last_lba), (128, SECTORS - 34));
    let places: Vec<_> =
        table.entries.iter().map(|one| (one.number, one.start_lba, one.sectors)).collect();
    assert_eq!(places, [(1, 64, 100), (2, 200, 1000), (3, 2000, 2000)]);
    assert_eq!(table.entries[0].name, "first");
    assert_eq!(table.entries[1].attributes, 1 << 60);
    assert_eq!(table.entries[2].guid.to_string(), "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    for damaged in [512 + 60, 1024 + 32] {
        disk[damaged] ^= 1;
        assert_eq!(read(&disk).unwrap(), table, "byte {damaged}");
        disk[damaged] ^= 1;
    }
    disk[512] ^= 1;
    *disk.last_chunk_mut::<512>().unwrap() = [0; 512];
    let error = read(&disk).unwrap_err().to_string();
    assert!(error.contains("there is no header; its backup: there is no header"), "{error}");
}

#[test]
fn partitions_that_overlap_or_leave_the_disk_are_refused() {
    let good = disk();
    // First and last sector of the second partition.
    for (first, last) in [(100u64, 1199u64), (200, 2000), (200, 199), (200, u64::MAX), (3, 1199)] {
        let mut disk = good.clone();
        disk[1152 + 32..1152 + 40].copy_from_slice(&first.to_le_bytes());
        disk[1152 + 40..1152 + 48].copy_from_slice(&last.to_le_bytes());
        sum(&mut disk);
        *disk.last_chunk_mut::<512>().unwrap() = [0; 512];
        let error = read(&disk).unwrap_err().to_string();
        assert!(error.contains("overlap or leave"), "{first} to {last}: {error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(changes in prop::collection::vec((0..92usize, any::<u8>()), 1..8),
                              entries in prop::collection::vec((0..384usize, any::<u8>()), 0..8)) {
        let mut disk = disk();
        changes.into_iter().for_each(|(at, value)| disk[512 + at] = value);
        entries.into_iter().for_each(|(at, value)| disk[1024 + at] = value);
        sum(&mut disk);
        if let Ok(table) = read(&disk) {
            let end = |entry: &gpt::Entry| entry.start_lba + entry.sectors;
            prop_assert!(table.entries.iter().all(|entry| end(entry) <= SECTORS));
        }
    }
}
