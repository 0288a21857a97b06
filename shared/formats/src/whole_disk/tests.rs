//! Tables of whole disks, with sfdisk and sgdisk as judges.

use super::*;
use metalcast_shared::whole_disk::{BootCode, TableId};
use std::{fs::File, os::unix::fs::FileExt, path::Path, process::Command};

const MIB: u64 = 1 << 20;

fn tool(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{error}");
    text + &error
}

fn whole(table: DiskTable) -> WholeDisk {
    WholeDisk { sector_bytes: 512, table, swaps: Vec::new(), boot: BootCode::default() }
}

fn gpt_part(number: u16, start_lba: u64, sectors: u64) -> GptPartition {
    GptPartition {
        number,
        kind: if number == 1 { ESP } else { uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4") },
        guid: Uuid::from_u128(0x1111 << 64 | u128::from(number)),
        start_lba,
        sectors,
        attributes: 1 << 60,
        name: "Größe \"x\"".into(),
    }
}

/// To the last sector that a GPT of this many sectors leaves.
fn gpt(sectors: u64) -> WholeDisk {
    whole(DiskTable::Gpt {
        guid: Uuid::from_u128(0xabcd),
        first_lba: 34,
        slots: 128,
        partitions: vec![gpt_part(1, 2048, 2048), gpt_part(4, 4096, sectors - 33 - 4096)],
    })
}

fn mbr_part(number: u16, kind: u8, start_lba: u64, sectors: u64, ebr: Option<u64>) -> MbrPartition {
    MbrPartition { number, kind, start_lba, sectors, bootable: number == 1, ebr_lba: ebr }
}

fn mbr() -> WholeDisk {
    whole(DiskTable::Mbr {
        signature: 0x1234_abcd,
        partitions: vec![
            mbr_part(1, 7, 2048, 2048, None),
            mbr_part(2, 5, 4096, 8192, None),
            mbr_part(5, 0x83, 6144, 2048, Some(4096)),
            mbr_part(6, 0x82, 10240, 2048, Some(8193)),
        ],
    })
}

fn write(plan: &WholePlan, disk: &Path, bytes: u64) {
    let file = File::create(disk).unwrap();
    file.set_len(bytes).unwrap();
    for write in &plan.writes {
        file.write_all_at(&write.bytes, write.byte_offset).unwrap();
    }
}

#[test]
fn sgdisk_and_sfdisk_find_nothing_wrong_with_a_gpt_on_disks_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let needed = 16 * MIB;
    let image = gpt(needed / 512);
    for bytes in [needed, needed + 512, 100 * MIB] {
        let plan = plan(&image, bytes, 512).unwrap();
        write(&plan, &disk, bytes);
        let said = tool(Command::new("sgdisk").arg("-v").arg(&disk));
        assert!(said.contains("No problems found"), "{said}");
        tool(Command::new("sfdisk").args(["--verify", "-q"]).arg(&disk));
        let last = bytes / 512 - 34;
        let dump = tool(Command::new("sfdisk").arg("--dump").arg(&disk));
        for words in [
            "label-id: 00000000-0000-0000-0000-00000000ABCD",
            &format!("last-lba: {last}"),
            "uuid=00000000-0000-1111-0000-000000000004",
            "attrs=\"GUID:60\"",
        ] {
            assert!(dump.contains(words), "no {words} in {dump}");
        }
        let read = gpt::read(&mut File::open(&disk).unwrap(), bytes / 512, 512).unwrap();
        assert_eq!(read.entries[1].name, "Größe \"x\"");
        assert_eq!(
            plan.partitions.iter().map(|one| one.role).collect::<Vec<_>>(),
            [Role::Esp, Role::Data]
        );
        let id = found(&mut File::open(&disk).unwrap(), bytes, 512).unwrap().map(|table| table.id);
        assert_eq!(id, Some(image.table.id()));
    }
    assert!(matches!(
        plan(&image, needed - 512, 512),
        Err(PlanError::DoesNotFit { needed_bytes, .. }) if needed_bytes == needed
    ));
}

