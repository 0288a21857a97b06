//! Filesystems that take all of their slot or partition, measured and judged by their own tools.

use super::{
    filesystems::{check, grub_cat, large_btrfs, small_btrfs, xfs},
    rig::{MIB, Outcome, Rig, TestImage, TestSource, blkid, tool},
};
use crate::disk::Operation;
use metalcast_formats::layout::SECTOR_BYTES;
use metalcast_shared::{
    event::{Step, TaskEvent},
    fix_up::FixUpStep,
    to_agent::{Overwrite, Work},
};
use std::{path::Path, process::Command};

/// The number behind a word in what a tool prints.
fn number_behind(text: &str, word: &str) -> u64 {
    let line = text.lines().find(|line| line.trim_start().starts_with(word));
    let line = line.unwrap_or_else(|| panic!("no {word:?} in {text}"));
    let digits: String = line[line.find(word).unwrap() + word.len()..]
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap()
}

/// How large a filesystem is, as its own tool says.
pub(super) fn size(node: &Path) -> u64 {
    match blkid(node, "TYPE").as_str() {
        "ext4" => {
            let said = tool(Command::new("dumpe2fs").arg("-h").arg(node));
            number_behind(&said, "Block count:") * number_behind(&said, "Block size:")
        }
        "xfs" => {
            let query = ["-r", "-c", "sb 0", "-c", "print dblocks blocksize"];
            let said = tool(Command::new("xfs_db").args(query).arg(node));
            number_behind(&said, "dblocks") * number_behind(&said, "blocksize")
        }
        "btrfs" => {
            let mut btrfs = Command::new("btrfs");
            let said = tool(btrfs.args(["inspect-internal", "dump-super"]).arg(node));
            number_behind(&said, "total_bytes")
        }
        "ntfs" => {
            let said = tool(Command::new("ntfsresize").args(["--info", "--force"]).arg(node));
            number_behind(&said, "Current volume size:")
        }
        other => panic!("{other} in {}", node.display()),
    }
}

fn slot_bytes(rig: &Rig, slot: u16) -> u64 {
    rig.plan.partition(slot).unwrap().sectors * SECTOR_BYTES
}

fn deploy(rig: &Rig, slot: u16, overwrite: Overwrite) -> Outcome {
    let mut order = rig.order(slot, overwrite);
    order.grow = true;
    rig.run(&order, &TestSource::new(rig.image.clone()), |_| {})
}

#[test]
fn a_system_in_a_slot_takes_all_of_it_and_is_whole() {
    for image in [TestImage::ordinary(), xfs(), large_btrfs()] {
        let rig = Rig::new(image);
        let outcome = deploy(&rig, 5, Overwrite::BlankOnly).expect();
        let node = rig.node(5);
        let (was, is) = (rig.image.partition().device_bytes, slot_bytes(&rig, 5));
        assert!(is >= was + 16 * MIB);
        assert_eq!(size(&node), is, "{}", node.display());
        check(&node);
        let name = &rig.image.partition().filesystem;
        let note = format!(
            "grow: slot 5: {name} grew from {}.0 MiB to {}.0 MiB, the place has {}.0 MiB",
            was / MIB,
            is / MIB,
            is / MIB
        );
        assert!(outcome.notes().contains(&note), "{note} in {:#?}", outcome.notes());
        assert_eq!(blkid(&node, "UUID"), rig.image.uuid);
        assert_eq!(grub_cat(&node, "/etc/hostname"), "node5\n");
        assert!(rig.is_startable(5));
        let steps: Vec<Step> = outcome
            .log
            .iter()
            .filter_map(|entry| match entry {
                super::rig::Entry::Event(TaskEvent::StepDone { step, .. }) => Some(*step),
                _ => None,
            })
            .collect();
        let mut order = rig.order(5, Overwrite::BlankOnly);
        order.grow = true;
        assert_eq!(steps, Work::Deploy(Box::new(order)).steps());
        // The boot sector is still the last that is written of the slot.
        let start = rig.slot_start(5);
        let of_slot = |(_, operation): &&(Step, Operation)| match *operation {
            Operation::Write { offset, .. } => (rig.gap_start(5)..start + is).contains(&offset),
            Operation::Zero { .. } | Operation::Flush => false,
        };
        let last = outcome.operations().iter().rfind(of_slot).copied().unwrap();
        assert_eq!(last.0, Step::BootCode);
        // Once more: the image comes anew and grows again.
        deploy(&rig, 5, Overwrite::OwnSlot).expect();
        assert_eq!(size(&node), is);
        check(&node);
    }
}

