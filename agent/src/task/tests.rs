//! Whole tasks on loop disks, with real images: made by mke2fs, mkfs.xfs and mkfs.btrfs, read by
//! partclone, checked by the filesystems' own tools, debugfs, sfdisk, grub-editenv and grub-fstest.

mod archive;
mod capture;
mod capture_archive;
mod compare;
mod deploy;
mod filesystems;
mod grow;
mod interrupted;
mod refused;
pub(crate) mod rig;
mod whole_disk;

pub(crate) use filesystems::xfs;
