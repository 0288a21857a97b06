use super::*;

type Spoil = fn(&mut AsLeft);

fn left() -> AsLeft {
    let runs = vec![Run { start: 0, count: 2 }, Run { start: 5, count: 1 }];
    let chunk = LeftChunk { index: 3, runs, hash: Hash([1; 32]), prints: vec![1, 2, 3] };
    let freed = LeftChunk { index: 9, runs: vec![], hash: Hash::of(b""), prints: vec![] };
    AsLeft { block_bytes: 4096, total_blocks: 2600, is_new: false, chunks: vec![chunk, freed] }
}

#[test]
fn what_was_left_is_read_as_it_was_written_unless_it_contradicts_itself() {
    let good = left();
    assert_eq!(AsLeft::decode(&good.encode()).unwrap(), good);
    assert_eq!(good.chunk(9).unwrap().runs, []);
    assert!(good.chunk(4).is_none());
    let spoils: [(&str, Spoil); 8] = [
        ("block size", |left| left.block_bytes = 0),
        ("counted", |left| left.total_blocks = u64::MAX),
        ("chunks out of order", |left| left.chunks.swap(0, 1)),
        ("beyond its chunk", |left| left.chunks[0].runs[1].count = 252),
        ("beyond its chunk", |left| left.chunks[0].runs[1].count = u32::MAX),
        ("adjacent", |left| left.chunks[0].runs[1].start = 2),
        ("beyond the filesystem", |left| left.total_blocks = 700),
        ("one print", |left| left.chunks[0].prints.truncate(2)),
    ];
    for (what, spoil) in spoils {
        let mut left = left();
        spoil(&mut left);
        let error = AsLeft::decode(&left.encode()).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
    assert!(matches!(AsLeft::decode(b"\xff"), Err(AsLeftError::Encoding(_))));
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
