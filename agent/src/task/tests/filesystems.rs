//! Systems on XFS and btrfs: the same rules as for ext4, with boot sectors in other places and UUIDs
//! changed by other tools.

use super::rig::{MIB, Outcome, Rig, TestImage, TestSource, blkid, ordinary_tree, tool};
use crate::{disk::Operation, task::Cancel};
use metalcast_shared::{
    event::{Step, TaskEvent},
    to_agent::Overwrite,
};
use metalcast_sys::{
    loopdev::LoopDevice,
    mount::{Mount, MsFlags},
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// The least that the mkfs programs make without being told that it is a test.
const XFS_MIB: u64 = 304;
const BTRFS_MIB: u64 = 128;

/// A saved system; for btrfs it may be in a subvolume. Each call gives one with another UUID: tests run
/// at a time, and the kernel refuses or mixes up filesystems of one UUID.
fn image(filesystem: &str, mib: u64, subvolume: Option<&str>) -> Arc<TestImage> {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    File::create(&raw).unwrap().set_len(mib * MIB).unwrap();
    tool(Command::new(format!("mkfs.{filesystem}")).arg("-q").arg(&raw));
    let uuid = blkid(&raw, "UUID");
    let device = LoopDevice::attach(&raw, Default::default()).unwrap();
    let at = dir.path().join("mnt");
    std::fs::create_dir(&at).unwrap();
    let mount = Mount::new(device.path(), &at, filesystem, MsFlags::empty(), None).unwrap();
    let root = match subvolume {
        Some(name) => {
            let root = at.join(name);
            tool(Command::new("btrfs").args(["subvolume", "create"]).arg(&root));
            root
        }
        None => at.clone(),
    };
    ordinary_tree(&root);
    let fstab = format!("UUID={uuid} / {filesystem} defaults 0 0\n");
    std::fs::write(root.join("etc/fstab"), fstab).unwrap();
    let menu = format!("search --set=root {uuid}\nlinux /boot/vmlinuz root=UUID={uuid} ro\n");
    std::fs::write(root.join("boot/grub/grub.cfg"), menu).unwrap();
    mount.close().unwrap();
    Arc::new(TestImage::save(device.path(), filesystem, uuid))
}

pub(crate) fn xfs() -> Arc<TestImage> {
    image("xfs", XFS_MIB, None)
}

/// One that Linux resizes.
pub(super) fn large_btrfs() -> Arc<TestImage> {
    image("btrfs", 288, None)
}

pub(super) fn small_btrfs() -> Arc<TestImage> {
    image("btrfs", BTRFS_MIB, None)
}

/// The filesystem's own check, which changes nothing.
pub(super) fn check(node: &Path) {
    match blkid(node, "TYPE").as_str() {
        "xfs" => tool(Command::new("xfs_repair").arg("-n").arg(node)),
        "btrfs" => tool(Command::new("btrfs").args(["check", "--readonly"]).arg(node)),
        "ext4" => tool(Command::new("e2fsck").args(["-f", "-n"]).arg(node)),
        other => panic!("{other} in {}", node.display()),
    };
}

/// A file's text as GRUB reads it.
pub(super) fn grub_cat(node: &Path, file: &str) -> String {
    let file = format!("(loop0){file}");
    tool(Command::new("grub-fstest").arg(node).args(["cat", &file]))
}

fn stopped_after(rig: &Rig, step: Step) -> Outcome {
    let stop = |(event, cancel): (&TaskEvent, &Cancel)| {
        if matches!(event, TaskEvent::StepDone { step: done, .. } if *done == step) {
            cancel.cancel("the test wants to look");
        }
    };
    let source = TestSource::new(rig.image.clone());
    rig.run(&rig.order(5, Overwrite::BlankOnly), &source, stop)
}

#[test]
fn xfs_keeps_its_first_sector_and_starts_from_the_gap() {
    let rig = Rig::new(xfs());
    let outcome = rig.deploy(5, Overwrite::BlankOnly).expect();
    let (slot, gap) = (rig.slot_start(5), rig.gap_start(5));
    assert_eq!(rig.read(slot, 4), b"XFSB");
    assert!(!rig.has_boot_sector(slot) && rig.has_boot_sector(gap));
    check(&rig.node(5));
    assert_eq!(blkid(&rig.node(5), "UUID"), rig.image.uuid, "nothing else has it here");
    assert_eq!(grub_cat(&rig.node(5), "/etc/hostname"), "node5\n");
    assert_eq!(
        grub_cat(&rig.node(5), "/etc/fstab"),
        format!("UUID={} / xfs defaults 0 0\n", rig.image.uuid)
    );
    assert_eq!(rig.environment(), "saved_entry=slot5\n");
    let operations = outcome.operations();
    let writes = operations.iter().filter_map(|(step, operation)| match *operation {
        Operation::Write { offset, bytes } => Some((*step, offset, bytes)),
        Operation::Zero { .. } | Operation::Flush => None,
    });
    let last: Vec<_> = writes.filter(|(_, at, _)| (gap..slot + MIB).contains(at)).collect();
    assert_eq!(last.last(), Some(&(Step::BootCode, gap, 512)), "the boot sector is the last");
    let in_slot = last.iter().rfind(|(_, at, _)| *at >= slot);
    assert_eq!(in_slot.unwrap().0, Step::FirstBlocks, "boot code leaves the superblock alone");
}

#[test]
fn btrfs_gets_its_boot_sector_in_the_room_before_its_superblock() {
    let rig = Rig::new(small_btrfs());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    assert!(rig.has_boot_sector(rig.slot_start(5)) && !rig.has_boot_sector(rig.gap_start(5)));
    check(&rig.node(5));
    assert_eq!(blkid(&rig.node(5), "UUID"), rig.image.uuid);
    assert_eq!(grub_cat(&rig.node(5), "/etc/hostname"), "node5\n");
}

#[test]
fn before_it_is_adapted_the_slot_is_the_image_block_for_block() {
    for image in [xfs(), small_btrfs()] {
        let rig = Rig::new(image);
        let transferred = stopped_after(&rig, Step::Verify);
        assert!(transferred.cause().starts_with("first-blocks: cancelled"));
        assert!(
            rig.read(rig.slot_start(5), MIB).iter().all(|byte| *byte == 0),
            "no filesystem yet"
        );
        assert!(stopped_after(&rig, Step::FirstBlocks).cause().starts_with("fix-up: cancelled"));
        assert_eq!(rig.differing_chunks(5), 0);
        assert!(!rig.is_startable(5));
        check(&rig.node(5));
    }
}

#[test]
fn copies_in_two_slots_can_be_used_side_by_side() {
    for image in [xfs(), small_btrfs()] {
        let rig = Rig::new(image);
        rig.deploy(5, Overwrite::BlankOnly).expect();
        let before = rig.slot_hash(5);
        let notes = rig.deploy(6, Overwrite::BlankOnly).expect().notes().join("\n");
        assert!(before == rig.slot_hash(5), "slot 5 was changed");
        let node = rig.node(6);
        let uuid = blkid(&node, "UUID");
        let image_uuid = &rig.image.uuid;
        assert_ne!(uuid, *image_uuid);
        let note = format!("unique-fs-id: {image_uuid} is on this node already; it is {uuid} now");
        assert!(notes.contains(&note), "{notes}");
        check(&rig.node(5));
        check(&node);
        assert!(grub_cat(&node, "/etc/fstab").starts_with(&format!("UUID={uuid} / ")));
        let menu = grub_cat(&node, "/boot/grub/grub.cfg");
        assert!(menu.starts_with(&format!("search --set=root {uuid}\n")), "{menu}");
        assert!(menu.contains(&format!(" root=UUID={uuid} ")), "{menu}");

        let dir = tempfile::tempdir().unwrap();
        let driver = blkid(&node, "TYPE");
        let mounts = [5, 6].map(|slot| {
            let at: PathBuf = dir.path().join(slot.to_string());
            std::fs::create_dir(&at).unwrap();
            Mount::new(&rig.node(slot), &at, &driver, MsFlags::MS_RDONLY, None).unwrap()
        });
        for (slot, mount) in [5, 6].into_iter().zip(mounts) {
            let name = std::fs::read_to_string(mount.path().join("etc/hostname")).unwrap();
            assert_eq!(name, format!("node{slot}\n"));
            mount.close().unwrap();
        }
        // Once more the same: the kernel has seen both by now.
        rig.deploy(6, Overwrite::OwnSlot).expect();
        rig.deploy(5, Overwrite::OwnSlot).expect();
        assert_ne!(blkid(&rig.node(5), "UUID"), blkid(&node, "UUID"));
        check(&rig.node(5));
        check(&node);
    }
}

#[test]
fn an_xfs_slot_is_never_startable_half_way() {
    let image = xfs();
    let rig = Rig::new(image.clone());
    let whole = rig.deploy(5, Overwrite::BlankOnly).expect().operations();
    let transfer = whole.iter().filter(|(step, _)| *step == Step::Transfer).count();
    let points = (0..whole.len()).filter(|at| match whole[*at].0 {
        Step::Clear | Step::FirstBlocks | Step::BootCode => true,
        Step::Transfer => at % (transfer / 2).max(1) == 0,
        _ => false,
    });
    let points: Vec<usize> = points.collect();
    assert!(points.len() > 6, "{points:?}");
    for at in points {
        let rig = Rig::new(image.clone());
        rig.refuse(move |count, _| count >= at);
        let died = rig.deploy(5, Overwrite::BlankOnly);
        assert!(died.cause().contains("power is gone"), "operation {at}: {}", died.cause());
        let sector = Operation::Write { offset: rig.gap_start(5), bytes: 512 };
        let complete = died.operations().contains(&(Step::BootCode, sector));
        assert_eq!(rig.is_startable(5), complete, "operation {at}");
        assert!(rig.environment().contains("slot5_state=writing"), "operation {at}");
        rig.refuse(|_, _| false);
        rig.deploy(5, Overwrite::BlankOnly).expect();
        check(&rig.node(5));
        assert_eq!(rig.environment(), "saved_entry=slot5\n");
    }
}

#[test]
fn another_filesystem_in_the_same_slot_leaves_no_boot_sector_of_the_last_one() {
    let xfs = xfs();
    let mut rig = Rig::new(xfs.clone());
    for image in [xfs.clone(), TestImage::ordinary(), xfs.clone(), small_btrfs(), xfs] {
        let in_gap = image.partition().filesystem == "xfs";
        rig.image = image;
        rig.deploy(5, Overwrite::OwnSlot).expect();
        assert_eq!(rig.has_boot_sector(rig.gap_start(5)), in_gap);
        assert_eq!(rig.has_boot_sector(rig.slot_start(5)), !in_gap);
        check(&rig.node(5));
    }
}

#[test]
fn a_system_in_a_btrfs_subvolume_is_adapted_there() {
    let rig = Rig::new(image("btrfs", BTRFS_MIB, Some("@rootfs")));
    let notes = rig.deploy(5, Overwrite::BlankOnly).expect().notes().join("\n");
    assert!(notes.contains("fix-up: the system is in subvolume @rootfs"), "{notes}");
    assert_eq!(grub_cat(&rig.node(5), "/@rootfs/etc/hostname"), "node5\n");
    check(&rig.node(5));

    let rig = Rig::new(image("btrfs", BTRFS_MIB, Some("elsewhere")));
    let cause = rig.deploy(5, Overwrite::BlankOnly).cause();
    assert!(cause.contains("no system in the default subvolume"), "{cause}");
    assert!(!rig.is_startable(5));
}

/// A kernel may remember a btrfs after it was unmounted, and the new one has the same UUID.
#[test]
fn a_btrfs_that_moved_to_another_slot_is_not_taken_for_the_old_one() {
    for subvolume in [None, Some("@")] {
        let mut rig = Rig::new(image("btrfs", BTRFS_MIB, subvolume));
        let moved = rig.image.clone();
        rig.deploy(5, Overwrite::BlankOnly).expect();
        rig.image = TestImage::ordinary();
        rig.deploy(5, Overwrite::OwnSlot).expect();
        rig.image = moved;
        rig.deploy(6, Overwrite::BlankOnly).expect();
        assert_eq!(blkid(&rig.node(6), "UUID"), rig.image.uuid);
        check(&rig.node(6));
    }
}
