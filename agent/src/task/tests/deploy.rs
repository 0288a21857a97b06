//! Deployments that go well.

use super::rig::{MIB, Rig, TestImage, TestSource, tool};
use crate::disk::Operation;
use metalcast_shared::{
    event::{Step, TaskEvent},
    fix_up::{Adaptation, FixUpStep},
    to_agent::Overwrite,
};
use std::{process::Command, sync::atomic::Ordering};

#[test]
fn a_blank_disk_gets_table_menu_and_an_adapted_system() {
    let rig = Rig::new(TestImage::ordinary());
    let outcome = rig.deploy(5, Overwrite::BlankOnly).expect();
    let notes = outcome.notes().join("\n");

    tool(Command::new("sfdisk").arg("-V").arg(&rig.disk));
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(1)));
    let swap =
        tool(Command::new("blkid").args(["-p", "-o", "value", "-s", "UUID"]).arg(rig.node(2)));
    let swap = swap.trim();
    let uuid = &rig.image.uuid;
    let id = tool(Command::new("sfdisk").arg("--disk-id").arg(&rig.disk));
    let partuuid = format!("{}-05", id.trim().trim_start_matches("0x"));
    assert_eq!(
        rig.cat(5, "/etc/fstab"),
        format!("UUID={uuid} / ext4 errors=remount-ro 0 1\nUUID={swap} none swap sw 0 0\n")
    );
    assert_eq!(
        rig.cat(5, "/boot/grub/grub.cfg"),
        format!(
            "menuentry x {{\n\tlinux /boot/vmlinuz root=PARTUUID={partuuid} ro resume=UUID={swap}\n}}\n"
        )
    );
    assert_eq!(rig.cat(5, "/etc/hostname"), "node5\n");
    assert_eq!(rig.cat(5, "/etc/hosts"), "127.0.0.1\tlocalhost\n127.0.1.1\tnode5\n");
    assert_eq!(rig.cat(5, "/etc/machine-id"), "");
    assert_eq!(
        rig.cat(5, "/etc/metalcast/report.conf"),
        "url='http://10.0.0.1/report'\ntoken='aa'\n"
    );
    assert_eq!(rig.environment(), "saved_entry=slot5\n");
    assert!(rig.cat(1, "/grub/grub.cfg").contains("lab/debian@7"));
    assert!(rig.is_startable(5) && !rig.is_startable(6));
    assert!(rig.read(510, 2) == [0x55, 0xaa], "the disk has a boot sector");
    assert!(notes.contains("check-disk: loop") && notes.contains(super::rig::SERIAL), "{notes}");
    for step in [
        "partition: table written",
        "verify: ",
        "fix-up: hostname: node5 (was \"golden\")",
        "fix-up: ssh-host-keys: the image's 1 taken out; ed25519 is SHA256:",
        "activate: the agent used at most ",
    ] {
        assert!(notes.contains(step), "no {step:?} in {notes}");
    }
}

#[test]
fn an_operator_has_a_say_in_the_adaptation() {
    let rig = Rig::new(TestImage::ordinary());
    let mut order = rig.order(5, Overwrite::BlankOnly);
    let left_out = |step: &FixUpStep| !matches!(step, FixUpStep::AuthorizedKeys | FixUpStep::Fstab);
    order.fix_up.adaptation = Adaptation {
        without: FixUpStep::ALL.into_iter().filter(left_out).collect(),
        authorized_keys: vec!["ssh-ed25519 AAAAC3Nz me".parse().unwrap()],
        ..Adaptation::default()
    };
    let source = || TestSource::new(rig.image.clone());
    let notes = rig.run(&order, &source(), |_| {}).expect().notes().join("\n");
    assert!(notes.contains("fix-up: hostname: left out, as asked for"), "{notes}");
    assert!(!notes.contains("fstab: left out"), "{notes}");
    assert_eq!(rig.cat(5, "/etc/hostname"), "golden\n");
    assert_eq!(rig.cat(5, "/etc/ssh/ssh_host_rsa_key"), "the image's\n");
    assert_ne!(rig.cat(5, "/etc/machine-id"), "");
    assert!(rig.cat(5, "/boot/grub/grub.cfg").contains("root=/dev/sda1"));
    assert!(rig.cat(5, "/etc/fstab").contains(&format!("UUID={} / ", rig.image.uuid)));
    assert_eq!(rig.cat(5, "/root/.ssh/authorized_keys"), "ssh-ed25519 AAAAC3Nz me\n");

    let kernel_args = vec!["console=ttyS0,115200".parse().unwrap()];
    order.fix_up.adaptation = Adaptation { kernel_args, ..Adaptation::default() };
    order.overwrite = Overwrite::OwnSlot;
    rig.run(&order, &source(), |_| {}).expect();
    assert!(rig.cat(5, "/boot/grub/grub.cfg").contains(" console=ttyS0,115200\n"));
}

