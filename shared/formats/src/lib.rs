//! Under construction.

pub mod bpb;
mod bytes;
pub mod capture;
pub mod chunk;
pub mod clonezilla;
pub mod disk_file;
pub mod ext;
pub mod fat;
pub mod gpt;
pub mod grub;
pub mod grubenv;
pub mod layout;
pub mod mbr;
pub mod ntfs;
pub mod partclone;
pub mod pipeline;
pub mod probe;
pub mod region;
pub mod stream;
pub mod swap;
pub mod tar;
pub mod used;
pub mod whole_disk;
