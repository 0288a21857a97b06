//! Orders that are refused before anything is written.

use super::rig::{MIB, Rig, TestImage, TestSource, tool};
use metalcast_shared::{
    event::{Step, TaskEvent},
    to_agent::{Deploy, Overwrite},
};
use std::process::Command;

/// The order fails with this text, and the disk is as it was.
fn check(rig: &Rig, order: &Deploy, expected: &str) {
    let before = rig.whole_hash();
    let cause = rig.run(order, &TestSource::new(rig.image.clone()), |_| {}).cause();
    assert!(cause.contains(expected), "{cause}");
    assert!(before == rig.whole_hash(), "something was written: {cause}");
}

#[test]
fn foreign_data_is_not_overwritten_without_leave() {
    let rig = Rig::new(TestImage::ordinary());
    tool(Command::new("mke2fs").args(["-q", "-F", "-L", "payroll"]).arg(&rig.disk));
    let order = |overwrite| rig.order(5, overwrite);
    check(&rig, &order(Overwrite::BlankOnly), "ext2 \"payroll\"");
    check(&rig, &order(Overwrite::OwnSlot), "leave to overwrite anything");
    rig.deploy(5, Overwrite::WholeDisk).expect();
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
}

#[test]
fn another_table_is_not_overwritten_without_leave() {
    for script in ["label: gpt\n,8M\n", "label: dos\n,8M\n"] {
        let rig = Rig::new(TestImage::ordinary());
        metalcast_sys::child::run(
            {
                let mut sfdisk = Command::new("sfdisk");
                sfdisk.arg("-q").arg("--no-reread").arg(&rig.disk);
                sfdisk
            },
            script.as_bytes(),
            metalcast_sys::child::Limits {
                time: std::time::Duration::from_secs(20),
                output_bytes: 4096,
            },
        )
        .unwrap();
        check(&rig, &rig.order(5, Overwrite::BlankOnly), "does not have the layout");
        rig.deploy(5, Overwrite::WholeDisk).expect();
        let dump = tool(Command::new("sfdisk").arg("-d").arg(&rig.disk));
        assert!(dump.contains("label: dos") && dump.contains("p7 "), "{dump}");
        let wipefs = tool(Command::new("wipefs").arg("--noheadings").arg(&rig.disk));
        assert!(!wipefs.contains("gpt"), "{wipefs}");
    }
}

