//! Partclone images: those of the real tools are read, damaged ones are refused where they are
//! damaged, and what is written is accepted by the real tools.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use metalcast_formats::partclone::{
    Bitmap, Checksums, HeadFacts, ReadError, Reader, Version, head_bytes, write_head,
};
use proptest::prelude::*;
use std::{path::Path, process::Command};

const BLOCK: usize = 1024;
const GOOD: [&str; 9] = [
    "ext2-v1-0001.img",
    "ext2-v2-crc32-k1.img",
    "ext2-v2-crc32-k7-noreseed.img",
    "ext2-v2-crc32-k7-reseed.img",
    "ext2-v2-crc32.img",
    "ext2-v2-nochecksum.img",
    "ext2-v2-xxh128-k7-noreseed.img",
    "ext2-v2-xxh128.img",
    "ext2-v2-xxh64.img",
];

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/partclone").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The whole image: its bitmap and its used blocks, read `step` blocks at a time.
fn read_all(image: &[u8], step: u32) -> Result<(Bitmap, Vec<u8>), ReadError> {
    let mut reader = Reader::open(image)?;
    let mut data = Vec::new();
    while reader.read_blocks(step, &mut data)? > 0 {}
    let bitmap = reader.bitmap().clone();
    reader.finish()?;
    Ok((bitmap, data))
}

#[test]
fn images_of_every_version_hold_the_used_blocks_of_their_source() {
    let source = fixture("ext2-source-device.raw");
    for name in GOOD {
        let image = fixture(name);
        for step in [1, 5, 7, 100] {
            let (bitmap, data) = read_all(&image, step).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((bitmap.blocks(), bitmap.count_used()), (64, 24), "{name}");
            let used: Vec<u8> = (0..64)
                .filter(|block| bitmap.is_used(*block))
                .flat_map(|block| &source[block as usize * BLOCK..][..BLOCK])
                .copied()
                .collect();
            assert!(data == used, "{name}: blocks differ when {step} are read at once");
        }
        let reader = Reader::open(&image[..]).unwrap();
        let header = reader.header();
        assert_eq!(header.version == Version::V1, name.contains("v1"), "{name}");
        assert_eq!(header.checksums == Checksums::None, name.contains("nochecksum"), "{name}");
        assert_eq!(
            (header.filesystem.as_str(), header.device_bytes, header.block_bytes),
            ("EXTFS", 65536, 1024),
            "{name}"
        );
    }
}

#[test]
fn damaged_images_are_refused_at_the_checksum_that_shows_it() {
    for (name, expected) in [
        ("BAD-header-byte.img", "byte 106: the header's checksum"),
        ("BAD-bitmap-bit.img", "byte 118: the bitmap's checksum"),
        ("BAD-payload-bit.img", "byte 24698: the checksum before used block 24"),
        ("BAD-last-crc.img", "byte 24698: the checksum before used block 24"),
        ("BAD-truncated.img", "the image ends at byte 23702, within used block"),
    ] {
        let error = read_all(&fixture(name), 4).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{name}: {error}");
    }
}

#[test]
fn every_flipped_bit_under_a_checksum_and_every_cut_is_noticed() {
    for name in ["ext2-v2-crc32-k7-noreseed.img", "ext2-v2-xxh128.img", "ext2-v2-xxh64.img"] {
        let image = fixture(name);
        for at in (0..image.len()).step_by(37) {
            let mut damaged = image.clone();
            damaged[at] ^= 0x10;
            assert!(read_all(&damaged, 9).is_err(), "{name}: bit flip at {at} went unnoticed");
        }
    }
    for name in GOOD {
        let image = fixture(name);
        for end in (0..image.len()).step_by(101).chain([image.len() - 1]) {
            let error = read_all(&image[..end], 9).unwrap_err();
            assert!(
                matches!(error, ReadError::Truncated { offset, .. } if offset == end as u64),
                "{name} cut at {end}: {error}"
            );
        }
        let longer = [&image[..], b"\0"].concat();
        let error = read_all(&longer, 9).unwrap_err();
        assert!(
            matches!(error, ReadError::Trailing { offset } if offset == image.len() as u64),
            "{name} with a byte more: {error}"
        );
    }
}

/// Bytes to put at an offset.
type Change<'b> = (usize, &'b [u8]);

