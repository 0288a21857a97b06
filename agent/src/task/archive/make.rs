//! A new filesystem in the slot, by its own tools.

use super::super::{StepLog, tools};
use metalcast_shared::fresh::{Fresh, FreshKind};
use std::path::Path;

/// Features named one by one: GRUB 2.06 reads no filesystem with `metadata_csum_seed` or
/// `orphan_file`, which newer tools choose by themselves.
const EXT4: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,\
                    sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
const EXT3: &str =
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file";
const EXT2: &str = "none,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file";

pub(super) fn filesystem(fresh: &Fresh, node: &Path, log: &StepLog<'_>) -> anyhow::Result<()> {
    let label = fresh.label.as_ref().map(|label| ["-L", label.as_str()]);
    let label = label.as_ref().map_or(&[][..], |label| &label[..]);
    let (program, options) = match fresh.kind {
        FreshKind::Ext4 => ("mke2fs", ext("ext4", EXT4)),
        FreshKind::Ext3 => ("mke2fs", ext("ext3", EXT3)),
        FreshKind::Ext2 => ("mke2fs", ext("ext2", EXT2)),
        // GRUB before 2.12 reads no XFS with large extent counters.
        FreshKind::Xfs => ("mkfs.xfs", vec!["-q", "-f", "-K", "-i", "nrext64=0"]),
        FreshKind::Btrfs => ("mkfs.btrfs", vec!["-q", "-f", "-K"]),
    };
    tools::run(program, &[&options[..], label].concat(), node, log)
}

/// Inodes of 256 bytes have room for nanoseconds.
fn ext(kind: &'static str, features: &'static str) -> Vec<&'static str> {
    vec!["-q", "-F", "-t", kind, "-I", "256", "-O", features, "-E", "nodiscard"]
}
