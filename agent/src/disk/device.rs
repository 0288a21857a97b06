//! A whole disk or a file that stands for one.

use super::{Window, busy::is_busy, direct::Direct, while_busy};
use anyhow::{Context, bail, ensure};
use metalcast_formats::{layout::SECTOR_BYTES, region::ReadAt};
use metalcast_sys::block::{BlockDevice, OpenMode};
use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileExt, FileTypeExt},
    path::{Path, PathBuf},
};

/// What is about to happen to a disk; offsets and lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Bytes are written.
    Write {
        /// From here.
        offset: u64,
        /// This many.
        bytes: u64,
    },
    /// Zeros are written.
    Zero {
        /// From here.
        offset: u64,
        /// This many.
        bytes: u64,
    },
    /// All that was written goes to stable storage.
    Flush,
}

/// Sees every operation before it happens and may refuse it.
pub type Tap = dyn Fn(Operation) -> io::Result<()> + Send + Sync;

enum Kind {
    Block(BlockDevice),
    File(File),
}

/// A disk, open for writing by nobody else.
pub struct Device<'t> {
    kind: Kind,
    direct: Direct,
    path: PathBuf,
    bytes: u64,
    sector_bytes: u32,
    tap: Option<&'t Tap>,
}

impl fmt::Debug for Device<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("path", &self.path).field("bytes", &self.bytes).finish()
    }
}

impl<'t> Device<'t> {
    /// Opens a disk for exclusive use: it fails while something of it is mounted, used as swap or
    /// part of an array.
    pub fn open(path: &Path, tap: Option<&'t Tap>) -> anyhow::Result<Self> {
        let block = hold(path, OpenMode::ExclusiveWrite)?;
        ensure!(!block.is_read_only()?, "{} is write-protected", path.display());
        Self::of_block(block, path, true, tap)
    }

    /// Opens a disk, partition or file to read it beside whoever uses it. Writing to it fails.
    pub fn open_to_read(path: &Path) -> anyhow::Result<Self> {
        Self::read_only(path, || Ok(BlockDevice::open(path, OpenMode::Read)?))
    }

    /// The same, but nobody else may use a disk or partition meanwhile; it fails while someone does.
    pub fn hold_to_read(path: &Path) -> anyhow::Result<Self> {
        Self::read_only(path, || hold(path, OpenMode::ExclusiveRead))
    }

    fn read_only(
        path: &Path,
        open: impl FnOnce() -> anyhow::Result<BlockDevice>,
    ) -> anyhow::Result<Self> {
        let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        if file.metadata()?.file_type().is_block_device() {
            return Self::of_block(open()?, path, false, None);
        }
        let bytes = file
            .seek(SeekFrom::End(0))
            .with_context(|| format!("reading the size of {}", path.display()))?;
        Ok(Self::of_file(file, path, false, bytes))
    }

    fn of_block(
        block: BlockDevice,
        path: &Path,
        is_written: bool,
        tap: Option<&'t Tap>,
    ) -> anyhow::Result<Self> {
        // Someone may have read the disk while a partition of it was changed through a mount: what
        // others wrote through another node of the same disk counts, and a small write would put what
        // is remembered of its surroundings back.
        block.flush_buffers()?;
        let (bytes, sector_bytes) = (block.size_bytes()?, block.logical_sector_bytes()?);
        let direct = Direct::open(path, is_written);
        let path = path.to_owned();
        Ok(Self { kind: Kind::Block(block), direct, path, bytes, sector_bytes, tap })
    }

    /// Opens or makes a plain file of at least `bytes` bytes; what is not written in it is a hole.
    pub fn open_file(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        let metadata = file.metadata()?;
        ensure!(metadata.is_file(), "{} is not a plain file", path.display());
        if metadata.len() < bytes {
            file.set_len(bytes).with_context(|| format!("extending {}", path.display()))?;
        }
        let bytes = metadata.len().max(bytes);
        Ok(Self::of_file(file, path, true, bytes))
    }