#[test]
fn writes_come_in_the_order_that_leaves_nothing_half_startable() {
    let rig = Rig::new(TestImage::ordinary());
    let outcome = rig.deploy(5, Overwrite::BlankOnly).expect();
    let start = rig.slot_start(5);
    let end = start + u64::from(rig.layout.slot_mib) * MIB;
    let operations = outcome.operations();
    let writes: Vec<(Step, u64, u64)> = operations
        .iter()
        .filter_map(|(step, operation)| match *operation {
            Operation::Write { offset, bytes } | Operation::Zero { offset, bytes } => {
                Some((*step, offset, bytes))
            }
            Operation::Flush => None,
        })
        .collect();
    let of = |wanted: Step| writes.iter().filter(move |(step, ..)| *step == wanted);
    assert_eq!(of(Step::CheckDisk).count(), 0);
    assert!(of(Step::Clear).any(|write| *write == (Step::Clear, start, MIB)));
    assert!(of(Step::Transfer).count() > 0);
    assert!(of(Step::Transfer).all(|(_, at, bytes)| *at >= start + MIB && at + bytes <= end));
    assert_eq!(of(Step::Verify).count(), 0);
    assert!(of(Step::FirstBlocks).count() > 0);
    assert!(of(Step::FirstBlocks).all(|(_, at, bytes)| *at >= start && at + bytes <= start + MIB));
    assert!(of(Step::BootCode).all(|(_, at, _)| *at <= start), "the slot itself is not touched");
    // The last of all writes, flushed before and after.
    let last = &operations[operations.len() - 3..];
    let sector = Operation::Write { offset: start, bytes: 512 };
    let flush = (Step::BootCode, Operation::Flush);
    assert_eq!(last, [flush, (Step::BootCode, sector), flush]);
    // Each step that writes ends with a flush.
    for step in [Step::Partition, Step::Clear, Step::Transfer, Step::FirstBlocks, Step::BootCode] {
        let (_, last) = operations.iter().rev().find(|(of, _)| *of == step).unwrap();
        assert_eq!(*last, Operation::Flush, "{step}");
    }
}

#[test]
fn before_it_is_adapted_the_slot_is_the_image_block_for_block() {
    let rig = Rig::new(TestImage::ordinary());
    let stop = |(event, cancel): (&TaskEvent, &crate::task::Cancel)| {
        if matches!(event, TaskEvent::StepDone { step: Step::FirstBlocks, .. }) {
            cancel.cancel("the test wants to look");
        }
    };
    let source = TestSource::new(rig.image.clone());
    let outcome = rig.run(&rig.order(5, Overwrite::BlankOnly), &source, stop);
    assert_eq!(outcome.cause(), "fix-up: cancelled: the test wants to look");
    assert_eq!(rig.differing_chunks(5), 0);
    assert!(!rig.is_startable(5));
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
    let zero = rig.image.chunks.iter().filter(|chunk| chunk.zero).count();
    assert!(zero > 0, "the image has chunks of zeros");
    assert_eq!(
        source.sent.load(Ordering::SeqCst),
        rig.image.chunks.len() - zero,
        "zeros are not sent"
    );
}

#[test]
fn a_second_slot_leaves_the_first_alone_and_gets_an_id_of_its_own() {
    let rig = Rig::new(TestImage::ordinary());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    let before = rig.slot_hash(5);
    let outcome = rig.deploy(6, Overwrite::BlankOnly).expect();
    assert!(before == rig.slot_hash(5), "slot 5 was changed");
    let notes = outcome.notes().join("\n");
    assert!(notes.contains("partition: table kept"), "{notes}");
    assert!(notes.contains("format: boot partition kept"), "{notes}");
    assert!(notes.contains("unique-fs-id"), "{notes}");
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(6)));
    let uuid =
        tool(Command::new("blkid").args(["-p", "-o", "value", "-s", "UUID"]).arg(rig.node(6)));
    assert_ne!(uuid.trim(), rig.image.uuid);
    assert!(rig.cat(6, "/etc/fstab").starts_with(&format!("UUID={} / ", uuid.trim())));
    assert_eq!(rig.environment(), "saved_entry=slot6\n");

    assert_eq!(
        rig.select(7).cause(),
        "check-disk: slot 7 cannot be started: its boot sector is blank"
    );
    rig.select(5).expect();
    assert_eq!(rig.environment(), "saved_entry=slot5\n");
    assert!(before == rig.slot_hash(5), "choosing a slot does not change it");
}

