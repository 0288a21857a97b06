//! Whole disks against what was put there.

use super::{Bench, MIB, MORE_BYTES, Outcome, Overwrite, Saved, SourceDisk, blank};
use crate::task;
use metalcast_shared::{
    as_left::{Change, Comparison},
    hash::Hash,
    to_agent::{Compare, CompareSource, Packed},
};

impl Bench {
    fn compare(&self, saved: &Saved) -> Outcome {
        let left = self.left.lock().unwrap().clone();
        let order = Compare {
            image: "lab/debian@7".parse().unwrap(),
            manifest: saved.signed.clone(),
            disk: self.selector(),
            source: CompareSource::Disk,
            as_left: left
                .as_ref()
                .map(|left| Packed { bytes: left.len() as u32, hash: Hash::of(left) }),
        };
        let before = self.whole_hash();
        let fetch = |_: Packed| Ok(left.clone().unwrap());
        let outcome = self.watch(
            |_| {},
            |context| task::compare(&order, &saved.key, &SourceDisk(saved), &fetch, context),
        );
        assert!(outcome.operations().is_empty(), "{:?}", outcome.operations());
        assert!(before == self.whole_hash(), "something was written");
        outcome
    }

    fn found(&self, saved: &Saved) -> Comparison {
        self.compare(saved).expect().compared()
    }

    /// What is found after a byte was changed, which is put back.
    fn after_a_change(&self, saved: &Saved, at: u64) -> Comparison {
        let byte = self.read(at, 1);
        self.write(at, &[byte[0] ^ 1]);
        let found = self.found(saved);
        self.write(at, &byte);
        found
    }
}

/// Changes at some places of a disk, and where each is said to be.
fn finds_every_change(saved: &Saved, bench: &Bench, changes: &[(u64, &str)]) {
    bench.deploy(saved, Overwrite::WholeDisk).expect();
    let good = bench.found(saved);
    assert!(good.has_as_left && !good.has_drift(), "{good:#?}");
    assert!(good.remarks.is_empty() && good.left.bytes > 0, "{good:#?}");
    for (at, place) in changes {
        let found = bench.after_a_change(saved, *at);
        assert_eq!(found.drift.count, 1, "{at}: {found:#?}");
        let range = &found.drift.first[0];
        assert!((range.start..range.start + range.bytes).contains(at), "{at}: {range}");
        assert_eq!((range.place.as_str(), range.change), (*place, Change::Changed), "{at}");
        assert_eq!(found.places[0].what, *place);
    }
    assert_eq!(bench.found(saved), good);
}

/// Of tables and boot code.
const TABLE: &str = "partition table and boot code";

#[test]
fn a_gpt_disk_is_known_as_it_was_left() {
    let saved = Saved::gpt();
    let bench = blank(&saved, MORE_BYTES);
    let start = |number| bench.start(&saved, number);
    let ntfs = start(saved.ntfs);
    let changes = [
        (100, TABLE),
        (2 * 512 + 56, TABLE),
        (bench.bytes - 100, TABLE),
        (start(1) + 5000, "sda1: filesystem data"),
        // The label of the FAT volume, in its boot sector.
        (start(2) + 72, "sda2: filesystem data"),
        (start(3) + 1024 + 0x78, "sda3: boot and super block"),
        (ntfs + 0x48, "sda5: filesystem data"),
    ];
    finds_every_change(&saved, &bench, &changes);
}

#[test]
fn an_mbr_disk_is_known_as_it_was_left() {
    let saved = Saved::mbr();
    let bench = blank(&saved, 0);
    let start = |number| bench.start(&saved, number);
    let changes = [
        (3, TABLE),
        (700, TABLE),
        (start(2) + 10, TABLE),
        (start(7) - MIB + 450, TABLE),
        (start(7) + 1024 + 0x78, "sda7: boot and super block"),
    ];
    finds_every_change(&saved, &bench, &changes);
    *bench.left.lock().unwrap() = None;
    let cause = bench.compare(&saved).cause();
    assert!(cause.contains("it is not known what the deploy left on the disk"), "{cause}");
}
