use super::*;
use crate::{
    chunk::Sealed,
    region::{ReadAt, Region},
};
use std::io;

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// A disk in memory, of which a part may be unreadable.
#[derive(Debug)]
struct Memory {
    bytes: Vec<u8>,
    bad: Option<u64>,
}

impl ReadAt for Memory {
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        if self.bad.is_some_and(|bad| (offset..end).contains(&bad)) {
            return Err(io::Error::other("bad sector"));
        }
        self.bytes[..].fill_at(buffer, offset)
    }
}

/// 64 sectors with these partitions (type, first sector, sectors).
fn disk(entries: &[(u8, u32, u32)]) -> Memory {
    let mut bytes = vec![0; 64 * SECTOR];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (row, (kind, start, sectors)) in bytes[446..510].chunks_exact_mut(16).zip(entries) {
        row[4] = *kind;
        row[8..12].copy_from_slice(&start.to_le_bytes());
        row[12..16].copy_from_slice(&sectors.to_le_bytes());
    }
    Memory { bytes, bad: None }
}

fn read(medium: Memory, name: &str) -> Result<Source<Memory>, CaptureError> {
    let facts = SourceFacts {
        name: name.to_owned(),
        model: "Memory".to_owned(),
        bytes: medium.bytes.len() as u64,
        sector_bytes: 512,
        is_partition: false,
    };
    Source::read(medium, facts)
}

/// The decoded chunks of a partition.
fn sealed(source: &Source<Memory>, planned: &Planned) -> Result<Vec<u8>, CaptureError> {
    let region = Region::new(&source.medium, planned.start, planned.bytes_of_partition);
    let mut data = Vec::new();
    seal(
        region,
        planned,
        2,
        || Ok::<_, CaptureError>(()),
        |Sealed { frame, .. }| {
            data.extend(zstd::stream::decode_all(&frame[..]).unwrap());
            Ok(())
        },
    )?;
    Ok(data)
}

/// Data in sectors 8 to 23, an extended partition that never held a logical one, and swap.
fn sample() -> Memory {
    let mut medium = disk(&[(0x83, 8, 16), (5, 24, 8), (0x82, 32, 32)]);
    medium.bytes[8 * SECTOR..24 * SECTOR].fill(b'x');
    medium.bytes[2 * SECTOR] = b'g';
    medium
}

#[test]
fn a_disk_becomes_the_data_and_the_files_of_an_image() {
    let source = read(sample(), "nvme0n1").unwrap();
    let planned = plan(&source, Blocks::Used).unwrap();
    let names: Vec<_> = planned.iter().map(|one| one.facts.name.as_str()).collect();
    assert_eq!(names, ["nvme0n1p1", "nvme0n1p2", "nvme0n1p3"]);
    assert_eq!(planned[0].file_name().as_deref(), Some("nvme0n1p1.dd-ptcl-img.zst"));
    assert!(planned[1].is_extended() && planned[1].file_name().is_none());
    assert_eq!(sealed(&source, &planned[0]).unwrap(), [b'x'; 16 * SECTOR]);
    assert_eq!(sealed(&source, &planned[1]).unwrap(), []);
    let mut head = Vec::new();
    planned[0].write_head(&mut head).unwrap();
    assert_eq!(head, [], "a raw image has none");

    let mut files = Vec::new();
    side_files(&source, &planned, |name, bytes| {
        files.push((name.to_owned(), bytes.to_vec()));
        Ok::<_, CaptureError>(())
    })
    .unwrap();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "dev-fs.list",
            "blkid.list",
            "nvme0n1-pt.sf",
            "nvme0n1-chs.sf",
            "nvme0n1-pt.parted",
            "nvme0n1-mbr",
            "nvme0n1-hidden-data-after-mbr",
            "nvme0n1p2-ebr",
            "disk",
            "parts",
        ]
    );
    let gap = &files[6].1;
    assert_eq!((gap.len(), gap[SECTOR]), (7 * SECTOR, b'g'), "up to the first partition");
    let log = log(&planned, "memory", "2026-01-02T03:04:05Z".parse().unwrap());
    assert!(log.contains("### Image created time: 2026-0102-0304\n"), "{log}");
}

#[test]
fn without_a_table_it_is_one_partition() {
    let medium = Memory { bytes: vec![7; 3 * SECTOR], bad: None };
    let source = read(medium, "sdb1").unwrap();
    let planned = plan(&source, Blocks::Every).unwrap();
    assert!(source.disk.is_none());
    assert_eq!(planned[0].facts.name, "sdb1");
    assert_eq!(sealed(&source, &planned[0]).unwrap(), [7; 3 * SECTOR]);
}

#[test]
fn what_cannot_be_read_is_named_by_its_place() {
    let mut medium = sample();
    medium.bad = Some(13 * SECTOR as u64);
    let source = read(medium, "sda").unwrap_err();
    assert!(matches!(source, CaptureError::Read { .. }), "{source}");
    let mut source = read(sample(), "sda").unwrap();
    let planned = plan(&source, Blocks::Used).unwrap();
    source.medium.bad = Some(17 * SECTOR as u64);
    let error = sealed(&source, &planned[0]).unwrap_err().to_string();
    assert_eq!(
        error,
        "bytes 4096 to 8191 of sda1 (bytes 8192 to 12287 of the disk) cannot be read"
    );
}

#[test]
fn a_suspended_system_is_refused_unless_it_is_wanted() {
    let mut medium = sample();
    let swap = 32 * SECTOR;
    medium.bytes[swap + PAGE - 10..swap + PAGE].copy_from_slice(b"S1SUSPEND\0");
    let source = read(medium, "sda").unwrap();
    let error = plan(&source, Blocks::Used).unwrap_err();
    assert!(error.to_string().starts_with("sda3: it holds the memory of"), "{error}");
    let planned = plan(&source, Blocks::UsedOrUnclean).unwrap();
    assert!(planned[2].is_swap() && !planned[2].unclean().is_empty());
    let planned = plan(&source, Blocks::Every).unwrap();
    assert_eq!(planned[2].bytes(), 32 * SECTOR as u64);
}

#[test]
fn what_is_no_source_is_refused() {
    for name in ["", "1a", "../sda", "sd a", &"a".repeat(33)] {
        assert!(matches!(read(sample(), name), Err(CaptureError::Name(_))), "{name}");
    }
    let beyond = read(disk(&[(0x83, 8, 100)]), "sda").unwrap_err();
    assert!(matches!(beyond, CaptureError::Mbr(_)), "{beyond}");
    let guard = read(disk(&[(0xee, 1, 63)]), "sda").unwrap_err();
    assert!(matches!(guard, CaptureError::OnlyGuard), "{guard}");
    let source = read(disk(&[(5, 8, 8)]), "sda").unwrap();
    assert!(matches!(plan(&source, Blocks::Every), Err(CaptureError::Nothing)));
    let empty = read(Memory { bytes: Vec::new(), bad: None }, "sda").unwrap();
    assert!(matches!(plan(&empty, Blocks::Used), Err(CaptureError::Used { .. })));
}
