//! What a file that is to stand for a disk is: the disk's bytes, or an image of a virtual machine.
//!
//! Told by its own first and last bytes, never by its name. Images whose content is in another file are
//! refused: the file would decide which other files of the host are read.

use crate::{
    bytes::{be_u32, be_u64, le_u32, le_u64},
    region::ReadAt,
};
use std::{fmt, io};

/// How much of the beginning is looked at: VMDK has its descriptor there.
const HEAD_BYTES: u64 = 16 << 10;

/// A VHD's footer.
const FOOTER_BYTES: u64 = 512;

/// Where a VMDK has its descriptor unless it says so, and how long readers take it to be.
const VMDK_DESCRIPTOR: usize = 512;
const VMDK_DESCRIPTOR_BYTES: usize = 20 * 512;

/// Bits of a qcow2's incompatible features.
const QCOW2_CORRUPT: u64 = 1 << 1;
const QCOW2_DATA_FILE: u64 = 1 << 2;

/// Type of a VHD that holds the differences to another.
const VHD_DIFFERENCING: u32 = 4;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// The bytes of a disk or partition.
    Raw,
    /// QEMU's own, version 2 or 3.
    Qcow2,
    /// VMware's, in one file.
    Vmdk,
    /// VHD of Virtual PC and Hyper-V.
    Vhd,
    /// VHDX of Hyper-V.
    Vhdx,
    /// VirtualBox's.
    Vdi,
}

/// Why a file is not taken for a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskFileError {
    /// It cannot be read.
    #[error("reading its beginning and end")]
    Read(#[from] io::Error),
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It needs another file.
    #[error(
        "it is a {format} with {what}, whose content is not in this file; make one file of both with \
         qemu-img convert, or import that"
    )]
    Elsewhere {
        /// What the file is.
        format: DiskFormat,
        /// The other file and what it is for.
        what: String,
    },
    /// It is encrypted.
    #[error("it is an encrypted {0}; decrypt it with qemu-img convert first")]
    Encrypted(DiskFormat),
    /// It was not closed properly, and its own marks say so.
    #[error("it is a {0} that is marked as corrupt; repair it with qemu-img check first")]
    Corrupt(DiskFormat),
    /// Its end is not there. Programs read what is not there as zeros.
    #[error("it is a {format} that was cut off: it ends at byte {bytes}, before {what}")]
    CutOff {
        /// What it is.
        format: DiskFormat,
        /// Its length.
        bytes: u64,
        /// What should be there.
        what: String,
    },
    /// It is compressed, and what is in it is no tar archive.
    #[error(
        "it is compressed with {0} and no tar archive is in it; unpack it, or let its program write to \
         `metalcast image import - project/name`"
    )]
    Compressed(String),
    /// It is no disk, and would not be one if it was taken byte by byte.
    #[error("it is {what}; {instead}")]
    Other {
        /// What it is.
        what: &'static str,
        /// What can be done.
        instead: &'static str,
    },
}

impl DiskFormat {
    /// What qemu-img calls it.
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
        }
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw file",
            Self::Qcow2 => "qcow2 image",
            Self::Vmdk => "VMDK image",
            Self::Vhd => "VHD image",
            Self::Vhdx => "VHDX image",
            Self::Vdi => "VDI image",
        })
    }
}

/// Tells what a file of `bytes` bytes is. Memory: 16 KiB of it.
pub fn recognise(file: impl ReadAt, bytes: u64) -> Result<DiskFormat, DiskFileError> {
    if bytes == 0 {
        return Err(DiskFileError::Empty);
    }
    let mut head = vec![0; HEAD_BYTES.min(bytes) as usize];
    file.fill_at(&mut head, 0)?;
    let footer_bytes = FOOTER_BYTES.min(bytes);
    let mut footer = vec![0; footer_bytes as usize];
    file.fill_at(&mut footer, bytes - footer_bytes)?;
    // What is read beyond a short file's end is zero.
    head.resize(HEAD_BYTES as usize, 0);
    footer.resize(FOOTER_BYTES as usize, 0);
    refuse_other(&head, &footer)?;
    match () {
        () if head.starts_with(b"QFI\xfb") => qcow2(&head),
        () if head.starts_with(b"KDMV") => vmdk(&head),
        () if head.starts_with(b"vhdxfile") => Ok(DiskFormat::Vhdx),
        () if head[64..68] == 0xbeda_107f_u32.to_le_bytes() && head.starts_with(b"<<< ") => {
            vdi(&head, bytes)
        }
        () if head.starts_with(b"conectix") => {
            if !footer.starts_with(b"conectix") {
                let (format, what) = (DiskFormat::Vhd, "its footer".to_owned());
                return Err(DiskFileError::CutOff { format, bytes, what });
            }
            vhd(&head)
        }
        () if is_vhd_footer(&footer, bytes) => vhd(&footer),
        () => Ok(DiskFormat::Raw),
    }
}

