//! What lies on disks and in images: tables, boot loaders, filesystems as far as they have to be understood, and the
//! forms that images have. Bytes in, bytes out; files are opened of image directories only.

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