#[test]
fn a_slot_is_only_overwritten_as_far_as_the_order_goes() {
    let rig = Rig::new(TestImage::ordinary());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    check(&rig, &rig.order(5, Overwrite::BlankOnly), "slot 5 holds lab/debian@7");
    rig.write(rig.slot_start(6) + 70 * 512, b"someone's");
    check(&rig, &rig.order(6, Overwrite::OwnSlot), "slot 6 holds unknown data");
    tool(Command::new("mkswap").arg(rig.node(7)));
    check(&rig, &rig.order(7, Overwrite::OwnSlot), "slot 7 holds swap");
    tool(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-L", "theirs"]).arg(rig.node(1)));
    check(
        &rig,
        &rig.order(5, Overwrite::OwnSlot),
        "partition 1 is to be the boot partition, but holds",
    );
}

#[test]
fn a_disk_is_found_by_what_it_is_or_not_at_all() {
    let rig = Rig::new(TestImage::ordinary());
    let order = rig.order(5, Overwrite::WholeDisk);
    let with = |change: &dyn Fn(&mut Deploy)| {
        let mut order = order.clone();
        change(&mut order);
        order
    };
    check(&rig, &with(&|o| o.disk.serial = Some("OTHER".into())), "no disk with serial OTHER");
    check(&rig, &with(&|o| o.disk.bytes += 512), "the node has loop");
    check(&rig, &with(&|o| o.slot = 4), "layout small has no slot 4");
    check(&rig, &with(&|o| o.slot = 8), "layout small has no slot 8");
    check(&rig, &with(&|o| o.layout.slot_mib = 1000), "needs");
    check(&rig, &with(&|o| o.layout.slot_mib = 40), "slot 5 has 41943040");
    let mounted = tempfile::tempdir().unwrap();
    tool(Command::new("mke2fs").arg("-q").arg("-F").arg(&rig.disk));
    let flags = metalcast_sys::mount::MsFlags::MS_RDONLY;
    let mount =
        metalcast_sys::mount::Mount::new(&rig.disk, mounted.path(), "ext2", flags, None).unwrap();
    check(&rig, &order, "it is in use");
    mount.close().unwrap();
}

#[test]
fn only_the_controllers_manifest_is_taken() {
    let rig = Rig::new(TestImage::ordinary());
    let order = rig.order(5, Overwrite::WholeDisk);
    let with = |change: &dyn Fn(&mut Deploy)| {
        let mut order = order.clone();
        change(&mut order);
        order
    };
    check(&rig, &with(&|o| o.manifest.root[20] ^= 1), "not signed by this controller");
    check(&rig, &with(&|o| o.manifest.signature[0] ^= 1), "not signed by this controller");
    check(&rig, &with(&|o| o.manifest.signature.clear()), "not signed by this controller");
    check(&rig, &with(&|o| o.image = "lab/other@7".parse().unwrap()), "is of lab/debian@7");
    check(&rig, &with(&|o| o.partition = "sda9".into()), "has no partition sda9");
}

#[test]
fn a_table_without_partitions_is_free_and_what_hides_behind_one_is_not() {
    let rig = Rig::new(TestImage::ordinary());
    tool(Command::new("mkfs.vfat").args(["-I", "-F", "32"]).arg(&rig.disk));
    check(&rig, &rig.order(5, Overwrite::AnySlot), "it holds: vfat");
    rig.write(0, &vec![0; MIB as usize]);
    let empty_table = || {
        let limits = metalcast_sys::child::Limits {
            time: std::time::Duration::from_secs(20),
            output_bytes: 4096,
        };
        let mut sfdisk = Command::new("sfdisk");
        sfdisk.args(["-q", "--no-reread", "--wipe=never"]).arg(&rig.disk);
        metalcast_sys::child::run(sfdisk, b"label: dos\n", limits).unwrap();
    };
    empty_table();
    let mut label = b"LABELONE".to_vec();
    label.resize(24, 0);
    label.extend(b"LVM2 001");
    rig.write(512, &label);
    check(&rig, &rig.order(5, Overwrite::AnySlot), "it holds: LVM2_member");
    rig.write(512, &[0; 32]);
    rig.write(700 * 512, b"someone's");
    check(&rig, &rig.order(5, Overwrite::AnySlot), "it holds: unknown data");
    rig.write(700 * 512, &[0; 9]);
    rig.deploy(5, Overwrite::BlankOnly).expect();
}

/// A bus was reset between two steps: what had our disk's name is another disk now.
#[test]
fn a_name_that_changed_hands_is_not_written_to() {
    for step in [Step::Format, Step::Clear, Step::FirstBlocks, Step::FixUp, Step::BootCode] {
        let rig = Rig::new(TestImage::ordinary());
        let reset = |(event, _): (&TaskEvent, &crate::task::Cancel)| {
            if *event == (TaskEvent::StepStarted { step }) {
                rig.found.lock().unwrap().name = "elsewhere".into();
            }
        };
        let source = TestSource::new(rig.image.clone());
        let outcome = rig.run(&rig.order(5, Overwrite::BlankOnly), &source, reset);
        let cause = outcome.cause();
        assert!(cause.starts_with(&step.to_string()) && cause.contains("elsewhere"), "{cause}");
        let writes = outcome.operations().into_iter().filter(|(at, _)| *at == step).count();
        assert_eq!(writes, 0, "{step} wrote to a disk that is no longer ours");
    }
}
