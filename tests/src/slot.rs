//! A slot of a disk file as tools that know nothing of us see it: where it lies, what it is called, whether it changed.
//!
//! It reads the file while no machine runs from it, and needs no loop device.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use serde_json::Value;

use crate::process::run;

/// What sfdisk(8) counts in, for a disk file.
const SECTOR_BYTES: u64 = 512;

/// What is hashed at a time; a block of zeros counts as a hole.
const BLOCK_BYTES: u64 = 64 << 10;

/// A logical partition and the gap in front of it, in bytes of the disk file.
#[derive(Debug, Clone)]
pub struct Slot {
    file: PathBuf,
    /// From the end of what is before the partition: its EBR and what a boot loader put behind that.
    pub gap: Range<u64>,
    /// The partition itself.
    pub partition: Range<u64>,
}

impl Slot {
    /// Finds a slot by its partition number.
    ///
    /// # Errors
    /// When sfdisk(8) reads no table or knows no such partition.
    pub fn of(file: &Path, number: u32) -> Result<Self> {
        let table = run(Command::new("sfdisk").arg("--json").arg(file))?;
        let table: Value = serde_json::from_str(&table).context("parsing sfdisk's answer")?;
        let listed = table["partitiontable"]["partitions"].as_array();
        let mut all = Vec::new();
        for entry in listed.context("a table without partitions")? {
            let node = entry["node"].as_str().context("a partition without a name")?;
            let name = node.strip_prefix(&*file.to_string_lossy()).unwrap_or(node);
            let number = name.trim_start_matches('p').parse::<u32>();
            let start = entry["start"].as_u64().context("a partition without a start")?;
            let size = entry["size"].as_u64().context("a partition without a size")?;
            let range = start * SECTOR_BYTES..(start + size) * SECTOR_BYTES;
            all.push((number.with_context(|| format!("reading the number of {node}"))?, range));
        }
        let found = all.iter().find(|(listed, _)| *listed == number);
        let partition = found.with_context(|| format!("no partition {number}"))?.1.clone();
        // Ends of those before it, and the start of the extended one around it.
        let borders = all.iter().flat_map(|(_, other)| [other.start, other.end]);
        let gap_start = borders.filter(|border| *border < partition.start).max();
        let gap = gap_start.context("nothing lies before the partition")?..partition.start;
        Ok(Self { file: file.to_owned(), gap, partition })
    }

    /// A hash of gap and partition together. Zeros hash alike, whether they were written or never were.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn hash(&self) -> Result<String> {
        let file = File::open(&self.file).context("opening the disk file")?;
        let mut hasher = blake3::Hasher::new();
        let mut at = self.gap.start;
        while let Some(data) = next_data(&file, at)?.filter(|data| *data < self.partition.end) {
            at = data / BLOCK_BYTES * BLOCK_BYTES;
            let length = BLOCK_BYTES.min(self.partition.end - at);
            let mut block = vec![0; usize::try_from(length).context("sizing a block")?];
            file.read_exact_at(&mut block, at).context("reading the disk file")?;
            // The first block may begin before the gap.
            let before = usize::try_from(self.gap.start.saturating_sub(at)).unwrap_or(block.len());
            let ours = &block[before.min(block.len())..];
            if ours.iter().any(|byte| *byte != 0) {
                hasher.update(&at.to_le_bytes()).update(ours);
            }
            at += length;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The UUID of its filesystem, by blkid(8).
    ///
    /// # Errors
    /// When there is none.
    pub fn filesystem_uuid(&self) -> Result<String> {
        let mut blkid = Command::new("blkid");
        blkid.args(["--probe", "--match-tag", "UUID", "--output", "value", "--offset"]);
        blkid.arg(self.partition.start.to_string()).arg(&self.file);
        Ok(run(&mut blkid)?.trim().to_owned())
    }

    /// Loses the partition's content from `offset` on: it reads as zeros.
    ///
    /// # Errors
    /// When fallocate(1) cannot.
    pub fn lose_from(&self, offset: u64) -> Result<()> {
        let start = self.partition.start + offset;
        let length = self.partition.end.saturating_sub(start);
        let mut command = Command::new("fallocate");
        command.arg("--punch-hole").args(["--offset", &start.to_string()]);
        run(command.args(["--length", &length.to_string()]).arg(&self.file)).map(drop)
    }
}

/// Where data begins at or after `at`; `None` when nothing but a hole is left.
fn next_data(file: &File, at: u64) -> Result<Option<u64>> {
    let offset = i64::try_from(at).context("an offset beyond all files")?;
    match lseek(file, offset, Whence::SeekData) {
        Ok(found) => Ok(Some(u64::try_from(found).context("a negative offset")?)),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error).context("looking for data in the disk file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_found_and_its_changes_are_seen() {
        let dir = crate::paths::scratch("slot").unwrap();
        let path = dir.path().join("node1.disk");
        let file = File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        let table = "start=1MiB,size=4MiB\\nstart=6MiB,type=5\\n\\n\\nstart=8MiB,size=8MiB\\nstart=18MiB,size=8MiB\\n";
        let script = format!("printf '{table}' | sfdisk -q \"$0\"");
        run(Command::new("sh").args(["-c", &script]).arg(&path)).unwrap();
        let slot = Slot::of(&path, 6).unwrap();
        assert_eq!(
            (slot.gap.clone(), slot.partition.clone()),
            (16 << 20..18 << 20, 18 << 20..26 << 20)
        );
        assert_eq!(Slot::of(&path, 5).unwrap().gap, 6 << 20..8 << 20);
        assert!(Slot::of(&path, 7).is_err());

        let blank = slot.hash().unwrap();
        for outside in [slot.gap.start - 1, slot.partition.end] {
            file.write_all_at(b"x", outside).unwrap();
            assert_eq!(slot.hash().unwrap(), blank, "{outside}");
        }
        for inside in [slot.gap.start, slot.partition.start + 5_000_000, slot.partition.end - 1] {
            file.write_all_at(b"x", inside).unwrap();
            assert_ne!(slot.hash().unwrap(), blank, "{inside}");
            file.write_all_at(b"\0", inside).unwrap();
            assert_eq!(slot.hash().unwrap(), blank, "{inside}");
        }
        file.write_all_at(b"x", slot.partition.start + 4096).unwrap();
        slot.lose_from(4096).unwrap();
        assert_eq!(slot.hash().unwrap(), blank);
    }
}
