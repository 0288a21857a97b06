//! The images that other suites deploy are what they claim to be: partclone accepts them and Clonezilla restores them.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use metalcast_tests::clonezilla::restore_partition;
use metalcast_tests::image;
use metalcast_tests::loopdev::LoopDisk;
use metalcast_tests::paths;
use metalcast_tests::process::run;

/// Feeds the pieces of partition 1 through `unpack` to `partclone.chkimg`, which reads every checksum.
fn check_image(dir: &Path, unpack: &str, pieces: usize) -> Result<()> {
    let prefix = "sda1.ext4-ptcl-img.";
    let names = dir.read_dir()?.collect::<Result<Vec<_>, _>>()?;
    let found =
        names.iter().filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).count();
    ensure!(found >= pieces, "{} has {found} pieces", dir.display());
    let log = paths::scratch("chkimg")?;
    let script = format!(
        "set -o pipefail; cat {prefix}* | {unpack} | partclone.chkimg --logfile '{}/log' --source -",
        log.path().display()
    );
    run(Command::new("bash").args(["-c", &script]).current_dir(dir)).map(drop)
}

#[test]
fn partclone_accepts_the_tiny_image() {
    let tiny = image::tiny().unwrap();
    check_image(&tiny.zstd, "zstd -dc", 1).unwrap();
    check_image(&tiny.gzip_split, "gzip -dc", 2).unwrap();
}

#[test]
fn partclone_accepts_the_debian_image() {
    let debian = image::debian().unwrap();
    check_image(&debian.zstd, "zstd -dc", 1).unwrap();
    check_image(&debian.gzip_split, "gzip -dc", 2).unwrap();
}

#[test]
fn a_damaged_image_is_refused() {
    let tiny = image::tiny().unwrap();
    let scratch = paths::scratch("damaged").unwrap();
    let script = "zstd -dcq \"$0\"/sda1.* | head -c -5000 >\"$1\"/image";
    run(Command::new("sh").args(["-c", script]).arg(&tiny.zstd).arg(scratch.path())).unwrap();
    let mut chkimg = Command::new("partclone.chkimg");
    chkimg.arg("--logfile").arg(scratch.path().join("log"));
    assert!(run(chkimg.arg("--source").arg(scratch.path().join("image"))).is_err());
}

#[test]
fn clonezilla_restores_the_tiny_image_into_a_slot() {
    let tiny = image::tiny().unwrap();
    for name in ["tiny-zst", "tiny-gz-split"] {
        let scratch = paths::scratch("restore").unwrap();
        let file = scratch.path().join("disk");
        File::create(&file).unwrap().set_len(64 << 20).unwrap();
        let table =
            "printf 'start=1MiB,size=4MiB\\nstart=6MiB,type=5\\n\\n\\nstart=8MiB,size=30MiB\\n'";
        let script = format!("{table} | sfdisk -q \"$0\"");
        run(Command::new("sh").args(["-c", &script]).arg(&file)).unwrap();
        let disk = LoopDisk::attach(&file).unwrap();
        disk.reread_partitions().unwrap();
        restore_partition(&tiny.repository, name, 1, &disk, 5).unwrap();

        let slot = disk.partition(5).unwrap();
        run(Command::new("e2fsck").arg("-fn").arg(&slot)).unwrap();
        let files = scratch.path().join("files");
        std::fs::create_dir(&files).unwrap();
        let request = format!("rdump / {}", files.display());
        run(Command::new("debugfs").args(["-R", &request]).arg(&slot)).unwrap();
        std::fs::remove_dir(files.join("lost+found")).unwrap();
        let mut diff = Command::new("diff");
        run(diff.args(["-r", "--no-dereference"]).arg(&tiny.tree).arg(&files)).unwrap();
    }
}
