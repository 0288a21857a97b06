//! Slots against what was put there: what a deploy leaves is known, and what changes later is found.

use super::{
    filesystems::{small_btrfs, xfs},
    rig::{MIB, Outcome, Rig, TestImage, TestSource, tool},
};
use crate::task::{self, ChunkSource, DiskSource};
use metalcast_shared::{
    as_left::{AsLeft, Change, Comparison, LeftBlocks, Range},
    fresh::{Fresh, FreshKind},
    hash::Hash,
    to_agent::{Compare, CompareSource, Overwrite, Packed},
    whole_disk::SideFile,
};
use metalcast_sys::mount::{Mount, MsFlags};
use std::{fs, process::Command};

fn order(rig: &Rig, slot: u16) -> Compare {
    let left = rig.left.lock().unwrap();
    let (layout, partition) = (rig.layout.clone(), "sda1".into());
    Compare {
        image: rig.image.revision(),
        manifest: rig.image.signed.clone(),
        disk: rig.selector(),
        source: CompareSource::Slot { layout, slot, partition },
        as_left: left
            .as_ref()
            .map(|left| Packed { bytes: left.len() as u32, hash: Hash::of(left) }),
    }
}

fn compare(rig: &Rig, order: &Compare) -> Outcome {
    let before = rig.whole_hash();
    let source = OnlySource(TestSource::new(rig.image.clone()));
    let fetch = |_: Packed| Ok(rig.left.lock().unwrap().clone().unwrap());
    let outcome =
        rig.watch(|_| {}, |context| task::compare(order, &rig.image.key, &source, &fetch, context));
    assert!(outcome.operations().is_empty(), "{:?}", outcome.operations());
    assert!(before == rig.whole_hash(), "something was written");
    outcome
}

/// What a slot's partition is made of, as a disk gives it out.
struct OnlySource(TestSource);

impl DiskSource for OnlySource {
    fn partition(&self, name: &str) -> Box<dyn ChunkSource + '_> {
        assert_eq!(name, "sda1");
        Box::new(TestSource::new(self.0.image.clone()))
    }

    fn side_file(&self, file: &SideFile) -> anyhow::Result<Vec<u8>> {
        panic!("{} is not asked for", file.name)
    }
}

fn found(rig: &Rig, slot: u16) -> Comparison {
    compare(rig, &order(rig, slot)).expect().compared()
}

fn left(rig: &Rig) -> LeftBlocks {
    let left = AsLeft::decode(rig.left.lock().unwrap().as_ref().unwrap()).unwrap();
    assert!(left.areas.is_empty() && left.partitions.len() == 1, "{left:?}");
    left.partitions[0].blocks.clone().unwrap()
}

/// Where in the slot a block of a file lies.
fn block_of(rig: &Rig, slot: u16, file: &str, number: u64) -> u64 {
    let mut debugfs = Command::new("debugfs");
    let said = tool(debugfs.arg("-R").arg(format!("bmap {file} {number}")).arg(rig.node(slot)));
    said.trim().parse::<u64>().unwrap() * u64::from(rig.image.partition().block_bytes)
}

#[test]
fn what_fix_ups_changed_is_no_drift_and_one_byte_is() {
    let rig = Rig::new(TestImage::ordinary());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    let known = left(&rig);
    assert!(!known.is_new && !known.chunks.is_empty(), "{known:?}");
    let all = found(&rig, 5);
    assert!(!all.has_drift() && all.has_as_left, "{all:#?}");
    assert!(all.left.bytes > 0 && all.left.bytes < MIB, "few blocks are fixed up: {all:#?}");
    assert!(all.image_bytes > 15 * MIB, "{all:#?}");
    let places: Vec<&str> = all.left.first.iter().map(|range| &*range.place).collect();
    for place in ["boot and super block", "inode tables", "directories and files"] {
        assert!(places.contains(&place), "no {place} in {places:?}");
    }
    let used = all.image_bytes + all.left.bytes;

    let block_bytes = u64::from(rig.image.partition().block_bytes);
    // Of a block of the image, and one of a file that was fixed up.
    let start = rig.slot_start(5);
    for file in ["/usr/share/text", "/etc/hostname"] {
        let at = block_of(&rig, 5, file, 0);
        let byte = rig.read(start + at + 100, 1);
        rig.write(start + at + 100, &[byte[0] ^ 1]);
        let all = found(&rig, 5);
        let place = "directories and files".to_owned();
        let expected = Range { start: at, bytes: block_bytes, change: Change::Changed, place };
        assert_eq!(all.drift.first, [expected], "{file}");
        assert_eq!((all.drift.count, all.drift.bytes), (1, block_bytes));
        assert_eq!(all.image_bytes + all.left.bytes + all.drift.bytes, used);
        assert_eq!(all.places[0].what, "directories and files");
        rig.write(start + at + 100, &byte);
    }
    // The table of inodes, in place of a file.
    let said = tool(Command::new("debugfs").args(["-R", "imap /etc/hostname"]).arg(rig.node(5)));
    let block = said.split("located at block ").nth(1).unwrap().split(',').next().unwrap();
    let at = block.parse::<u64>().unwrap() * block_bytes;
    rig.write(start + at + block_bytes - 96, &[0x55; 8]);
    let all = found(&rig, 5);
    assert_eq!(all.drift.first[0].place, "inode tables", "{all:#?}");
    assert_eq!((all.drift.first[0].start, all.drift.count), (at, 1));
}