#[test]
fn sfdisk_finds_nothing_wrong_with_an_mbr_with_logical_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let image = mbr();
    for bytes in [needed_bytes(&image).unwrap(), 64 * MIB] {
        let plan = plan(&image, bytes, 512).unwrap();
        write(&plan, &disk, bytes);
        tool(Command::new("sfdisk").args(["--verify", "-q"]).arg(&disk));
        let dump = tool(Command::new("sfdisk").arg("--dump").arg(&disk));
        let rows: Vec<String> = dump
            .lines()
            .filter_map(|line| Some(line.split_once(" : ")?.1.replace(' ', "")))
            .collect();
        assert_eq!(
            rows,
            [
                "start=2048,size=2048,type=7,bootable",
                "start=4096,size=8192,type=5",
                "start=6144,size=2048,type=83",
                "start=10240,size=2048,type=82",
            ]
        );
        assert!(dump.contains("label-id: 0x1234abcd"), "{dump}");
        let id = found(&mut File::open(&disk).unwrap(), bytes, 512).unwrap().map(|table| table.id);
        assert_eq!(id, Some(TableId::Mbr(0x1234_abcd)));
        let logical = plan.partitions[2];
        assert_eq!((logical.start_bytes, logical.ebr_bytes), (3 * MIB, Some(2 * MIB)));
    }
}

#[test]
fn a_half_written_gpt_is_known_by_its_backup_and_a_blank_disk_by_nothing() {
    let bytes = 16 * MIB;
    let image = gpt(bytes / 512);
    let plan = plan(&image, bytes, 512).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let of = |count: usize| {
        let part = WholePlan { writes: plan.writes[..count].to_vec(), ..plan.clone() };
        write(&part, &disk, bytes);
        found(&mut File::open(&disk).unwrap(), bytes, 512).unwrap().map(|table| table.id)
    };
    assert_eq!(of(0), None);
    for count in 2..=plan.writes.len() {
        assert_eq!(of(count), Some(image.table.id()), "{count} writes");
    }
}

#[test]
fn tables_that_cannot_be_are_refused() {
    let bytes = 64 * MIB;
    assert!(matches!(plan(&mbr(), bytes, 4096), Err(PlanError::SectorSize { wanted: 512, .. })));
    let large = WholeDisk { sector_bytes: 4096, ..mbr() };
    assert!(matches!(plan(&large, 1 << 30, 4096), Err(PlanError::MbrSectors { .. })));
    let changed = |change: fn(&mut GptPartition)| {
        let mut image = gpt(bytes / 512);
        let DiskTable::Gpt { partitions, .. } = &mut image.table else { panic!() };
        change(&mut partitions[1]);
        plan(&image, bytes, 512)
    };
    assert!(changed(|_| ()).is_ok());
    for change in [
        (|part| part.start_lba = 4095) as fn(&mut GptPartition),
        |part| part.start_lba = 20,
        |part| part.sectors = 0,
        |part| part.sectors += 1,
        |part| part.sectors = u64::MAX,
        |part| part.start_lba = u64::MAX,
        |part| part.number = 0,
        |part| part.number = 1,
        |part| part.number = 129,
        |part| part.kind = Uuid::nil(),
        |part| part.name = "x".repeat(37),
    ] {
        assert!(changed(change).is_err());
    }
    for slots in [0, 5000, u32::MAX] {
        let mut image = gpt(bytes / 512);
        let DiskTable::Gpt { slots: room, .. } = &mut image.table else { panic!() };
        *room = slots;
        assert!(plan(&image, bytes, 512).is_err(), "{slots}");
    }
}

#[test]
fn a_gpt_on_sectors_of_4_kib_is_written_and_read() {
    let bytes = 64 * MIB;
    let mut image = gpt(bytes / 4096);
    image.sector_bytes = 4096;
    let plan = plan(&image, bytes, 4096).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    write(&plan, &disk, bytes);
    let table = gpt::read(&mut File::open(&disk).unwrap(), bytes / 4096, 4096).unwrap();
    assert_eq!((table.entries.len(), table.last_lba), (2, bytes / 4096 - 6));
}