    fn of_file(file: File, path: &Path, is_written: bool, bytes: u64) -> Self {
        let direct = Direct::open(path, is_written);
        let (path, sector_bytes) = (path.to_owned(), SECTOR_BYTES as u32);
        Self { kind: Kind::File(file), direct, path, bytes, sector_bytes, tap: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its logical sector in bytes.
    pub fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    /// The open file, for readers that want one; not for writing.
    pub fn file(&self) -> &File {
        match &self.kind {
            Kind::Block(block) => block.file(),
            Kind::File(file) => file,
        }
    }

    /// The block device, unless it is a plain file.
    pub fn block(&self) -> Option<&BlockDevice> {
        match &self.kind {
            Kind::Block(block) => Some(block),
            Kind::File(_) => None,
        }
    }

    /// `bytes` bytes from `start` on; an error if the disk has less.
    pub fn window(&self, start: u64, bytes: u64) -> anyhow::Result<Window<'_>> {
        match start.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(Window::new(self, start, bytes)),
            _ => bail!(
                "{bytes} bytes at {start} are beyond the end of {} ({} bytes)",
                self.path.display(),
                self.bytes
            ),
        }
    }

    /// Everything.
    pub fn whole(&self) -> Window<'_> {
        Window::new(self, 0, self.bytes)
    }

    /// Waits until all that was written is on stable storage.
    pub fn flush(&self) -> anyhow::Result<()> {
        self.announce(Operation::Flush)?;
        self.file().sync_data().with_context(|| format!("flushing {}", self.path.display()))
    }

    /// Flushes, then forgets what is cached: mounts and other programs read partitions through a
    /// cache of their own and must see what was written here, and the other way round.
    pub fn drop_caches(&self) -> anyhow::Result<()> {
        match &self.kind {
            Kind::Block(block) => Ok(block.flush_buffers()?),
            Kind::File(_) => self.flush(),
        }
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> anyhow::Result<()> {
        self.announce(Operation::Write { offset, bytes: bytes.len() as u64 })?;
        self.put(bytes, offset).with_context(|| {
            format!("writing {} bytes at {offset} of {}", bytes.len(), self.path.display())
        })
    }

    fn put(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let pages = self.direct.write_pages(bytes, offset)?;
        let (before, behind) = (&bytes[..pages.start], &bytes[pages.end..]);
        self.file().write_all_at(before, offset)?;
        self.file().write_all_at(behind, offset + pages.end as u64)
    }

    pub(super) fn zero_at(&self, offset: u64, bytes: u64) -> anyhow::Result<()> {
        self.announce(Operation::Zero { offset, bytes })?;
        let sector = u64::from(self.sector_bytes);
        if let Kind::Block(block) = &self.kind
            && offset.is_multiple_of(sector)
            && bytes.is_multiple_of(sector)
        {
            return Ok(block.zero(offset, bytes)?);
        }
        let zeros = vec![0; bytes.min(super::MIB) as usize];
        let mut done = 0;
        while done < bytes {
            let part = (bytes - done).min(zeros.len() as u64);
            self.file()
                .write_all_at(&zeros[..part as usize], offset + done)
                .with_context(|| format!("zeroing {}", self.path.display()))?;
            done += part;
        }
        Ok(())
    }

    /// Reads from the disk itself where that is possible.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> anyhow::Result<()> {
        self.read_with(offset, bytes.len(), |read| bytes.copy_from_slice(read))
    }

    /// The same, with what was read lent and not copied.
    pub(super) fn read_with(
        &self,
        offset: u64,
        length: usize,
        take: impl FnOnce(&[u8]),
    ) -> anyhow::Result<()> {
        self.direct.read_with(self.file(), (offset, length), take).with_context(|| {
            format!("reading {length} bytes at {offset} of {}", self.path.display())
        })
    }

    fn announce(&self, operation: Operation) -> anyhow::Result<()> {
        match self.tap {
            Some(tap) => tap(operation)
                .with_context(|| format!("{operation:?} of {} was refused", self.path.display())),
            None => Ok(()),
        }
    }
}

/// Through the page cache, for the many small reads of a filesystem's metadata.
impl ReadAt for Device<'_> {
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file().read_exact_at(buffer, offset).map_err(|error| {
            let (kind, length, path) = (error.kind(), buffer.len(), self.path.display());
            let what = format!("reading {length} bytes at {offset} of {path}");
            io::Error::new(kind, anyhow::Error::from(error).context(what))
        })
    }
}

fn hold(path: &Path, mode: OpenMode) -> anyhow::Result<BlockDevice> {
    while_busy(|| BlockDevice::open(path, mode)).map_err(|error| match is_busy(&error) {
        true => {
            anyhow::Error::from(error).context("it is in use (mounted, swap or part of an array)")
        }
        false => error.into(),
    })
}