#[test]
fn what_is_free_may_change_and_what_was_begun_to_be_used_is_drift() {
    let rig = Rig::new(TestImage::ordinary());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    let before = found(&rig, 5);
    let said = tool(Command::new("debugfs").args(["-R", "ffb 8"]).arg(rig.node(5)));
    let free = said.split_whitespace().last().unwrap().parse::<u64>().unwrap();
    rig.write(
        rig.slot_start(5) + free * u64::from(rig.image.partition().block_bytes),
        &[0xaa; 8 * 1024],
    );
    assert_eq!(found(&rig, 5), before, "block {free} is free");

    // As a system that was started would.
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::new(&rig.node(5), dir.path(), "ext4", MsFlags::empty(), None).unwrap();
    fs::write(dir.path().join("var/new"), vec![7; 3 * 4096]).unwrap();
    fs::remove_file(dir.path().join("usr/share/text")).unwrap();
    drop(mount);
    let all = found(&rig, 5);
    let of = |change| {
        let ranges = all.drift.first.iter().filter(move |range| range.change == change);
        ranges.map(|range| range.bytes).sum::<u64>()
    };
    assert_eq!(of(Change::New), 3 * 4096, "{all:#?}");
    let freed = of(Change::Freed);
    assert!((2_100_000..2_110_000).contains(&freed), "{freed} of {all:#?}");
    let has = |what: &str| all.places.iter().any(|place| place.what == what);
    assert!(has("journal") && has("bitmaps") && has("inode tables"), "{all:#?}");

    // Another deploy makes good for it, and what that left takes the place of what was known.
    rig.deploy(5, Overwrite::OwnSlot).expect();
    assert!(!found(&rig, 5).has_drift());
}

#[test]
fn without_knowing_what_was_left_all_that_is_not_the_image_s_is_drift() {
    let rig = Rig::new(TestImage::ordinary());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    let known = found(&rig, 5);
    *rig.left.lock().unwrap() = None;
    let all = found(&rig, 5);
    assert!(!all.has_as_left && all.left.bytes == 0 && all.has_drift(), "{all:#?}");
    assert_eq!(all.image_bytes, known.image_bytes);
    assert!(all.remarks[0].contains("it is not known what the deploy left"), "{all:#?}");
}

#[test]
fn what_is_no_filesystem_any_more_is_drift_and_no_failure() {
    let rig = Rig::new(TestImage::ordinary());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    rig.write(rig.slot_start(5), &vec![0; 2 * MIB as usize]);
    let all = found(&rig, 5);
    assert!(all.drift.bytes > 100_000 && all.image_bytes > 10 * MIB, "{all:#?}");
    assert!(!all.remarks.is_empty(), "{all:#?}");

    let mut foreign = order(&rig, 5);
    let (layout, partition) = (rig.layout.clone(), "sda1".into());
    foreign.source = CompareSource::Slot { layout, slot: 40, partition };
    let cause = compare(&rig, &foreign).cause();
    assert_eq!(cause, "check-disk: layout small has no slot 40");
}

#[test]
fn a_filesystem_that_grew_or_is_of_another_kind_is_known_as_it_was_left() {
    for image in [TestImage::ordinary(), xfs(), small_btrfs()] {
        let name = image.partition().filesystem.clone();
        let rig = Rig::new(image);
        let mut deploy = rig.order(5, Overwrite::BlankOnly);
        deploy.grow = true;
        rig.run(&deploy, &TestSource::new(rig.image.clone()), |_| {}).expect();
        let all = found(&rig, 5);
        assert!(all.has_as_left && !all.has_drift(), "{name}: {all:#?}");
        assert!(all.image_bytes > all.left.bytes, "{name}: {all:#?}");
    }
}

#[test]
fn a_tar_archive_is_known_as_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    super::rig::ordinary_tree(dir.path());
    let archive = dir.path().with_extension("tar");
    tool(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(dir.path()).arg("."));
    let image = TestImage::archive(&fs::read(&archive).unwrap(), 64);
    fs::remove_file(&archive).unwrap();
    let rig = Rig::new(image.into());
    let mut deploy = rig.order(5, Overwrite::BlankOnly);
    deploy.fresh = Some(Fresh { kind: FreshKind::Ext4, label: None });
    rig.run(&deploy, &TestSource::new(rig.image.clone()), |_| {}).expect();
    assert!(left(&rig).is_new);
    let all = found(&rig, 5);
    assert!(!all.has_drift() && all.image_bytes == 0 && all.left.bytes > 15 * MIB, "{all:#?}");
    let at = block_of_fresh(&rig, "/usr/share/text");
    rig.write(rig.slot_start(5) + at, b"another");
    let all = found(&rig, 5);
    assert_eq!((all.drift.count, all.drift.first[0].start), (1, at), "{all:#?}");

    *rig.left.lock().unwrap() = None;
    let cause = compare(&rig, &order(&rig, 5)).cause();
    assert!(cause.starts_with("survey: it is not known what the deploy left"), "{cause}");
}

/// As [`block_of`], in the blocks of a filesystem that was made.
fn block_of_fresh(rig: &Rig, file: &str) -> u64 {
    let mut debugfs = Command::new("debugfs");
    let said = tool(debugfs.arg("-R").arg(format!("bmap {file} 0")).arg(rig.node(5)));
    said.trim().parse::<u64>().unwrap() * u64::from(left(rig).block_bytes)
}
