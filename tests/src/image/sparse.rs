//! A file system of nearly 2 TB with little in it, all over it, as a real Clonezilla image: for what grows with an
//! image's size and must not.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache::cached;
use crate::clonezilla::{self, Packing};
use crate::loopdev::LoopDisk;
use crate::process::run;
use crate::progress::step;

/// The partition's size in MiB, 1.9 TB: a partition table of the MBR kind ends at 2.2 TB, and a node's disk has a boot
/// and a swap partition before the slot.
pub const PARTITION_MIB: u64 = 1_812_000;

/// Where the partition begins on the disk, in MiB.
const PARTITION_OFFSET_MIB: u64 = 1;

/// Directories; the kernel spreads those of the top level over the whole file system.
const DIRECTORIES: usize = 200;

/// What each holds, in bytes.
const FILE_BYTES: usize = 150_000;

/// The image and what it was made from.
#[derive(Debug, Clone)]
pub struct Sparse {
    /// The image directory with one zstd file.
    pub zstd: PathBuf,
    /// The source disk, raw and sparse.
    pub disk: PathBuf,
}

/// Returns the image; makes it when the recipe is new (about a minute).
///
/// # Errors
/// Without root or without the tools that `cargo xtask setup` installs.
pub fn sparse() -> Result<Sparse> {
    let mut recipe = vec![include_str!("sparse.rs")];
    recipe.extend(clonezilla::SCRIPTS);
    let repository = cached("sparse", &recipe, build)?;
    Ok(Sparse { zstd: repository.join("sparse-zst"), disk: repository.join("disk.raw") })
}

fn build(dir: &Path) -> Result<()> {
    let file = dir.join("disk.raw");
    let disk = File::create(&file).context("creating the disk")?;
    disk.set_len((PARTITION_OFFSET_MIB + PARTITION_MIB) << 20).context("sizing the disk")?;
    let table = format!("echo start={PARTITION_OFFSET_MIB}MiB,type=83 | sfdisk -q \"$0\"");
    run(Command::new("sh").args(["-c", &table]).arg(&file))?;
    let disk = LoopDisk::attach(&file)?;
    disk.reread_partitions()?;
    step("making a file system of 1.9 TB", || fill(&disk, dir))?;
    step("saving it with Clonezilla", || {
        clonezilla::save_partition(&disk, 1, dir, "sparse-zst", Packing::Zstd)
    })
}

fn fill(disk: &LoopDisk, dir: &Path) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    // Few inodes, whose tables are all saved. Each group of 128 MiB has its own metadata in it, so that there are
    // chunks from the beginning to the end. GRUB reads neither of the last two features.
    mke2fs.args(["-q", "-F", "-t", "ext4", "-T", "largefile4", "-J", "size=16", "-L", "mc-sparse"]);
    mke2fs.args(["-O", "^flex_bg,^metadata_csum_seed,^orphan_file", "-E", "nodiscard"]);
    run(mke2fs.arg(disk.partition(1)?))?;
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("etc")).context("making a directory")?;
    std::fs::write(tree.join("etc/fstab"), "/dev/sda1 / ext4 errors=remount-ro 0 1\n")?;
    std::fs::write(tree.join("etc/hostname"), "sparse\n")?;
    for number in 0..DIRECTORIES {
        let mut content = vec![0; FILE_BYTES];
        blake3::Hasher::new_derive_key("metalcast lab, sparse image, file content")
            .update(&number.to_le_bytes())
            .finalize_xof()
            .fill(&mut content);
        let directory = tree.join(format!("directory-{number}"));
        std::fs::create_dir(&directory).context("making a directory")?;
        std::fs::write(directory.join("random"), content).context("writing a file")?;
    }
    // Through the kernel, which spreads what mke2fs(8) would put side by side. In a mount namespace of its own.
    let copy = "mkdir mnt; mount \"$0\" mnt; cp -r tree/. mnt; umount mnt; rmdir mnt; rm -r tree";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "slave", "sh", "-ec", copy])
        .arg(disk.partition(1)?)
        .current_dir(dir);
    run(&mut command).map(drop)
}