/// A header of the real tool with some bytes replaced and its CRC made right again.
fn with_header(changes: &[Change<'_>]) -> Vec<u8> {
    let mut image = fixture("ext2-v2-crc32.img");
    for (at, bytes) in changes {
        image[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    let crc = !crc32fast::hash(&image[..106]);
    image[106..110].copy_from_slice(&crc.to_le_bytes());
    image
}

#[test]
fn headers_that_no_image_may_have_are_refused() {
    let huge = u64::MAX.to_le_bytes();
    let cases: [(&[Change<'_>], &str); 12] = [
        (&[(0, b"X")], "not a partclone image"),
        (&[(30, b"0003")], "byte 30: partclone image version \"0003\" is not supported"),
        (&[(34, &[0xc0, 0xde])], "byte 34: an image of a big-endian machine"),
        (&[(52, &[0, 0xff, 0])], "byte 60: more blocks than"),
        (&[(60, &huge)], "byte 60: an image of"),
        (&[(76, &huge)], "byte 76: more used blocks"),
        (&[(84, &[0, 0])], "byte 84: block size 0"),
        (&[(84, &[0, 0, 0, 5])], "byte 84: block size 83886080"),
        (&[(96, &[0x32])], "byte 96: checksum mode 0x32"),
        (&[(98, &[8])], "byte 98: the checksums' size"),
        (&[(100, &[0, 0, 0, 0])], "byte 100: checksums over groups of no blocks"),
        (&[(105, &[2])], "byte 105: bitmap mode 2"),
    ];
    for (changes, expected) in cases {
        let error = read_all(&with_header(changes), 9).unwrap_err().to_string();
        assert!(error.starts_with(expected), "wanted {expected}, got {error}");
    }
}

#[test]
fn an_image_of_16_tib_that_is_not_there_costs_no_memory() {
    // 2^32 blocks of 4 KiB promised, in each bitmap mode, then nothing.
    for mode in [0, 1, 8] {
        let image = with_header(&[
            (52, &(1u64 << 44).to_le_bytes()),
            (60, &(1u64 << 32).to_le_bytes()),
            (84, &4096u32.to_le_bytes()),
            (105, &[mode]),
        ]);
        assert!(matches!(read_all(&image[..110], 256), Err(ReadError::Truncated { .. })));
    }
    assert!(peak_memory_kib() < 200 << 10, "{} KiB", peak_memory_kib());
}

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn images_without_bitmap_or_with_one_of_bytes_are_read() {
    let device = fixture("ext2-source-device.raw");
    let header = with_header(&[(96, &[0; 8]), (105, &[0])]);
    let (bitmap, data) = read_all(&[&header[..110], &device].concat(), 7).unwrap();
    assert_eq!(bitmap.count_used(), 64);
    assert!(data == device);

    let header = with_header(&[(96, &[0; 8]), (105, &[8])]);
    // Only 1 means used; other values occur in old images.
    let bytes: Vec<u8> = (0..64).map(|block| [1, 0, 2][block % 3]).collect();
    let blocks = &device[..22 * BLOCK];
    let image = [&header[..110], &bytes, b"BiTmAgIc", blocks].concat();
    let (bitmap, data) = read_all(&image, 7).unwrap();
    assert_eq!(bitmap.count_used(), 22);
    assert!(bitmap.is_used(63) && !bitmap.is_used(62));
    assert!(data == blocks);
    let image = [&header[..110], &bytes, b"BiTmAgIx", blocks].concat();
    assert!(matches!(read_all(&image, 7), Err(ReadError::Invalid { offset: 174, .. })));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
}

#[test]
fn real_partclone_accepts_and_restores_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let device = fixture("ext2-source-device.raw");
    let (used, _) = read_all(&fixture("ext2-v2-crc32.img"), 64).unwrap();
    for bitmap in [used, Bitmap::all_used(64), Bitmap::all_used(61)] {
        let facts = HeadFacts { filesystem: "EXTFS", device_bytes: 65536, block_bytes: 1024 };
        let mut image = Vec::new();
        write_head(&mut image, &facts, &bitmap).unwrap();
        assert_eq!(image.len() as u64, head_bytes(&bitmap));
        let mut expected = vec![0; 65536];
        for block in (0..64).filter(|block| bitmap.is_used(*block)) {
            let range = block as usize * BLOCK..(block as usize + 1) * BLOCK;
            image.extend_from_slice(&device[range.clone()]);
            expected[range.clone()].copy_from_slice(&device[range]);
        }
        let (again, _) = read_all(&image, 9).unwrap();
        assert_eq!(again.count_used(), bitmap.count_used());

        let (file, out) = (dir.path().join("image"), dir.path().join("out"));
        std::fs::write(&file, &image).unwrap();
        std::fs::write(&out, vec![0; 65536]).unwrap();
        let log = dir.path().join("log");
        run(Command::new("partclone.chkimg").arg("-L").arg(&log).arg("-s").arg(&file));
        run(Command::new("partclone.restore")
            .arg("-L")
            .arg(&log)
            .arg("-C")
            .arg("-s")
            .arg(&file)
            .arg("-O")
            .arg(&out));
        assert!(std::fs::read(&out).unwrap() == expected, "partclone restored something else");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the bytes are, with or without a right header CRC: an answer, and no panic.
    #[test]
    fn mutated_images_are_read_or_refused(
        name in prop::sample::select(&GOOD[..]),
        changes in prop::collection::vec((0usize..200, any::<u8>()), 1..8),
        fix_crc: bool,
        end in any::<prop::sample::Index>(),
    ) {
        let mut image = fixture(name);
        for (at, byte) in changes {
            image[at] = byte;
        }
        if fix_crc {
            let crc = !crc32fast::hash(&image[..106]);
            image[106..110].copy_from_slice(&crc.to_le_bytes());
        }
        let end = end.index(image.len() * 2).min(image.len());
        let _ = read_all(&image[..end], 100);
    }

    /// Runs are exactly the used blocks of the range, ascending and not adjacent.
    #[test]
    fn runs_are_the_used_blocks(
        bits in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 1..40),
        cut in 0u64..8,
        first in 0u64..100,
        count in 1u32..200,
    ) {
        let blocks = bits.len() as u64 * 8 - cut;
        let bitmap = Bitmap::from_bits(blocks, bits).unwrap();
        for bitmap in [bitmap, Bitmap::all_used(blocks)] {
            let runs = bitmap.runs(first, count);
            let listed: Vec<u64> = runs
                .iter()
                .flat_map(|run| run.start..run.start + run.count)
                .map(|block| first + u64::from(block))
                .collect();
            let used: Vec<u64> = (first..first + u64::from(count))
                .filter(|block| bitmap.is_used(*block))
                .collect();
            prop_assert_eq!(listed, used);
            prop_assert!(runs.windows(2).all(|pair| pair[0].start + pair[0].count < pair[1].start));
            prop_assert_eq!((0..blocks).filter(|b| bitmap.is_used(*b)).count() as u64, bitmap.count_used());
        }
    }
}