fn qcow2(head: &[u8]) -> Result<DiskFormat, DiskFileError> {
    let format = DiskFormat::Qcow2;
    let version = be_u32(head, 4);
    if version < 2 {
        let instead = "make a qcow2 of it with qemu-img convert";
        return Err(DiskFileError::Other { what: "a qcow image of version 1", instead });
    }
    let (name_at, name_bytes) = (be_u64(head, 8), be_u32(head, 16));
    if name_at != 0 {
        let name = usize::try_from(name_at).ok().and_then(|at| {
            let end = at.checked_add(name_bytes as usize)?;
            Some(String::from_utf8_lossy(head.get(at..end)?).into_owned())
        });
        let name = name.map_or_else(|| "of another name".to_owned(), |name| format!("{name:?}"));
        return Err(DiskFileError::Elsewhere { format, what: format!("the backing file {name}") });
    }
    if be_u32(head, 32) != 0 {
        return Err(DiskFileError::Encrypted(format));
    }
    let features = if version == 2 { 0 } else { be_u64(head, 72) };
    if features & QCOW2_DATA_FILE != 0 {
        let what = "an external data file".to_owned();
        return Err(DiskFileError::Elsewhere { format, what });
    }
    if features & QCOW2_CORRUPT != 0 {
        return Err(DiskFileError::Corrupt(format));
    }
    Ok(format)
}

fn vmdk(head: &[u8]) -> Result<DiskFormat, DiskFileError> {
    let format = DiskFormat::Vmdk;
    // Without a capacity of its own it is only the list of other files.
    let capacity = le_u64(head, 12);
    if capacity == 0 {
        let what = "a list of other files".to_owned();
        return Err(DiskFileError::Elsewhere { format, what });
    }
    let descriptor = &head[VMDK_DESCRIPTOR..VMDK_DESCRIPTOR + VMDK_DESCRIPTOR_BYTES];
    let hint = b"parentFileNameHint";
    if descriptor.windows(hint.len()).any(|window| window == hint) {
        let what = "a parent, of which it has only the differences".to_owned();
        return Err(DiskFileError::Elsewhere { format, what });
    }
    Ok(format)
}

fn vdi(head: &[u8], bytes: u64) -> Result<DiskFormat, DiskFileError> {
    let format = DiskFormat::Vdi;
    let [data, block_bytes, blocks] = [0x158, 0x178, 0x184].map(|at| u64::from(le_u32(head, at)));
    let end = data + blocks * block_bytes;
    if end > bytes {
        let what = format!("the end of its last block at {end}");
        return Err(DiskFileError::CutOff { format, bytes, what });
    }
    Ok(format)
}

/// A footer, whichever end it is at.
fn vhd(footer: &[u8]) -> Result<DiskFormat, DiskFileError> {
    let format = DiskFormat::Vhd;
    if be_u32(footer, 60) == VHD_DIFFERENCING {
        let what = "a parent, of which it has only the differences".to_owned();
        return Err(DiskFileError::Elsewhere { format, what });
    }
    Ok(format)
}

/// Whether this makes a VHD of fixed size of the disk before it: the cookie alone might lie at the end of
/// any disk.
fn is_vhd_footer(footer: &[u8], bytes: u64) -> bool {
    let sum = footer.iter().enumerate().filter(|(at, _)| !(64..68).contains(at));
    let sum = sum.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    footer.starts_with(b"conectix")
        && be_u32(footer, 64) == !sum
        && be_u64(footer, 48) == bytes - FOOTER_BYTES
}

/// What would be taken for a disk without a table if it was not known.
fn refuse_other(head: &[u8], footer: &[u8]) -> Result<(), DiskFileError> {
    const CONVERT: &str = "make a qcow2 or raw file of it with qemu-img convert";
    const UNPACK: &str =
        "unpack it, or let its program write to `metalcast image import - project/name`";
    const MAKE_ONE: &str =
        "its content is in other files; make one file of all with qemu-img convert";
    let other = |what, instead| Err(DiskFileError::Other { what, instead });
    let starts: [(&[u8], _, _); 14] = [
        (b"# Disk DescriptorFile", "the list of a VMDK's files", MAKE_ONE),
        (b"COWD", "a VMDK of an old ESX server", CONVERT),
        (b"QED\0", "a QED image", CONVERT),
        (b"WithoutFreeSpace", "an image of Parallels", CONVERT),
        (b"WithouFreSpacExt", "an image of Parallels", CONVERT),
        (b"EVF\x09\x0d\x0a\xff\0", "an image of EnCase", "make a raw file of it with ewfexport"),
        (&[0x1f, 0x8b, 8], "compressed with gzip", UNPACK),
        (b"\xfd7zXZ\0", "compressed with xz", UNPACK),
        (&[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd", UNPACK),
        (&[0x04, 0x22, 0x4d, 0x18], "compressed with lz4", UNPACK),
        (b"BZh", "compressed with bzip2", UNPACK),
        (b"PK\x03\x04", "a zip archive", UNPACK),
        (b"partclone-image\0", "an image of partclone", "import the directory that it is in"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    ];
    if let Some((_, what, instead)) = starts.iter().find(|(start, ..)| head.starts_with(start)) {
        return other(what, instead);
    }
    if head[257..262] == *b"ustar" {
        return other("a tar archive, perhaps an OVA", "import the disk that is in it");
    }
    if footer.starts_with(b"koly") {
        return other("a disk image of macOS", CONVERT);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
