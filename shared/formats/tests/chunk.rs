//! Chunks: cut from an image, sealed, opened again; and what is not the manifest's is refused.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use metalcast_formats::{
    chunk::{self, ChunkError, Chunks, Sealed, Sealer},
    partclone::{Bitmap, HeadFacts, Reader, write_head},
};
use metalcast_shared::{
    hash::Hash,
    manifest::{Partition, Run},
};
use proptest::prelude::*;

/// An image in memory, whose block i is filled with a pattern of its own.
fn image(block_bytes: u32, bitmap: &Bitmap) -> Vec<u8> {
    let device_bytes = bitmap.blocks() * u64::from(block_bytes);
    let mut image = Vec::new();
    let facts = HeadFacts { filesystem: "EXTFS", device_bytes, block_bytes };
    write_head(&mut image, &facts, bitmap).unwrap();
    for number in (0..bitmap.blocks()).filter(|block| bitmap.is_used(*block)) {
        image.extend(block(number, block_bytes));
    }
    image
}

fn block(number: u64, block_bytes: u32) -> Vec<u8> {
    let pattern = if number < 300 { 0 } else { (number % 251) as u8 + 1 };
    vec![pattern; block_bytes as usize]
}

fn partition(block_bytes: u32, total_blocks: u64) -> Partition {
    Partition {
        name: "sda1".into(),
        filesystem: "ext4".into(),
        file: "sda1.ext4-ptcl-img.zst".into(),
        block_bytes,
        total_blocks,
        used_blocks: 0,
        device_bytes: total_blocks * u64::from(block_bytes),
        chunk_blocks: Partition::chunk_blocks_for(block_bytes),
        chunks: 0,
        head_bytes: 0,
        file_bytes: 0,
        pages: Vec::new(),
    }
}

fn seal_all(image: &[u8]) -> Vec<Sealed> {
    let mut chunks = Chunks::new(Reader::open(image).unwrap()).unwrap();
    let mut sealer = Sealer::new(3).unwrap();
    let mut sealed = Vec::new();
    while let Some(plain) = chunks.next_chunk().unwrap() {
        sealed.push(sealer.seal(plain).unwrap());
    }
    chunks.finish().unwrap();
    sealed
}

#[test]
fn ranges_without_blocks_are_left_out_and_zeros_are_marked() {
    let mut bits = vec![0u8; 200];
    bits[0] = 0b1000_0011; // Range 0, blocks 0, 1 and 7: zero.
    bits[96] = 0xff; // Range 3 of 256 blocks.
    bits[199] = 0x80; // The last block, in range 6.
    let sealed = seal_all(&image(4096, &Bitmap::from_bits(1600, bits).unwrap()));
    let seen: Vec<_> = sealed
        .iter()
        .map(|one| (one.chunk.index, one.chunk.runs.clone(), one.chunk.zero))
        .collect();
    let run = |start, count| Run { start, count };
    assert_eq!(
        seen,
        [
            (0, vec![run(0, 2), run(7, 1)], true),
            (3, vec![run(0, 8)], false),
            (6, vec![run(63, 1)], false),
        ]
    );
}

#[test]
fn blocks_of_any_size_come_back() {
    // Larger than a chunk, not a divisor of one, the smallest.
    for (block_bytes, blocks) in [(4 << 20, 9), (3000, 2000), (512, 10_000)] {
        let bitmap = Bitmap::all_used(blocks);
        let partition = partition(block_bytes, blocks);
        let mut number = 0;
        for Sealed { frame, chunk } in seal_all(&image(block_bytes, &bitmap)) {
            assert_eq!(partition.range_start(&chunk), number * u64::from(block_bytes));
            let data = chunk::open(&frame, &chunk, &partition).unwrap();
            for one in data.chunks(block_bytes as usize) {
                assert!(one == block(number, block_bytes), "block {number} of {block_bytes} bytes");
                number += 1;
            }
        }
        assert_eq!(number, blocks);
    }
    let tiny = image(256, &Bitmap::all_used(1));
    assert!(Chunks::new(Reader::open(&tiny[..]).unwrap()).is_err());
}

#[test]
fn frames_that_are_not_the_manifests_are_refused() {
    let partition = partition(4096, 256);
    let Sealed { frame, chunk } = seal_all(&image(4096, &Bitmap::all_used(256))).remove(0);
    let hashed = |frame: &[u8], runs: Vec<Run>| {
        let mut chunk = chunk.clone();
        (chunk.frame_hash, chunk.frame_bytes) = (Hash::of(frame), frame.len() as u32);
        chunk.runs = runs;
        chunk
    };

    let mut damaged = frame.clone();
    damaged[20] ^= 1;
    assert!(matches!(chunk::open(&damaged, &chunk, &partition), Err(ChunkError::Frame { .. })));
    // The same damage below a right hash: zstd's own checksum finds it.
    let entry = hashed(&damaged, chunk.runs.clone());
    assert!(chunk::open(&damaged, &entry, &partition).is_err());

    // More decoded bytes than the entry promises, and fewer.
    let entry = hashed(&frame, vec![Run { start: 0, count: 255 }]);
    assert!(matches!(chunk::open(&frame, &entry, &partition), Err(ChunkError::Decompress { .. })));
    let small = zstd::bulk::compress(&[0; 4096], 3).unwrap();
    let entry = hashed(&small, chunk.runs.clone());
    assert!(matches!(chunk::open(&small, &entry, &partition), Err(ChunkError::Data { .. })));

    // An entry that asks for terabytes.
    let entry = hashed(&frame, vec![Run { start: 0, count: u32::MAX }; 9]);
    assert!(matches!(chunk::open(&frame, &entry, &partition), Err(ChunkError::Entry { .. })));
}

proptest! {
    #[test]
    fn frames_from_anywhere_do_not_panic(frame in prop::collection::vec(any::<u8>(), 0..300), count: u32) {
        let partition = partition(4096, 256);
        let mut chunk = seal_all(&image(4096, &Bitmap::all_used(1))).remove(0).chunk;
        chunk.runs = vec![Run { start: 0, count }];
        (chunk.frame_hash, chunk.frame_bytes) = (Hash::of(&frame), frame.len() as u32);
        prop_assert!(chunk::open(&frame, &chunk, &partition).is_err());
    }

    #[test]
    fn whatever_is_used_comes_back(bits in prop::collection::vec(any::<u8>(), 1..100), cut in 0u64..8) {
        let bitmap = Bitmap::from_bits(bits.len() as u64 * 8 - cut, bits).unwrap();
        let partition = partition(4096, bitmap.blocks());
        let mut left: Vec<u64> = (0..bitmap.blocks()).filter(|b| bitmap.is_used(*b)).rev().collect();
        for Sealed { frame, chunk } in seal_all(&image(4096, &bitmap)) {
            let data = chunk::open(&frame, &chunk, &partition).unwrap();
            let mut rest = &data[..];
            for (offset, bytes) in chunk.extents(&partition) {
                for at in (offset..offset + bytes as u64).step_by(4096) {
                    let number = at / 4096;
                    prop_assert_eq!(left.pop(), Some(number));
                    prop_assert_eq!(&rest[..4096], block(number, 4096));
                    rest = &rest[4096..];
                }
            }
            prop_assert!(rest.is_empty());
        }
        prop_assert!(left.is_empty());
    }
}
