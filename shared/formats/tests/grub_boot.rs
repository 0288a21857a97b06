//! The proof that a disk written by this crate starts: table, GRUB in the MBR, menu, slots, on a BIOS
//! machine in QEMU. GRUB's files come from the installed GRUB, file systems from mkfs tools;
//! all else is ours. Needs qemu-system-x86, grub-pc-bin, grub-common, e2fsprogs, xfsprogs, btrfs-progs.
#![allow(clippy::unwrap_used)] // A test that cannot go on panics, helpers included.

#[path = "grub_boot/lab.rs"]
mod lab;

use lab::{Disk, Filesystem};

/// Slots 5 and 7 are copies with the same UUID, as after deploying one image twice; 6 is blank; 8 is XFS,
/// which leaves no room for a boot sector; 9 is marked as being written; 10 is btrfs; 25 is ext4 with a
/// script that offers nothing.
fn disk() -> Disk {
    let disk = Disk::new();
    disk.install_slot(5, Filesystem::Ext4, lab::GRUB_CFG, &[]);
    disk.install_slot(7, Filesystem::Ext4, lab::GRUB_CFG, &[("next_entry", "other")]);
    disk.install_slot(8, Filesystem::Xfs, lab::GRUB_CFG, &[]);
    disk.install_slot(9, Filesystem::Ext4, lab::GRUB_CFG, &[]);
    disk.install_slot(10, Filesystem::Btrfs, lab::GRUB_CFG, &[]);
    disk.install_slot(25, Filesystem::Ext4, "echo no entry here\n", &[]);
    disk
}

#[test]
fn the_saved_slot_starts_and_another_one_once() {
    let disk = disk();
    disk.set_env("saved_entry", "slot5");
    let first = disk.boot_until("reached slot-5.");
    first.assert_has("slot hd0,msdos5");
    first.assert_lacks("Hello World");
    // An error inside of a menu entry costs ten seconds of "Press any key".
    first.after("Booting `More systems'").assert_lacks("error:");

    disk.set_env("next_entry", "slot7");
    disk.boot_until("one-shot entry");
    assert_eq!(disk.env("next_entry").as_deref(), Some(""), "GRUB takes the one-shot back");
    disk.boot_until("reached slot-5.");
    disk.set_env("next_entry", "slot7");
    disk.boot_until("reached slot-7."); // The slot's own one-shot is taken back as well.

    disk.set_env("saved_entry", "slot8");
    disk.boot_until("reached slot-8.");
    disk.set_env("saved_entry", "slot10");
    disk.boot_until("reached slot-10.");
}

#[test]
fn what_cannot_start_says_so_and_restarts() {
    let disk = disk();
    disk.boot_until_restart().assert_has("no slot is chosen");
    disk.set_env("saved_entry", "slot77");
    disk.boot_until_restart().assert_has("no slot is chosen");
    disk.set_env("saved_entry", "slot6");
    disk.boot_until_restart().assert_has("slot 6 has no boot sector");
    disk.set_env("saved_entry", "slot9");
    disk.set_env("slot9_state", "writing");
    let writing = disk.boot_until_restart();
    writing.assert_has("slot 9 is not complete");
    writing.assert_lacks("reached");
    disk.set_env("saved_entry", "slot25");
    disk.boot_until("no system of slot hd0,msdos25 was started");
    disk.wipe_boot_partition();
    disk.boot_until("the boot partition hd0,msdos1 has no menu");
}
