//! A small ext4 file system as a real Clonezilla image: for tests of reading and writing images that need no boot.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache::cached;
use crate::clonezilla::{self, Packing};
use crate::loopdev::LoopDisk;
use crate::process::run;
use crate::progress::step;

/// The partition's size in MiB.
const PARTITION_MIB: u64 = 24;

/// Where the partition begins on the disk, in bytes.
const PARTITION_OFFSET: u64 = 1 << 20;

/// Sizes of the files with random content, in bytes: empty, inside a block, block borders, many extents' worth.
const FILE_SIZES: [usize; 8] = [0, 1, 4095, 4096, 4097, 100_000, 1_500_000, 5_000_000];

/// The tiny image and what it was made from.
#[derive(Debug, Clone)]
pub struct Tiny {
    /// The Clonezilla repository (what `ocs-sr -or` takes): the parent of the images.
    pub repository: PathBuf,
    /// The image directory with one zstd file.
    pub zstd: PathBuf,
    /// The image directory with gzip files in pieces of 1 MB.
    pub gzip_split: PathBuf,
    /// The source partition, raw.
    pub partition: PathBuf,
    /// The files that were put into the file system.
    pub tree: PathBuf,
}

/// Returns the tiny image; makes it when the recipe is new (about half a minute, nearly all of it Clonezilla's).
///
/// # Errors
/// Without root or without the tools that `cargo xtask setup` installs.
pub fn tiny() -> Result<Tiny> {
    let mut recipe = vec![include_str!("tiny.rs")];
    recipe.extend(clonezilla::SCRIPTS);
    let repository = cached("tiny", &recipe, build)?;
    Ok(Tiny {
        zstd: repository.join("tiny-zst"),
        gzip_split: repository.join("tiny-gz-split"),
        partition: repository.join("partition.raw"),
        tree: repository.join("tree"),
        repository,
    })
}

fn build(dir: &Path) -> Result<()> {
    let tree = dir.join("tree");
    fill(&tree).context("making files")?;
    let (file, partition) = (dir.join("disk.raw"), dir.join("partition.raw"));
    let disk = File::create(&file).context("creating the disk")?;
    disk.set_len(PARTITION_OFFSET + (PARTITION_MIB << 20)).context("sizing the disk")?;
    run(Command::new("sh").args(["-c", "echo start=1MiB,type=83 | sfdisk -q \"$0\""]).arg(&file))?;
    let disk = LoopDisk::attach(&file)?;
    disk.reread_partitions()?;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-L", "mc-tiny", "-d"]).arg(&tree);
    run(mke2fs.arg(disk.partition(1)?))?;
    step("saving a small partition with Clonezilla (zstd)", || {
        clonezilla::save_partition(&disk, 1, dir, "tiny-zst", Packing::Zstd)
    })?;
    step("saving a small partition with Clonezilla (gzip, split)", || {
        let packing = Packing::GzipSplit { megabytes: 1 };
        clonezilla::save_partition(&disk, 1, dir, "tiny-gz-split", packing)
    })?;
    let mut dd = Command::new("dd");
    dd.args(["bs=1M", "conv=sparse", "status=none"]);
    dd.arg(format!("if={}", disk.partition(1)?.display()));
    run(dd.arg(format!("of={}", partition.display())))?;
    drop(disk);
    std::fs::remove_file(&file).context("removing the disk")
}

fn fill(tree: &Path) -> Result<()> {
    std::fs::create_dir_all(tree.join("deep/er/est"))?;
    std::fs::create_dir(tree.join("empty"))?;
    for (index, size) in FILE_SIZES.into_iter().enumerate() {
        // The same bytes every time, and no compressor makes them smaller.
        let mut content = vec![0; size];
        blake3::Hasher::new_derive_key("metalcast lab, tiny image, file content")
            .update(&index.to_le_bytes())
            .finalize_xof()
            .fill(&mut content);
        std::fs::write(tree.join(format!("random-{size}")), content)?;
    }
    std::fs::write(tree.join("deep/er/est/text"), "the same line again\n".repeat(5000))?;
    std::fs::write(tree.join("größe 名.txt"), "a name beyond ASCII\n")?;
    File::create(tree.join("sparse"))?.set_len(8 << 20)?;
    std::fs::hard_link(tree.join("random-4097"), tree.join("deep/hard-link"))?;
    symlink("../random-100000", tree.join("deep/symlink"))?;
    symlink("x".repeat(200), tree.join("long-symlink"))?;
    Ok(())
}
