//! `metalcast-agent capture` against the real tools: what it saves of filesystems that they made, they
//! check and restore, Clonezilla among them; what must not be saved is refused, and nothing half is left.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod disks;
mod faults;
#[path = "../../../shared/formats/tests/used/images.rs"]
mod images;

use images::{Access, Image, sh};
use metalcast_formats::{
    clonezilla::{Directory, Form},
    partclone::Reader,
};
use std::{path::Path, process::Command};

const AGENT: &str = env!("CARGO_BIN_EXE_metalcast-agent");

/// Types `metalcast-agent capture`; what it says, as an error if it fails.
fn capture(dir: &Path, arguments: &str) -> Result<String, String> {
    let mut command = Command::new(AGENT);
    command.arg("capture").args(arguments.split(' ')).current_dir(dir);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// The directory is one that an import takes, and every file is what its checksum says.
fn check_directory(dir: &Path) -> Directory {
    sh(dir, "b2sum --quiet -c B2SUMS; zstd -q -t *.zst");
    let directory = Directory::open(dir).unwrap();
    for image in directory.partitions.iter().filter(|image| image.form == Form::Partclone) {
        let opened = image.open().unwrap();
        Reader::open(opened.stream).unwrap().finish().unwrap();
    }
    assert!(directory.saved.is_some());
    directory
}

/// Saves a filesystem, restores it with partclone among garbage, and has it checked.
fn check_partition(image: &Image, checker: &str) {
    let dir = image.dir();
    let said = capture(dir, "--from image --to saved --name sda1").unwrap();
    assert!(said.contains("saved is complete"), "{said}");
    let directory = check_directory(&dir.join("saved"));
    let file = &directory.partitions[0];
    let parts = std::fs::read_to_string(dir.join("saved/parts")).unwrap();
    assert_eq!((file.name.as_str(), parts.as_str()), ("sda1", "sda1\n"));
    sh(
        dir,
        &format!(
            "tr '\\0' '\\245' < /dev/zero | head -c $(stat -c %s image) > copy
             zstd -dc saved/sda1.{0}-ptcl-img.zst |
                 partclone.restore -C -s - -O copy -L restore.log > pc.log 2>&1
             {checker} > check.log 2>&1 || {{ cat check.log; exit 1; }}",
            file.filesystem
        ),
    );
    assert_eq!(image.sums("copy"), image.sums("image"), "{checker}");
}

#[test]
fn linux_filesystems_are_whole_after_partclone_restored_them() {
    for (mib, mkfs, checker) in [
        (130, "mke2fs -q -F -t ext4 image", "e2fsck -fn copy"),
        (320, "mkfs.xfs -q image", "xfs_repair -n copy"),
        (260, "mkfs.btrfs -q image", "btrfs check --check-data-csum copy"),
    ] {
        check_partition(&Image::aged(mib, mkfs, Access::Kernel), checker);
    }
}

#[test]
fn other_filesystems_are_whole_after_partclone_restored_them() {
    for (mib, mkfs, access, checker) in [
        (120, "mkfs.ntfs -q -F -f image", Access::Ntfs3g, "ntfsfix -n copy"),
        (80, "mkfs.fat -F 32 image", Access::Mtools, "fsck.fat -n copy"),
        (200, "mkfs.exfat image", Access::ExfatFuse, "fsck.exfat -n copy"),
    ] {
        check_partition(&Image::aged(mib, mkfs, access), checker);
    }
}

#[test]
fn what_is_not_recognised_is_saved_whole_as_a_raw_image() {
    let image = Image::make(20, "{ head -c 20M /dev/urandom > image; }", Access::Kernel);
    let said = capture(image.dir(), "--from image --to saved --name sdb").unwrap();
    assert!(said.contains("every block of it"), "{said}");
    sh(
        image.dir(),
        "cd saved; b2sum --quiet -c B2SUMS; zstd -qdc sdb.dd-ptcl-img.zst | cmp - ../image",
    );
}
