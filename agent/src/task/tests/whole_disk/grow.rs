//! One partition takes what the disk has beyond the image's.

use super::{MORE_BYTES, Saved, blank, refused::refused};
use crate::task::tests::{
    grow::size,
    rig::{Bench, MIB, Outcome, tool},
};
use metalcast_shared::{
    event::{Step, TaskEvent},
    to_agent::Overwrite,
};
use std::process::Command;

/// Bytes that can be added on a disk of [`MORE_BYTES`] more.
const GROWN_BYTES: u64 = 37 * MIB;

fn deploy(bench: &Bench, saved: &Saved, number: u16) -> Outcome {
    let mut order = saved.order(bench.selector());
    (order.grow, order.overwrite) = (Some(number), Overwrite::WholeDisk);
    bench.carry_out(&order, saved)
}

fn bytes(bench: &Bench, number: u16) -> u64 {
    let node = bench.node(number);
    tool(Command::new("blockdev").arg("--getsize64").arg(node)).trim().parse().unwrap()
}

#[test]
fn windows_at_the_end_of_a_gpt_fills_a_larger_disk() {
    let saved = Saved::gpt();
    let bench = blank(&saved, MORE_BYTES);
    let outcome = deploy(&bench, &saved, 5).expect();
    assert!(outcome.has_said(&TaskEvent::Done { reports: true }));
    bench.check(&saved);
    let was = saved.images[&5].partition().device_bytes;
    let is = bytes(&bench, 5);
    assert!(is >= was + GROWN_BYTES, "{was} to {is}");
    // The last sector is the copy's, and clusters may be left over.
    let grown = size(&bench.node(5));
    assert!(is - 8192 < grown && grown < is, "NTFS of {grown} in {is}");
    let notes = outcome.notes().join("\n");
    assert!(notes.contains("check-disk: partition 5 will have "), "{notes}");
    assert!(notes.contains("grow: partition 5: ntfs grew from 7.9 MiB to 4"), "{notes}");
    let start = bench.start(&saved, 5);
    let sector = bench.read(start, 512);
    assert_eq!(sector[0x1c..0x20], (start as u32 / 512).to_le_bytes());
    let total = u64::from_le_bytes(sector[0x28..0x30].try_into().unwrap());
    assert!(bench.read(start + total * 512, 512) == sector, "the copy behind the volume");
    assert_eq!(bench.cat(3, "/etc/hostname"), "node1\n");
}

#[test]
fn a_logical_partition_grows_with_the_extended_one() {
    let saved = Saved::mbr();
    let bench = blank(&saved, MORE_BYTES);
    let outcome = deploy(&bench, &saved, 7).expect();
    bench.check(&saved);
    assert_eq!(bytes(&bench, 7), 16 * MIB + GROWN_BYTES);
    assert_eq!(size(&bench.node(7)), 16 * MIB + GROWN_BYTES);
    let steps = outcome.log.iter().filter_map(|entry| match entry {
        crate::task::tests::rig::Entry::Event(TaskEvent::StepDone { step, .. }) => Some(*step),
        _ => None,
    });
    let mut order = saved.order(bench.selector());
    order.grow = Some(7);
    let work = metalcast_shared::to_agent::Work::DeployDisk(Box::new(order));
    assert_eq!(steps.collect::<Vec<Step>>(), work.steps());
    // On a disk of the image's size it is as it was.
    let same = blank(&saved, 0);
    let notes = deploy(&same, &saved, 7).expect().notes().join("\n");
    assert!(notes.contains("stays at 16777216 bytes, the disk has no more"), "{notes}");
    assert!(notes.contains("grow: partition 7: ext4 of 16.0 MiB fills it already"), "{notes}");
    same.check(&saved);
}

#[test]
fn swap_behind_it_moves_to_the_end() {
    let saved = Saved::windows();
    let bench = blank(&saved, MORE_BYTES);
    let notes = deploy(&bench, &saved, 1).expect().notes().join("\n");
    assert!(notes.contains("partition 2 moves to the end of the disk"), "{notes}");
    bench.check(&saved);
    let is = bytes(&bench, 1);
    assert!(is >= 8 * MIB + GROWN_BYTES, "{is}");
    assert!(size(&bench.node(1)) > is - 8192);
}

#[test]
fn what_cannot_be_grown_stays_as_it_is_and_is_named() {
    let saved = Saved::fat();
    let bench = blank(&saved, MORE_BYTES);
    let notes = deploy(&bench, &saved, 2).expect().notes().join("\n");
    assert!(notes.contains("grow: partition 2 holds vfat"), "{notes}");
    assert!(notes.contains("it stays as it is"), "{notes}");
    assert!(bytes(&bench, 2) > 16 * MIB + GROWN_BYTES, "the partition is larger all the same");
    assert_eq!(bench.differing(&saved), [1], "but for the place of the NTFS");
}

#[test]
fn partitions_that_cannot_grow_are_refused_before_anything_is_written() {
    let saved = Saved::mbr();
    let bench = blank(&saved, MORE_BYTES);
    for (number, why) in [
        (1, "partition 1 cannot grow: partition 5 lies behind it"),
        (2, "partition 2 is the extended one"),
        (6, "partition 6 is swap"),
        (9, "the image's disk has no partition 9; it has 1, 2, 5, 6, 7"),
    ] {
        let cause = refused(&bench, &saved, |order| order.grow = Some(number));
        assert!(cause.starts_with("check-disk: ") && cause.contains(why), "{cause}");
    }
}
