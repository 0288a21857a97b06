//! The lab's Debian, filled up with what this machine has in its `/usr`: about 1 GiB of real data, as a real Clonezilla
//! image. For measurements; other machines have other files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache::cached;
use super::debian::{Debian, debian};
use crate::clonezilla::{self, Packing};
use crate::loopdev::LoopDisk;
use crate::paths;
use crate::process::run;
use crate::progress::step;

/// The file system has room for what there is to be, and some.
const PARTITION_MIB: u64 = 2048;

/// Where it begins on the disk, in MiB.
const PARTITION_START_MIB: u64 = 1;

/// What is added: Debian and the file system's own take the rest of 1 GiB.
const ADDED_BYTES: u64 = 640 << 20;

/// The name of the image directory.
const NAME: &str = "filled-zst";

/// Returns the image directory, packed with zstd; makes it when the recipe is new (a minute, and [`debian`]'s time).
///
/// # Errors
/// As [`debian`].
pub fn filled() -> Result<PathBuf> {
    let debian = debian()?;
    let source = debian.repository.to_string_lossy().into_owned();
    let recipe = [&source, include_str!("filled.rs"), include_str!("filled/fill.sh")];
    cached("filled", &recipe, |dir| build(&debian, dir)).map(|dir| dir.join(NAME))
}

fn build(debian: &Debian, dir: &Path) -> Result<()> {
    let path = dir.join("disk.raw");
    let file = File::create(&path).context("creating the disk")?;
    let mib = PARTITION_START_MIB + PARTITION_MIB;
    file.set_len(mib << 20).context("sizing the disk")?;
    let table = format!("echo start={PARTITION_START_MIB}MiB,type=83 | sfdisk -q \"$0\"");
    run(Command::new("sh").args(["-c", &table]).arg(&path))?;
    let disk = LoopDisk::attach(&path)?;
    disk.reread_partitions()?;
    let partition = disk.partition(1)?;
    step("filling a Debian up with this machine's files", || fill(debian, &partition, dir))?;
    step("saving it with Clonezilla (zstd)", || {
        clonezilla::save_partition(&disk, 1, dir, NAME, Packing::Zstd)
    })?;
    drop(disk);
    std::fs::remove_file(&path).context("removing the disk")
}

fn fill(debian: &Debian, partition: &Path, dir: &Path) -> Result<()> {
    let source = LoopDisk::attach(&debian.disk)?;
    source.reread_partitions()?;
    let mut dd = Command::new("dd");
    dd.args(["bs=1M", "status=none"]).arg(format!("if={}", source.partition(1)?.display()));
    run(dd.arg(format!("of={}", partition.display())))?;
    run(Command::new("e2fsck").args(["-f", "-p"]).arg(partition))?;
    run(Command::new("resize2fs").arg(partition))?;
    let mount_point = dir.join("mnt");
    std::fs::create_dir(&mount_point).context("creating a mount point")?;
    let script = paths::workspace().join("tests/src/image/filled/fill.sh");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "sh"]).arg(script);
    run(command.arg(partition).arg(&mount_point).arg(ADDED_BYTES.to_string()))?;
    std::fs::remove_dir(&mount_point).context("removing a mount point")
}