/// What sfdisk says of each partition: first sector and length.
fn rows(disk: &Path) -> Vec<(u64, u64)> {
    let dump = tool(Command::new("sfdisk").arg("--dump").arg(disk));
    let number = |line: &str, key: &str| {
        let rest = line.split_once(key).unwrap().1.trim_start();
        rest.split(',').next().unwrap().trim().parse().unwrap()
    };
    let rows = dump.lines().filter(|line| line.contains(" : "));
    rows.map(|line| (number(line, "start="), number(line, "size="))).collect()
}

#[test]
fn the_last_partition_of_a_gpt_takes_the_rest_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let needed = 16 * MIB;
    let image = gpt(needed / 512);
    assert_eq!(last_growable(&image, |_| true), Some(4));
    assert_eq!(last_growable(&image, |number| number < 4), Some(1));
    assert_eq!(last_growable(&image, |_| false), None);
    let was = needed / 512 - 33 - 4096;
    for (bytes, more) in [(needed, 0), (needed + MIB / 2, 0), (100 * MIB, 84), (99 * MIB + 512, 83)]
    {
        let grown = grown(&image, 4, bytes).unwrap();
        assert_eq!((grown.was_bytes, grown.bytes), (was * 512, was * 512 + more * MIB));
        assert_eq!(grown.moved, []);
        write(&plan(&grown.whole, bytes, 512).unwrap(), &disk, bytes);
        let said = tool(Command::new("sgdisk").arg("-v").arg(&disk));
        assert!(said.contains("No problems found"), "{said}");
        assert_eq!(rows(&disk), [(2048, 2048), (4096, was + more * 2048)]);
    }
    assert_eq!(grown(&image, 1, 1 << 30), Err(GrowError::Blocked { number: 1, behind: 4 }));
    let error = grown(&image, 7, 1 << 30).unwrap_err().to_string();
    assert_eq!(error, "the image's disk has no partition 7; it has 1, 4");
}

#[test]
fn swap_behind_the_partition_that_grows_moves_to_the_end_with_its_frame() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    // As Debian's installer does it: a root, and swap in a logical partition.
    let mut image = whole(DiskTable::Mbr {
        signature: 1,
        partitions: vec![
            mbr_part(1, 0x83, 2048, 20480, None),
            mbr_part(2, 5, 24574, 4098, None),
            mbr_part(5, 0x82, 24576, 4096, Some(24574)),
        ],
    });
    assert_eq!(grown(&image, 1, 64 * MIB), Err(GrowError::Blocked { number: 1, behind: 5 }));
    image.swaps =
        vec![metalcast_shared::whole_disk::Swap { number: 5, uuid: None, label: String::new() }];
    for (number, what) in [(2, "the extended one"), (5, "swap")] {
        assert_eq!(grown(&image, number, 64 * MIB), Err(GrowError::WhatItIs { number, what }));
    }
    let grown = grown(&image, 1, 64 * MIB).unwrap();
    assert_eq!((grown.bytes, grown.moved), (60 * MIB, vec![2, 5]));
    write(&plan(&grown.whole, 64 * MIB, 512).unwrap(), &disk, 64 * MIB);
    tool(Command::new("sfdisk").args(["--verify", "-q"]).arg(&disk));
    let moved = 50 * 2048;
    let end = 64 * 2048;
    assert_eq!(
        rows(&disk),
        [(2048, 20480 + moved), (24574 + moved, 4098), (24576 + moved, end - 24576 - moved)]
    );
}

#[test]
fn a_logical_partition_grows_with_its_frame() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let mut image = mbr();
    image.swaps =
        vec![metalcast_shared::whole_disk::Swap { number: 6, uuid: None, label: String::new() }];
    let grown = grown(&image, 5, 32 * MIB).unwrap();
    assert_eq!(grown.moved, [6]);
    write(&plan(&grown.whole, 32 * MIB, 512).unwrap(), &disk, 32 * MIB);
    tool(Command::new("sfdisk").args(["--verify", "-q"]).arg(&disk));
    let more = 26 * 2048;
    assert_eq!(
        rows(&disk),
        [(2048, 2048), (4096, 8192 + more), (6144, 2048 + more), (10240 + more, 2048)]
    );
    // Beyond two TiB an MBR has no numbers.
    let far = super::grown(&image, 5, 5 << 40).unwrap();
    assert!(far.bytes < 2 << 40 && plan(&far.whole, 5 << 40, 512).is_ok());
}
