use super::*;

type Spoil = fn(&mut AsLeft);
type SpoilBlocks = fn(&mut LeftBlocks);

fn left() -> AsLeft {
    let of = |number, blocks| LeftPartition {
        number,
        partition: format!("sda{number}"),
        start: u64::from(number) << 30,
        bytes: 1 << 30,
        blocks,
    };
    let area = |start| Area { start, bytes: 4096, hash: Hash([2; 32]) };
    let areas = vec![area(0), area(4096), area(1 << 29)];
    AsLeft { areas, partitions: vec![of(1, Some(blocks())), of(2, None)] }
}

fn blocks() -> LeftBlocks {
    let runs = vec![Run { start: 0, count: 2 }, Run { start: 5, count: 1 }];
    let chunk = LeftChunk { index: 3, runs, hash: Hash([1; 32]), prints: vec![1, 2, 3] };
    let freed = LeftChunk { index: 9, runs: vec![], hash: Hash::of(b""), prints: vec![] };
    LeftBlocks { block_bytes: 4096, total_blocks: 2600, is_new: false, chunks: vec![chunk, freed] }
}

#[test]
fn what_was_left_is_read_as_it_was_written_unless_it_contradicts_itself() {
    let good = left();
    assert_eq!(AsLeft::decode(&good.encode()).unwrap(), good);
    assert_eq!(blocks().chunk(9).unwrap().runs, []);
    assert!(blocks().chunk(4).is_none());
    let spoils: [(&str, Spoil); 9] = [
        ("too long", |left| left.areas[0].bytes = 4097),
        ("areas that meet", |left| left.areas[1].start = 4095),
        ("areas that meet", |left| left.areas.swap(0, 1)),
        ("partitions that meet", |left| left.partitions[0].bytes += 1),
        ("one name", |left| left.partitions[1].partition = "sda1".into()),
        ("beyond their partition", |left| left.partitions[0].bytes = 4096 * 2599),
        ("partitions out of order", |left| left.partitions.swap(0, 1)),
        ("no disk has", |left| left.partitions[0].start = u64::MAX),
        ("no disk has", |left| left.areas[2].start = u64::MAX),
    ];
    for (what, spoil) in spoils {
        let mut left = left();
        spoil(&mut left);
        let error = AsLeft::decode(&left.encode()).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
    let spoils: [(&str, SpoilBlocks); 8] = [
        ("block size", |left| left.block_bytes = 0),
        ("beyond their partition", |left| left.total_blocks = u64::MAX),
        ("chunks out of order", |left| left.chunks.swap(0, 1)),
        ("beyond its chunk", |left| left.chunks[0].runs[1].count = 252),
        ("beyond its chunk", |left| left.chunks[0].runs[1].count = u32::MAX),
        ("adjacent", |left| left.chunks[0].runs[1].start = 2),
        ("beyond the filesystem", |left| left.total_blocks = 700),
        ("one print", |left| left.chunks[0].prints.truncate(2)),
    ];
    for (what, spoil) in spoils {
        let mut left = left();
        spoil(left.partitions[0].blocks.as_mut().unwrap());
        let error = AsLeft::decode(&left.encode()).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
    assert!(matches!(AsLeft::decode(b"\xff"), Err(AsLeftError::Encoding(_))));
    // A few bytes each, and far more than any disk has.
    let many = AsLeft { areas: vec![left().areas[0]; MAX_AREAS + 1], ..AsLeft::default() };
    assert!(matches!(AsLeft::decode(&many.encode()), Err(AsLeftError::Encoding(_))));
    let of = |number| LeftPartition {
        number,
        bytes: 0,
        start: 0,
        partition: String::new(),
        blocks: None,
    };
    let many = AsLeft { areas: vec![], partitions: (0..300).map(of).collect() };
    assert!(matches!(AsLeft::decode(&many.encode()), Err(AsLeftError::Encoding(_))));
}

#[test]
fn what_an_agent_says_of_a_comparison_is_cut() {
    let range = Range { start: 0, bytes: 1, change: Change::New, place: "a\x1b[2J".repeat(999) };
    let first = vec![range; 9999];
    let ranges = Ranges { bytes: 1, count: 1, first };
    let place = Place { what: "x".repeat(9999), bytes: 1 };
    let long = Comparison {
        left: ranges.clone(),
        drift: ranges,
        places: vec![place; 999],
        remarks: vec!["y".repeat(9999); 999],
        ..Comparison::default()
    };
    let short = long.bounded();
    assert!(codec::encode(&short).len() < 80 << 10);
    assert!(!short.drift.first[0].place.contains('\x1b'));
}

#[test]
fn partitions_of_a_disk_are_added_up_under_their_names() {
    let range = Range { start: 4096, bytes: 8192, change: Change::New, place: "journal".into() };
    let part = Comparison {
        has_as_left: true,
        image_bytes: 1 << 20,
        drift: Ranges { bytes: 8192, count: 1, first: vec![range] },
        places: vec![Place { what: "journal".into(), bytes: 8192 }],
        remarks: vec!["not unmounted".into()],
        ..Comparison::default()
    };
    let mut all = Comparison { has_as_left: true, ..Comparison::default() };
    all.add("sda1", 1 << 20, part.clone());
    all.add("sda2", 1 << 30, Comparison { has_as_left: false, ..part });
    assert!(all.has_drift() && !all.has_as_left);
    assert_eq!((all.image_bytes, all.drift.bytes, all.drift.count), (2 << 20, 16384, 2));
    let first = all.drift.first[0].to_string();
    assert_eq!(first, "bytes 1052672..1060864: new, sda1: journal");
    assert_eq!(all.drift.first[1].start, (1 << 30) + 4096);
    assert_eq!(all.places[1].what, "sda2: journal");
    assert_eq!(all.remarks[0], "sda1: not unmounted");
}
