//! Whole tasks on loop disks, with real images: made by mke2fs, read by partclone, checked by
//! e2fsck, debugfs, sfdisk and grub-editenv.

mod deploy;
mod interrupted;
mod refused;
pub(crate) mod rig;
