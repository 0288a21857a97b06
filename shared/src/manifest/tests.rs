use super::*;
use proptest::prelude::*;

fn partition(pages: Vec<PageRef>, chunks: u32) -> Partition {
    Partition {
        name: "sda1".into(),
        filesystem: "ext4".into(),
        file: "sda1.ext4-ptcl-img.zst".into(),
        block_bytes: 4096,
        total_blocks: 1000,
        used_blocks: 600,
        device_bytes: 1000 * 4096,
        chunk_blocks: 256,
        chunks,
        head_bytes: 100,
        file_bytes: 10_000,
        pages,
    }
}

fn chunk(index: u32, runs: &[(u32, u32)]) -> Chunk {
    Chunk {
        index,
        runs: runs.iter().map(|&(start, count)| Run { start, count }).collect(),
        offset: 100,
        frame_bytes: 50,
        frame_hash: Hash::of(b"frame"),
        data_hash: Hash::of(b"data"),
        zero: false,
    }
}

fn with_page(chunks: Vec<Chunk>) -> (Partition, Vec<u8>) {
    let count = chunks.len() as u32;
    let bytes = Page { chunks }.encode();
    let reference = PageRef { hash: Hash::of(&bytes), offset: 0, bytes: bytes.len() as u32 };
    (partition(vec![reference], count), bytes)
}

#[test]
fn a_good_page_is_read_and_says_where_its_bytes_go() {
    let (partition, bytes) = with_page(vec![chunk(0, &[(0, 3), (5, 1)]), chunk(3, &[(231, 1)])]);
    let page = partition.decode_page(0, &bytes).unwrap();
    let extents: Vec<_> = page.chunks[0].extents(&partition).collect();
    assert_eq!(extents, [(0, 3 * 4096), (5 * 4096, 4096)]);
    assert_eq!(page.chunks[1].extents(&partition).next(), Some((999 * 4096, 4096)));
    assert_eq!(page.chunks[0].data_bytes(&partition), 4 * 4096);
}

#[test]
fn a_page_that_would_write_elsewhere_is_refused() {
    for chunks in [
        vec![chunk(3, &[(231, 2)])],       // beyond the filesystem
        vec![chunk(0, &[(0, 257)])],       // beyond the chunk
        vec![chunk(0, &[(u32::MAX, 2)])],  // overflow
        vec![chunk(0, &[(4, 1), (2, 1)])], // order
        vec![chunk(0, &[(2, 2), (4, 1)])], // adjacent
        vec![chunk(0, &[(2, 0)])],         // empty
        vec![chunk(0, &[])],               // nothing
        vec![chunk(1, &[(0, 1)]), chunk(1, &[(4, 1)])],
        vec![Chunk { offset: 9_990, ..chunk(0, &[(0, 1)]) }],
        vec![Chunk { frame_bytes: 0, ..chunk(0, &[(0, 1)]) }],
    ] {
        let (partition, bytes) = with_page(chunks.clone());
        let result = partition.decode_page(0, &bytes);
        assert!(matches!(result, Err(ManifestError::Inconsistent { .. })), "{chunks:?}");
    }
    let (partition, mut bytes) = with_page(vec![chunk(0, &[(0, 1)])]);
    bytes[0] ^= 1;
    assert!(matches!(partition.decode_page(0, &bytes), Err(ManifestError::PageHash { .. })));
    assert!(partition.decode_page(1, &bytes).is_err());
}

fn manifest(partition: Partition) -> Manifest {
    Manifest {
        version: crate::version::MANIFEST,
        revision: "lab/debian@7".parse().unwrap(),
        created_unix: 1_700_000_000,
        provenance: "test".into(),
        partitions: vec![partition],
    }
}

#[test]
fn a_root_that_contradicts_itself_is_refused() {
    let good = manifest(with_page(vec![chunk(0, &[(0, 1)])]).0);
    assert_eq!(Manifest::decode(&good.encode()).unwrap(), good);
    let refused = |change: fn(&mut Manifest)| {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(Manifest::decode(&bad.encode()).is_err(), "{bad:?}");
    };
    refused(|m| m.version = crate::version::MANIFEST + 1);
    refused(|m| m.partitions[0].block_bytes = 0);
    refused(|m| m.partitions[0].chunk_blocks = 255);
    refused(|m| m.partitions[0].total_blocks = u64::MAX);
    refused(|m| m.partitions[0].used_blocks = 1001);
    refused(|m| m.partitions[0].chunks = 1025);
    refused(|m| m.partitions[0].pages[0].bytes = u32::MAX);
    refused(|m| m.partitions.push(m.partitions[0].clone()));
    refused(|m| m.partitions[0].file = "../escape".into());
}

proptest! {
    #[test]
    fn mutated_bytes_never_panic(at in 0usize..400, to: u8, cut in 0usize..400) {
        let (partition, page) = with_page(vec![chunk(0, &[(0, 3), (5, 1)])]);
        let mut root = manifest(partition).encode();
        let at_root = at % root.len();
        root[at_root] = to;
        root.truncate(root.len() - cut % root.len());
        if let Ok(manifest) = Manifest::decode(&root) {
            for partition in &manifest.partitions {
                let _ = partition.decode_page(0, &page);
            }
        }
    }

    #[test]
    fn accepted_chunks_stay_inside(index in 0u32..5, start in 0u32..300, count in 0u32..300) {
        let (partition, bytes) = with_page(vec![chunk(index, &[(start, count)])]);
        if let Ok(page) = partition.decode_page(0, &bytes) {
            for (offset, bytes) in page.chunks[0].extents(&partition) {
                prop_assert!(offset + bytes as u64 <= partition.device_bytes);
            }
        }
    }
}
