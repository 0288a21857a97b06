//! A file or block device that holds a disk, opened so that nobody writes to it unnoticed.

use crate::images::ImportError;
use metalcast_formats::{layout::SECTOR_BYTES, region::ReadAt};
use metalcast_sys::{
    block::{BlockDevice, OpenMode},
    loopdev,
};
use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, FileTypeExt},
    path::Path,
};

/// Sectors of disks that are no longer made to look as if they had 512 bytes.
const LARGE_SECTOR_BYTES: u32 = 4096;

/// What a GUID partition table begins with, in the disk's second sector.
const GPT_MAGIC: [u8; 8] = *b"EFI PART";

/// The opened file or device.
#[derive(Debug)]
pub(super) struct Medium {
    kind: Kind,
    pub(super) bytes: u64,
    pub(super) sector_bytes: u32,
    /// Whether the kernel says that it is a part of another disk.
    pub(super) is_partition: bool,
}

#[derive(Debug)]
enum Kind {
    File(File),
    /// Held while it is open.
    Device(BlockDevice),
}

impl Medium {
    /// Opens it; unless forced, it fails while someone uses it.
    pub(super) fn open(path: &Path, is_forced: bool) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Unreadable { path: path.to_owned(), source };
        // Before it is opened: a pipe would be waited for.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if kind.is_block_device() {
            return Self::device(path, is_forced);
        }
        if !kind.is_file() {
            return Err(ImportError::NoDisk(path.to_owned()));
        }
        if !is_forced && let Some(user) = loopdev::device_of(path)? {
            return Err(ImportError::InUse { path: path.to_owned(), user: format!("by {user}") });
        }
        let file = File::open(path).map_err(failed)?;
        Self::of_file(file).map_err(failed)
    }

    /// A plain file that is open.
    pub(super) fn of_file(file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let sector_bytes = sector_bytes(&file, bytes)?;
        Ok(Self { kind: Kind::File(file), bytes, sector_bytes, is_partition: false })
    }

    fn device(path: &Path, is_forced: bool) -> Result<Self, ImportError> {
        let mode = if is_forced { OpenMode::Read } else { OpenMode::ExclusiveRead };
        let open = || -> metalcast_sys::Result<Self> {
            let device = BlockDevice::open(path, mode)?;
            // What was written to it through a mount or another of its nodes counts.
            device.flush_buffers()?;
            let (bytes, sector_bytes) = (device.size_bytes()?, device.logical_sector_bytes()?);
            let is_partition = device.is_partition();
            Ok(Self { kind: Kind::Device(device), bytes, sector_bytes, is_partition })
        };
        open().map_err(|error| match error.kind() == io::ErrorKind::ResourceBusy {
            true => ImportError::InUse {
                path: path.to_owned(),
                user: "(mounted, swap or part of an array)".to_owned(),
            },
            false => ImportError::Device(error),
        })
    }
}

impl ReadAt for Medium {
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.kind {
            Kind::File(file) => file.read_exact_at(buffer, offset),
            Kind::Device(device) => device.file().read_exact_at(buffer, offset),
        }
    }
}

/// A file does not say how long the sectors of its disk were: where its GUID partition table is does.
fn sector_bytes(file: &File, bytes: u64) -> io::Result<u32> {
    let has_table = |sector: u32| -> io::Result<bool> {
        let mut magic = [0; GPT_MAGIC.len()];
        if u64::from(sector) + GPT_MAGIC.len() as u64 > bytes {
            return Ok(false);
        }
        file.read_exact_at(&mut magic, u64::from(sector))?;
        Ok(magic == GPT_MAGIC)
    };
    let usual = SECTOR_BYTES as u32;
    let is_large = !has_table(usual)? && has_table(LARGE_SECTOR_BYTES)?;
    Ok(if is_large { LARGE_SECTOR_BYTES } else { usual })
}