#[test]
fn what_is_on_the_disk_already_is_not_fetched() {
    let rig = Rig::new(TestImage::ordinary());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    let source = TestSource::new(rig.image.clone());
    rig.run(&rig.order(5, Overwrite::OwnSlot), &source, |_| {}).expect();
    let fetched = source.sent.load(Ordering::SeqCst);
    assert!((1..12).contains(&fetched), "{fetched} of {} chunks", rig.image.chunks.len());
    assert!(rig.is_startable(5));
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
}

#[test]
fn spoiled_frames_and_broken_connections_only_cost_time() {
    let rig = Rig::new(TestImage::ordinary());
    let source = TestSource::new(rig.image.clone());
    let spoiled = rig.image.chunks.iter().map(|chunk| (chunk.index, 2));
    source.spoil.lock().unwrap().extend(spoiled);
    source.breaks.store(3, Ordering::SeqCst);
    rig.run(&rig.order(5, Overwrite::BlankOnly), &source, |_| {}).expect();
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
}

#[test]
fn an_image_full_of_links_reaches_nothing_outside_of_the_slot() {
    use std::os::unix::fs::symlink;
    let host = tempfile::tempdir().unwrap();
    let victim = |name: &str| host.path().join(name);
    for name in ["fstab", "hostname", "config.dat"] {
        std::fs::write(victim(name), "/dev/sda1 / ext4 defaults 0 1\n").unwrap();
    }
    let image = TestImage::make(|root| {
        for dir in ["etc/default", "var/cache/debconf", "usr/lib/systemd", "boot"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::fs::write(root.join("usr/lib/systemd/systemd"), "").unwrap();
        let up = "../".repeat(20);
        symlink(victim("fstab"), root.join("etc/fstab")).unwrap();
        symlink(format!("{up}{}", victim("hostname").display()), root.join("etc/hostname"))
            .unwrap();
        symlink(victim("config.dat"), root.join("var/cache/debconf/config.dat")).unwrap();
        symlink(host.path(), root.join("etc/metalcast")).unwrap();
        symlink(host.path(), root.join("etc/systemd")).unwrap();
        symlink("/", root.join("boot/grub")).unwrap();
        // Its target exists in the image too: that is the one that counts.
        let inside = root.join(host.path().strip_prefix("/").unwrap());
        std::fs::create_dir_all(&inside).unwrap();
    });
    let rig = Rig::new(image.into());
    rig.deploy(5, Overwrite::BlankOnly).expect();
    assert!(rig.cat(5, &format!("{}/report.conf", host.path().display())).contains("token"));
    let left: Vec<_> = std::fs::read_dir(host.path()).unwrap().collect();
    assert_eq!(left.len(), 3, "nothing was made on the host: {left:?}");
    for name in ["fstab", "hostname", "config.dat"] {
        let text = std::fs::read_to_string(victim(name)).unwrap();
        assert_eq!(text, "/dev/sda1 / ext4 defaults 0 1\n", "{name}");
    }
}

#[test]
fn a_system_that_cannot_report_is_deployed_and_nobody_waits_for_it() {
    let image = TestImage::make(|root| std::fs::write(root.join("file"), "x").unwrap());
    let rig = Rig::new(image.into());
    let outcome = rig.deploy(5, Overwrite::BlankOnly).expect();
    assert!(outcome.notes().iter().any(|note| note.contains("has no systemd")));
    assert!(outcome.has_said(&TaskEvent::Done { reports: false }));
    assert!(rig.is_startable(5));
    let outcome = Rig::new(TestImage::ordinary()).deploy(5, Overwrite::BlankOnly).expect();
    assert!(outcome.has_said(&TaskEvent::Done { reports: true }));
}
