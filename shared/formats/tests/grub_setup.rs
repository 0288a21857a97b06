//! What this crate puts on a disk is what GRUB's own `grub-bios-setup` puts there. Needs root for a
//! loop device and a mount, and grub-pc-bin, grub-common, e2fsprogs, util-linux.
#![allow(clippy::unwrap_used)] // A test that cannot go on panics, helpers included.

use metalcast_formats::grub::{self, Place};
use metalcast_formats::layout::{self, SECTOR_BYTES};
use metalcast_shared::layout::Layout;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const MODULE_DIRECTORY: &str = "/usr/lib/grub/i386-pc";

#[test]
fn mbr_and_gap_are_those_of_grub_bios_setup() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let layout = Layout {
        name: "test".into(),
        boot_mib: 16,
        swap_mib: 0,
        reserve_mib: 0,
        slots: 1,
        slot_mib: 1,
    };
    let plan = layout::compute(&layout, 20 << 20, 512).unwrap();
    let disk = fs::File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    disk.set_len(20 << 20).unwrap();
    for write in plan.writes(0x1234_5678).unwrap() {
        disk.write_all_at(&write.bytes, write.byte_offset).unwrap();
    }
    // Something in the BPB area: it has to survive.
    disk.write_all_at(b"MSDOS5.0", 3).unwrap();
    let offset = format!("offset={}", plan.boot().start_lba * SECTOR_BYTES);
    run(Command::new("mke2fs").args(["-q", "-F", "-E", &offset]).arg(&path).arg("16m"));
    let core_path = directory.path().join("core.img");
    run(Command::new("grub-mkimage")
        .args(["-O", "i386-pc", "-p", "(,msdos1)/grub", "-o"])
        .arg(&core_path)
        .args(["biosdisk", "part_msdos", "ext2", "normal"]));

    let mut old_mbr = [0; 512];
    disk.read_exact_at(&mut old_mbr, 0).unwrap();
    let boot_img = fs::read(Path::new(MODULE_DIRECTORY).join("boot.img")).unwrap();
    let core = fs::read(&core_path).unwrap();
    let gap = plan.mbr_gap();
    let ours_core = grub::place_core(&core, gap.first_lba, gap.sectors).unwrap();
    let ours_mbr = grub::boot_sector(&boot_img, Place::Disk(&old_mbr), gap.first_lba).unwrap();

    grub_bios_setup(directory.path(), &path, &core_path);
    let mut theirs_mbr = [0; 512];
    disk.read_exact_at(&mut theirs_mbr, 0).unwrap();
    let mut theirs_core = vec![0; ours_core.len()];
    disk.read_exact_at(&mut theirs_core, gap.first_lba * SECTOR_BYTES).unwrap();
    assert!(theirs_mbr != old_mbr, "grub-bios-setup has written");
    assert!(ours_mbr == theirs_mbr, "MBR differs");
    assert!(ours_core == theirs_core, "core differs");
}

fn grub_bios_setup(directory: &Path, disk: &Path, core: &Path) {
    let loop_device = Loop::attach(disk);
    let mountpoint = directory.join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let mount = Mount::new(&format!("{}p1", loop_device.0), &mountpoint);
    for file in [&Path::new(MODULE_DIRECTORY).join("boot.img"), core] {
        fs::copy(file, mountpoint.join(file.file_name().unwrap())).unwrap();
    }
    let map = directory.join("device.map");
    fs::write(&map, format!("(hd0) {}\n", loop_device.0)).unwrap();
    run(Command::new(Path::new(MODULE_DIRECTORY).join("grub-bios-setup"))
        .args(["--no-rs-codes", "--skip-fs-probe", "-d"])
        .arg(&mountpoint)
        .arg("-m")
        .arg(&map)
        .arg(&loop_device.0));
    drop(mount);
    drop(loop_device);
}

struct Loop(String);

impl Loop {
    /// With partitions: partx makes them where the kernel itself reads no tables.
    fn attach(disk: &Path) -> Self {
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(disk));
        let device = Self(device.trim().to_owned());
        run(Command::new("partx").args(["--add", &device.0]));
        device
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("partx").args(["--delete", &self.0]).status();
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

struct Mount(PathBuf);

impl Mount {
    fn new(device: &str, at: &Path) -> Self {
        run(Command::new("mount").arg(device).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
