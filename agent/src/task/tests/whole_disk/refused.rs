//! What is refused before anything is written.

use super::{Saved, blank};
use crate::task::tests::rig::{Bench, MIB, tool};
use metalcast_shared::{
    to_agent::{DeployDisk, Overwrite},
    whole_disk::{DiskTable, TableId},
};
use metalcast_sys::loopdev::Options;
use std::process::Command;

/// Runs an order that must fail at once; its cause. Nothing of the disk is changed.
pub(super) fn refused(
    bench: &Bench,
    saved: &Saved,
    change: impl FnOnce(&mut DeployDisk),
) -> String {
    let before = bench.whole_hash();
    let mut order = saved.order(bench.selector());
    change(&mut order);
    let outcome = bench.carry_out(&order, saved);
    assert_eq!(outcome.operations(), []);
    assert!(before == bench.whole_hash(), "something was written");
    outcome.cause()
}

#[test]
fn disks_that_are_others_or_will_not_do_are_not_touched() {
    let saved = Saved::windows();
    let bench = blank(&saved, 0);
    let all = |change: fn(&mut DeployDisk)| {
        refused(&bench, &saved, move |order| {
            order.overwrite = Overwrite::WholeDisk;
            change(order);
        })
    };
    let cause = all(|order| order.disk.serial = Some("another".into()));
    assert!(cause.starts_with("check-disk: no disk with serial another"), "{cause}");
    let cause = all(|order| order.whole.sector_bytes = 4096);
    assert!(cause.contains("sectors of 4096 bytes, this one has sectors of 512"), "{cause}");
    let cause = all(|order| order.partitions[0].number = 9);
    assert!(cause.contains("no partition 9"), "{cause}");
    let cause = all(|order| order.partitions[0].number = 2);
    assert!(cause.contains("needs 8388608 bytes, partition 2 has 4194304"), "{cause}");
    let cause = all(|order| order.whole.swaps[0].number = 1);
    assert!(cause.contains("two contents for partition 1"), "{cause}");
    let cause = all(|order| order.whole.boot.mbr.push(0));
    assert!(cause.contains("the boot code has 441 bytes"), "{cause}");
    let cause = all(|order| order.whole.boot.gap.as_mut().unwrap().bytes = MIB as u32);
    assert!(cause.contains("do not fit between MBR and first partition"), "{cause}");
    let cause = all(|order| order.manifest.signature[0] ^= 1);
    assert!(cause.contains("not signed by this controller"), "{cause}");

    let small = Bench::new(12 * MIB, Options::default());
    let cause = refused(&small, &saved, |_| {});
    assert!(cause.contains("need a disk of 13631488 bytes, this one has 12582912"), "{cause}");
    let large = Bench::new(16 * MIB, Options { sector_bytes: 4096, ..Options::default() });
    let cause = refused(&large, &saved, |_| {});
    assert!(cause.contains("sectors of 512 bytes, this one has sectors of 4096"), "{cause}");
}

#[test]
fn what_is_not_ours_is_only_lost_with_leave() {
    let saved = Saved::windows();
    let bench = blank(&saved, 0);
    tool(Command::new("mke2fs").args(["-q", "-F", "-L", "theirs"]).arg(&bench.disk));
    let cause = refused(&bench, &saved, |_| {});
    assert!(cause.contains("is not blank") && cause.contains("theirs"), "{cause}");
    bench.deploy(&saved, Overwrite::WholeDisk).expect();
    // The same id on a disk is not enough: the operator's records must say that it is ours.
    let cause = refused(&bench, &saved, |_| {});
    assert!(cause.contains("did not put there as a whole disk"), "{cause}");
    let cause = refused(&bench, &saved, |order| order.own = Some(TableId::Mbr(0x78)));
    assert!(cause.contains("did not put there as a whole disk"), "{cause}");

    // What we deployed as a whole is replaced, also by another table.
    let mut order = saved.order(bench.selector());
    order.own = Some(TableId::Mbr(0x77));
    let DiskTable::Mbr { signature, .. } = &mut order.whole.table else { panic!() };
    *signature = 0x99;
    bench.carry_out(&order, &saved).expect();
    let id = tool(Command::new("sfdisk").arg("--disk-id").arg(&bench.disk));
    assert_eq!(id.trim(), "0x00000099");
}
