//! Deployments that end in the middle: by the loss of the machine, by an order, by a faulty disk.

use super::rig::{MIB, Outcome, Rig, TestImage, TestSource, blkid, tool};
use crate::disk::Operation;
use metalcast_shared::{
    event::{Step, TaskEvent},
    to_agent::{Overwrite, Work},
};
use std::process::Command;

/// A machine that dies at one operation of the disk is deployed again; until its very last write the
/// slot cannot be started.
#[test]
fn a_machine_that_dies_anywhere_has_no_half_made_system() {
    let rig = Rig::new(TestImage::ordinary());
    let whole = rig.deploy(5, Overwrite::BlankOnly).expect().operations();
    let first_write = whole.iter().position(|(step, _)| *step == Step::Clear).unwrap();
    // All of the short steps, some of the long one.
    let transfer = whole.iter().filter(|(step, _)| *step == Step::Transfer).count();
    let points = (0..whole.len()).filter(|at| match whole[*at].0 {
        Step::Transfer => at % (transfer / 4).max(1) == 0,
        Step::Partition => at % 8 == 0,
        _ => true,
    });
    for at in points.collect::<Vec<_>>() {
        let rig = Rig::new(TestImage::ordinary());
        rig.refuse(move |count, _| count >= at);
        let died = rig.deploy(5, Overwrite::BlankOnly);
        let cause = died.cause();
        assert!(cause.contains("power is gone"), "operation {at}: {cause}");
        assert!(died.operations().len() == at, "operation {at}");
        let sector = Operation::Write { offset: rig.slot_start(5), bytes: 512 };
        let complete = died.operations().contains(&(Step::BootCode, sector));
        assert_eq!(rig.is_startable(5), complete, "operation {at}: {cause}");
        if at > first_write {
            assert!(rig.environment().contains("slot5_state=writing"), "operation {at}");
            assert!(!rig.environment().contains("saved_entry"), "operation {at}");
        }
        rig.refuse(|_, _| false);
        rig.deploy(5, Overwrite::BlankOnly).expect();
        tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
        assert_eq!(rig.environment(), "saved_entry=slot5\n");
    }
}

#[test]
fn every_step_can_be_the_last_before_it_is_all_taken_again() {
    let rig = Rig::new(TestImage::ordinary());
    let order = rig.order(5, Overwrite::BlankOnly);
    let steps = Work::Deploy(Box::new(order.clone())).steps();
    for step in &steps[..steps.len() - 1] {
        let stop = |(event, cancel): (&TaskEvent, &crate::task::Cancel)| {
            if matches!(event, TaskEvent::StepDone { step: done, .. } if done == step) {
                cancel.cancel("stop");
            }
        };
        let stopped = rig.run(&order, &TestSource::new(rig.image.clone()), stop);
        assert!(stopped.cause().ends_with("cancelled: stop"), "{}", stopped.cause());
        let is_complete = matches!(step, Step::BootCode | Step::Record);
        assert_eq!(rig.is_startable(5), is_complete, "after {step}");
    }
    rig.run(&order, &TestSource::new(rig.image.clone()), |_| {}).expect();
    assert!(rig.is_startable(5));
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
}

#[test]
fn writing_over_a_system_ends_it_first() {
    let rig = Rig::new(TestImage::ordinary());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    let stop = |(event, cancel): (&TaskEvent, &crate::task::Cancel)| {
        if matches!(event, TaskEvent::StepDone { step: Step::Clear, .. }) {
            cancel.cancel("stop");
        }
    };
    let order = rig.order(5, Overwrite::OwnSlot);
    rig.run(&order, &TestSource::new(rig.image.clone()), stop).cause();
    assert!(!rig.is_startable(5));
    assert_eq!(rig.environment(), "saved_entry=slot5\nslot5_state=writing\n");
    let cause = rig.select(5).cause();
    assert_eq!(cause, "check-disk: slot 5 cannot be started: its boot sector is blank");
}

/// Changes the disk when a step has ended.
fn tampered(rig: &Rig, step: Step, offset: u64) -> Outcome {
    let tamper = |(event, _): (&TaskEvent, &crate::task::Cancel)| {
        if matches!(event, TaskEvent::StepDone { step: done, .. } if *done == step) {
            let at = rig.slot_start(5) + offset;
            let byte = rig.read(at, 1)[0];
            rig.write(at, &[byte ^ 0x10]);
        }
    };
    let order = rig.order(5, Overwrite::BlankOnly);
    rig.run(&order, &TestSource::new(rig.image.clone()), tamper)
}

#[test]
fn a_disk_that_returns_something_else_is_caught_before_the_slot_can_start() {
    let rig = Rig::new(TestImage::ordinary());
    let partition = rig.image.partition();
    let chunk = &rig.image.chunks[rig.image.chunks.len() / 2];
    let (offset, _) = chunk.extents(partition).next().unwrap();
    let cause = tampered(&rig, Step::Transfer, offset + 1).cause();
    let start = partition.range_start(chunk);
    assert!(cause.starts_with("verify: 1 ranges read back differently"), "{cause}");
    assert!(cause.contains(&format!("bytes {start}..{}", start + (1 << 20))), "{cause}");
    assert!(!rig.is_startable(5));
}

#[test]
fn a_chunk_that_never_comes_right_fails_with_its_place() {
    let rig = Rig::new(TestImage::ordinary());
    let source = TestSource::new(rig.image.clone());
    let chunk = rig.image.chunks.iter().rfind(|chunk| !chunk.zero).unwrap();
    source.spoil.lock().unwrap().insert(chunk.index, 100);
    let cause = rig.run(&rig.order(5, Overwrite::BlankOnly), &source, |_| {}).cause();
    assert!(cause.starts_with("transfer: page 0, bytes from "), "{cause}");
    assert!(
        cause.contains("5 attempts") && cause.contains("not the one in the manifest"),
        "{cause}"
    );
}

#[test]
fn a_suspended_system_does_not_wake_up_in_another_slot() {
    let rig = Rig::new(TestImage::ordinary());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    let id = blkid(&rig.node(2), "UUID");
    let magic = rig.slot_start(2) + 4086;
    let redeploy = || rig.deploy(5, Overwrite::OwnSlot);
    for task in [&redeploy as &dyn Fn() -> Outcome, &|| rig.select(5)] {
        rig.write(magic, b"S1SUSPEND\0");
        rig.read(0, 512);
        assert_eq!(blkid(&rig.node(2), "TYPE"), "swsuspend");
        let notes = task().expect().notes().join("\n");
        assert!(notes.contains("a system was suspended in swap partition 2"), "{notes}");
        assert_eq!(
            (blkid(&rig.node(2), "TYPE"), blkid(&rig.node(2), "UUID")),
            ("swap".into(), id.clone())
        );
    }
}

#[test]
fn a_damaged_boot_partition_is_repaired_or_made_anew() {
    let rig = Rig::new(TestImage::ordinary());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    // The group descriptors, of which there are copies.
    rig.write(rig.slot_start(1) + 2048, &[0xff; 1024]);
    let notes = rig.deploy(6, Overwrite::BlankOnly).expect().notes().join("\n");
    assert!(notes.contains("check-disk: the boot partition is damaged and is repaired"), "{notes}");
    assert!(rig.cat(1, "/grub/grub.cfg").contains("lab/debian@7"));
    // Nothing but the superblock is left.
    rig.write(rig.slot_start(1) + 2048, &vec![0xff; 20 * MIB as usize]);
    rig.deploy(5, Overwrite::WholeDisk).expect();
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(1)));
    assert_eq!(blkid(&rig.node(1), "LABEL"), "metalcast");
}
