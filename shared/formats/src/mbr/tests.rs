use super::entry::RawEntry;
use super::*;
use crate::layout::{self, SECTOR_BYTES};
use metalcast_shared::layout::Layout;
use proptest::prelude::*;
use std::fs::File;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use tempfile::NamedTempFile;

const MIB: u64 = 1 << 20;

fn disk_file(mib: u64) -> NamedTempFile {
    let file = tempfile::Builder::new().suffix(".img").tempfile().unwrap();
    file.as_file().set_len(mib * MIB).unwrap();
    file
}

fn sfdisk(args: &[&str], disk: &NamedTempFile, script: &str) -> String {
    let mut child = Command::new("sfdisk")
        .args(args)
        .arg(disk.path())
        .args(if args.contains(&"--delete") { &["6"][..] } else { &[] })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sfdisk (package fdisk) starts");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "sfdisk {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn apply(disk: &File, writes: &[Write]) {
    for write in writes {
        disk.write_all_at(&write.bytes, write.byte_offset).unwrap();
    }
}

fn read_file(disk: &NamedTempFile) -> Result<Table, ReadError> {
    let mut file = disk.reopen().unwrap();
    let sectors = file.metadata().unwrap().len() / SECTOR_BYTES;
    read(&mut file, sectors)
}

/// The lines of `sfdisk -d` as this table would have them.
fn dump(table: &Table, disk: &NamedTempFile) -> Vec<String> {
    let name = disk.path().display();
    let lines = table.entries.iter().map(|entry| {
        let kind = entry.kind;
        let bootable = if entry.bootable { ", bootable" } else { "" };
        let (number, start, size) = (entry.number, entry.start_lba, entry.sectors);
        format!("{name}{number} : start={start}, size={size}, type={kind:x}{bootable}")
    });
    lines.collect()
}

fn sfdisk_dump(disk: &NamedTempFile) -> Vec<String> {
    let text = sfdisk(&["-d"], disk, "");
    let lines = text.lines().filter(|line| line.contains("start="));
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").replace("= ", "="))
        .collect()
}

fn centmesh() -> (Table, u64) {
    let layout = Layout {
        name: "centmesh".into(),
        boot_mib: 512,
        swap_mib: 1024,
        reserve_mib: 100,
        slots: 21,
        slot_mib: 20480,
    };
    let mib = 440_000;
    (layout::compute(&layout, mib * MIB, 512).unwrap().table(0xcafe_0123), mib)
}

#[test]
fn sfdisk_reads_what_we_write() {
    let (table, mib) = centmesh();
    let disk = disk_file(mib);
    apply(disk.as_file(), &table.writes().unwrap());
    assert_eq!(sfdisk_dump(&disk), dump(&table, &disk));
    assert!(sfdisk(&["-d"], &disk, "").contains("label-id: 0xcafe0123"));
    let verdict = sfdisk(&["--verify"], &disk, "");
    assert!(verdict.contains("No errors detected"), "{verdict}");
    assert_eq!(read_file(&disk).unwrap(), table);
}

#[test]
fn our_bytes_are_those_of_sfdisk() {
    let script = "label: dos\nlabel-id: 0x12345678\nunit: sectors\n\
        1: start=2048, size=20480, type=83, bootable\n2: start=22528, size=2048, type=82\n\
        4: start=24576, size=22528, type=f\n5: start=26624, size=8192, type=83\n\
        6: start=36864, size=8192, type=83\n";
    let disk = disk_file(64);
    sfdisk(&["-q"], &disk, script);
    let table = read_file(&disk).unwrap();
    assert_eq!(table.entries.len(), 5);
    for write in table.writes().unwrap() {
        let mut theirs = vec![0; write.bytes.len()];
        disk.as_file().read_exact_at(&mut theirs, write.byte_offset).unwrap();
        assert_eq!(write.bytes, theirs, "at byte {}", write.byte_offset);
    }
}

/// Deleting a logical in the middle and adding another leaves a chain that does not ascend.
#[test]
fn logicals_in_odd_order_are_read_as_sfdisk_reads_them() {
    let script = "label: dos\nunit: sectors\nstart=2048, size=2048\n4: start=4096, size=122880, type=5\n\
        5: start=6144, size=8192\n6: start=18432, size=8192, type=82\n7: start=40960, size=8192, type=7\n";
    let disk = disk_file(64);
    sfdisk(&["-q"], &disk, script);
    sfdisk(&["-q", "--delete"], &disk, "");
    sfdisk(&["-q", "--append"], &disk, "start=20480, size=4096, type=b\n");
    sfdisk(&["-q", "--append"], &disk, "start=65536, size=4096, type=c\n");
    let table = read_file(&disk).unwrap();
    assert_eq!(table.entries.iter().filter(|entry| entry.number > 4).count(), 4);
    assert_eq!(dump(&table, &disk), sfdisk_dump(&disk));
    let starts: Vec<u64> = table.entries[2..].iter().map(|entry| entry.start_lba).collect();
    assert!(!starts.is_sorted(), "the case is an odd order: {starts:?}");
}

#[test]
fn boot_code_is_not_part_of_a_write() {
    let (table, _) = centmesh();
    let writes = table.writes().unwrap();
    let mbr = writes.last().unwrap();
    assert_eq!((mbr.byte_offset, mbr.bytes.len()), (440, 72));
    assert!(writes[..21].iter().all(|write| write.byte_offset % MIB == 0), "EBRs at whole MiB");
}

#[test]
fn an_extended_partition_without_logicals_takes_no_old_chain_over() {
    let (mut table, mib) = centmesh();
    let disk = disk_file(mib);
    apply(disk.as_file(), &table.writes().unwrap());
    table.entries.truncate(4);
    apply(disk.as_file(), &table.writes().unwrap());
    assert_eq!(read_file(&disk).unwrap(), table);
    assert_eq!(sfdisk_dump(&disk), dump(&table, &disk));
}

fn small() -> (Table, Vec<u8>) {
    let layout = Layout {
        name: "small".into(),
        boot_mib: 1,
        swap_mib: 1,
        reserve_mib: 0,
        slots: 3,
        slot_mib: 1,
    };
    let table = layout::compute(&layout, 16 * MIB, 512).unwrap().table(7);
    let mut disk = vec![0; 16 << 20];
    for write in table.writes().unwrap() {
        let at = write.byte_offset as usize;
        disk[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }
    (table, disk)
}

fn read_bytes(disk: &[u8]) -> Result<Table, ReadError> {
    read(&mut Cursor::new(disk), disk.len() as u64 / 512)
}

#[test]
fn damaged_chains_are_errors() {
    let (table, disk) = small();
    assert_eq!(read_bytes(&disk).unwrap(), table);
    let ebr = |index: usize| table.entries[3 + index].ebr_lba.unwrap() as usize * 512;
    let link = |index: usize| ebr(index) + 0x1be + 16;

    let mut looped = disk.clone();
    looped[link(1) + 8..link(1) + 12].fill(0);
    assert!(matches!(read_bytes(&looped), Err(ReadError::Loop { .. })));

    let mut away = disk.clone();
    away[link(0) + 8..link(0) + 12].copy_from_slice(&0x00ff_0000u32.to_le_bytes());
    assert!(matches!(read_bytes(&away), Err(ReadError::OutsideExtended { .. })));

    let mut unsigned = disk.clone();
    unsigned[ebr(1) + 511] = 0;
    assert!(matches!(read_bytes(&unsigned), Err(ReadError::NoEbr { .. })));

    let mut code = disk.clone();
    code[0x1be] = 0x33;
    assert!(matches!(read_bytes(&code), Err(ReadError::BootFlag { flag: 0x33, .. })));

    let cut = read(&mut Cursor::new(&disk), 8192);
    assert!(matches!(cut, Err(ReadError::BeyondDisk { number: 4, .. })));
    assert!(matches!(read_bytes(&disk[..8 << 20]), Err(ReadError::BeyondDisk { .. })));
    assert!(matches!(read_bytes(&vec![0; 1 << 20]), Err(ReadError::NoTable)));
}

#[test]
fn a_chain_longer_than_anyone_needs_is_refused() {
    let extended = PartitionEntry {
        number: 4,
        kind: KIND_EXTENDED,
        start_lba: 1,
        sectors: 1023,
        bootable: false,
        ebr_lba: None,
    };
    let mut table = Table { signature: 1, entries: vec![extended] };
    let logical = |index: u64| PartitionEntry {
        number: 5 + index as u16,
        kind: KIND_LINUX,
        start_lba: 2 + 2 * index,
        sectors: 1,
        bootable: false,
        ebr_lba: Some(1 + 2 * index),
    };
    table.entries.extend((0..128).map(logical));
    let mut disk = vec![0; 1024 * 512];
    let apply = |disk: &mut Vec<u8>, writes: &[Write]| {
        for write in writes {
            let at = write.byte_offset as usize;
            disk[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
        }
    };
    apply(&mut disk, &table.writes().unwrap());
    assert_eq!(read_bytes(&disk).unwrap(), table, "128 are fine");
    // Links number 128 to one more.
    let (at, mut more) = (255 * 512, [0u8; 512]);
    RawEntry { flag: 0, kind: KIND_EXTENDED, start: 256, sectors: 2 }.put(&mut more, 1, 257);
    disk[at + 0x1ce..at + 0x1de].copy_from_slice(&more[0x1ce..0x1de]);
    assert!(matches!(read_bytes(&disk), Err(ReadError::TooMany)));
    table.entries.push(logical(128));
    assert_eq!(table.writes(), Err(WriteError::TooMany));
}

#[test]
fn a_table_that_contradicts_itself_is_not_written() {
    let (good, _) = small();
    let broken = |change: &dyn Fn(&mut Vec<PartitionEntry>)| {
        let mut table = good.clone();
        change(&mut table.entries);
        table.writes().unwrap_err()
    };
    assert_eq!(broken(&|e| e[1].start_lba -= 1), WriteError::Overlap { first: 1, second: 2 });
    assert_eq!(broken(&|e| e[3].sectors += 1), WriteError::Overlap { first: 5, second: 6 });
    assert_eq!(broken(&|e| e[1].sectors = 0), WriteError::Range { number: 2 });
    assert_eq!(broken(&|e| e[1].start_lba = 1 << 32), WriteError::Range { number: 2 });
    assert_eq!(broken(&|e| e.retain(|entry| entry.number != 6)), WriteError::Number { number: 7 });
    assert_eq!(broken(&|e| e.retain(|entry| entry.number != 4)), WriteError::Ebr { number: 5 });
    assert_eq!(broken(&|e| e[3].ebr_lba = None), WriteError::Ebr { number: 5 });
    assert_eq!(broken(&|e| e[5].sectors += 2048), WriteError::Ebr { number: 7 });
}

proptest! {
    #[test]
    fn no_sector_makes_the_reader_panic_or_hang(
        changes in prop::collection::vec((0usize..5, 0usize..512, any::<u8>()), 1..40)
    ) {
        let (table, mut disk) = small();
        let mut records = vec![0];
        records.extend(table.entries.iter().filter_map(|entry| entry.ebr_lba));
        for (record, offset, value) in changes {
            let lba = records[record % records.len()] as usize;
            disk[lba * 512 + offset] = value;
        }
        if let Ok(table) = read_bytes(&disk) {
            prop_assert!(table.entries.len() <= 4 + MAX_LOGICALS);
            let inside = |entry: &PartitionEntry| {
                entry.end_lba() <= 32768 || entry.kind == KIND_GPT_PROTECTIVE
            };
            prop_assert!(table.entries.iter().all(inside));
            let _ = table.writes();
        }
    }

    #[test]
    fn noise_is_no_table_that_leaves_the_disk(noise in prop::collection::vec(any::<u8>(), 0..4096)) {
        let mut noise = noise;
        if noise.len() >= 512 {
            noise[510..512].copy_from_slice(&[0x55, 0xaa]);
        }
        let _ = read_bytes(&noise);
    }
}
