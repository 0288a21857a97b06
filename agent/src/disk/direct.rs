//! Reads and writes past the page cache (`O_DIRECT`, open(2)): what comes from the disk was on the disk,
//! and what goes to it costs neither memory nor a second copy.

use super::aligned::{ALIGN, Aligned};
use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Writes from this length on go past the page cache; shorter ones are better gathered in it.
const LONG_BYTES: usize = 128 << 10;

/// Most bytes of one write: they are copied into whole pages of our own.
const PIECE_BYTES: usize = 1 << 20;

/// A second way to a disk or file that is open already.
#[derive(Debug)]
pub(super) struct Direct {
    /// Filesystems such as tmpfs have none.
    file: Option<File>,
    /// As many as threads ever use it at a time.
    buffers: Mutex<Vec<Aligned>>,
}

impl Direct {
    pub(super) fn open(path: &Path, is_written: bool) -> Self {
        let flags = nix::fcntl::OFlag::O_DIRECT.bits();
        let file = OpenOptions::new().read(true).write(is_written).custom_flags(flags).open(path);
        Self { file: file.ok(), buffers: Mutex::default() }
    }

    /// Lends what was read to `take`; from the page cache of `cached` where there is no other way.
    pub(super) fn read_with<T>(
        &self,
        cached: &File,
        (offset, length): (u64, usize),
        take: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<T> {
        self.with_buffer(|buffer| {
            let direct = match &self.file {
                Some(file) => read_pages(file, buffer, offset, length),
                None => Err(io::ErrorKind::InvalidInput.into()),
            };
            match direct {
                // EINVAL: whatever the file is on has no direct reads after all.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    let slice = buffer.slice(length);
                    cached.read_exact_at(slice, offset)?;
                    Ok(take(slice))
                }
                read => read.map(take),
            }
        })
    }

    /// Writes the whole pages of something long. Which of `bytes` were written: the rest is the caller's,
    /// and all of it where there is no such way.
    pub(super) fn write_pages(&self, bytes: &[u8], offset: u64) -> io::Result<Range<usize>> {
        let start = (offset.next_multiple_of(ALIGN as u64) - offset) as usize;
        let pages = bytes.len().saturating_sub(start) / ALIGN;
        let end = start + pages * ALIGN;
        let Some(file) = self.file.as_ref().filter(|_| pages * ALIGN >= LONG_BYTES) else {
            return Ok(0..0);
        };
        self.with_buffer(|buffer| {
            let mut done = start;
            while done < end {
                let piece = &bytes[done..end.min(done + PIECE_BYTES)];
                let pages = buffer.slice(piece.len());
                pages.copy_from_slice(piece);
                match file.write_at(pages, offset + done as u64) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    // What a short write leaves is of no whole page.
                    Ok(written) if written < piece.len() => return Ok(start..done + written),
                    Ok(written) => done += written,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(start..done)
        })
    }

    fn with_buffer<T>(&self, work: impl FnOnce(&mut Aligned) -> T) -> T {
        let buffers = || self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = buffers().pop().unwrap_or_default();
        let result = work(&mut buffer);
        buffers().push(buffer);
        result
    }
}

/// `length` bytes from `offset` on, read in whole pages around them.
fn read_pages<'b>(
    file: &File,
    buffer: &'b mut Aligned,
    offset: u64,
    length: usize,
) -> io::Result<&'b [u8]> {
    let skip = (offset % ALIGN as u64) as usize;
    let start = offset - skip as u64;
    let end = skip + length;
    let slice = buffer.slice(end.next_multiple_of(ALIGN));
    let mut have = 0;
    while have < end {
        match file.read_at(&mut slice[have..], start + have as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => have += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&slice[skip..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that differ from their neighbours, none of them 0.
    fn pattern(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|n| (n % 251) as u8 + 1).collect()
    }

    #[test]
    fn only_whole_pages_of_long_writes_are_written() {
        // Not in /tmp, which may be a tmpfs without such writes.
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        let direct = Direct::open(file.path(), true);
        assert!(direct.file.is_some(), "the checkout is on a filesystem without O_DIRECT");
        let data = pattern(PIECE_BYTES * 2 + 5000);
        for (offset, bytes, expected) in [
            (0, LONG_BYTES - 1, 0..0),
            (1, LONG_BYTES, 0..0),
            (0, LONG_BYTES, 0..LONG_BYTES),
            (512, LONG_BYTES + 4096, 3584..3584 + LONG_BYTES),
            (4097, data.len(), 4095..4095 + 2 * PIECE_BYTES),
        ] {
            file.as_file().set_len(0).unwrap();
            file.as_file().set_len(4 << 20).unwrap();
            let written = direct.write_pages(&data[..bytes], offset).unwrap();
            assert_eq!(written, expected, "{bytes} bytes at {offset}");
            let mut all = vec![0; 4 << 20];
            file.as_file().read_exact_at(&mut all, 0).unwrap();
            let at = offset as usize;
            assert_eq!(all[at + written.start..at + written.end], data[written.clone()]);
            assert_eq!(all.iter().filter(|byte| **byte != 0).count(), written.len());
        }
    }

    #[test]
    fn what_cannot_be_written_directly_is_left_to_the_caller() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let without = Direct { file: None, buffers: Mutex::default() };
        assert_eq!(without.write_pages(&pattern(1 << 20), 0).unwrap(), 0..0);
        let read_only = Direct::open(file.path(), false);
        assert!(read_only.write_pages(&pattern(1 << 20), 0).is_err());
    }
}
