//! GRUB 2 for BIOS put on a disk without `grub-install`: patching of GRUB's own files, as bytes.
//!
//! The inputs are `boot.img` and core images which `grub-mkimage` made at build time after
//! [`recipe`]; on the node nothing of GRUB has to be installed. One slot core serves all slots:
//! [`reprefix`] sets the slot it starts from. Results hold absolute sectors: whoever moves one to
//! another place makes it anew. Offsets are those of GRUB 2.06 to 2.12 (`boot.S`, `diskboot.S`,
//! `startup_raw.S`), compared with what `grub-bios-setup` writes.
//!
//! ```text
//! MBR (boot.img) --> disk core in the gap behind it --> menu on the boot partition
//!   --> slot's boot sector --> slot core in the gap behind the slot's EBR --> slot's own grub.cfg
//! ```

mod boot_sector;
mod core_image;
mod install;
mod menu;
pub mod recipe;
#[cfg(test)]
mod tests;

pub use boot_sector::{
    BootImageError, Place, SlotBoot, blank_boot_code, boot_sector, is_blank, with_boot_code,
};
pub use core_image::{CoreError, place_core, reprefix};
pub use install::{
    Files, InstallError, disk_writes, slot_blank_writes, slot_boot_write, slot_core_write,
};
pub use menu::{ENVIRONMENT_PATH, MENU_PATH, Menu, MenuSlot, grub_cfg, slot_id, state_variable};