#[test]
fn between_growing_and_boot_code_nothing_can_be_started() {
    let rig = Rig::new(TestImage::ordinary());
    let mut order = rig.order(5, Overwrite::BlankOnly);
    order.grow = true;
    let source = TestSource::new(rig.image.clone());
    let stopped = rig.run(&order, &source, |(event, cancel)| {
        if matches!(event, TaskEvent::StepDone { step: Step::Grow, .. }) {
            cancel.cancel("the test wants to look");
        }
    });
    assert!(stopped.cause().starts_with("fix-up: cancelled"));
    assert!(!rig.is_startable(5));
    assert!(rig.environment().contains("slot5_state=writing"));
    check(&rig.node(5));
    deploy(&rig, 5, Overwrite::BlankOnly).expect();
    check(&rig.node(5));
    assert!(rig.is_startable(5));
}

#[test]
fn copies_in_two_slots_grow_each_for_itself() {
    for image in [TestImage::ordinary(), xfs(), large_btrfs()] {
        let rig = Rig::new(image);
        deploy(&rig, 5, Overwrite::BlankOnly).expect();
        let before = rig.slot_hash(5);
        let notes = deploy(&rig, 6, Overwrite::BlankOnly).expect().notes().join("\n");
        assert!(before == rig.slot_hash(5), "slot 5 was changed");
        assert!(notes.contains("grow: unique-fs-id: "), "{notes}");
        let uuid = blkid(&rig.node(6), "UUID");
        assert_ne!(uuid, rig.image.uuid);
        for slot in [5, 6] {
            assert_eq!(size(&rig.node(slot)), slot_bytes(&rig, slot));
            check(&rig.node(slot));
        }
        let fstab = grub_cat(&rig.node(6), "/etc/fstab");
        assert!(fstab.starts_with(&format!("UUID={uuid} / ")), "{fstab}");
    }
}

#[test]
fn what_fills_its_slot_already_is_left_alone() {
    let rig = Rig::new(TestImage::ordinary());
    deploy(&rig, 5, Overwrite::BlankOnly).expect();
    let node = rig.node(5);
    let grown = std::sync::Arc::new(TestImage::save(&node, "ext4", rig.image.uuid.clone()));
    let mut again = Rig::new(grown);
    again.layout.slot_mib -= 16;
    again.plan =
        metalcast_formats::layout::compute(&again.layout, again.bytes, SECTOR_BYTES as u32)
            .unwrap();
    let mut order = again.order(5, Overwrite::BlankOnly);
    order.grow = true;
    order.fix_up.adaptation.without = vec![FixUpStep::UniqueFsId];
    let source = TestSource::new(again.image.clone());
    let notes = again.run(&order, &source, |_| {}).expect().notes().join("\n");
    assert!(notes.contains("grow: slot 5: ext4 of 64.0 MiB fills it already"), "{notes}");
}

#[test]
fn a_btrfs_that_linux_would_not_resize_stays_as_it_is() {
    let rig = Rig::new(small_btrfs());
    let notes = deploy(&rig, 5, Overwrite::BlankOnly).expect().notes().join("\n");
    assert!(notes.contains("btrfs stays at 128.0 MiB, Linux resizes none of less"), "{notes}");
    check(&rig.node(5));
    assert!(rig.is_startable(5));
}
