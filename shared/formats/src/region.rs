//! A part of something that is read at offsets, as a file.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

/// A file, a disk, or a part of one.
pub trait ReadAt {
    /// Fills the buffer from `offset` bytes on; an error if there is less.
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let bytes = start.and_then(|start| self.get(start..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl<S: ReadAt + ?Sized> ReadAt for &S {
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (*self).fill_at(buffer, offset)
    }
}

/// `bytes` bytes of a source from `start` on.
#[derive(Debug)]
pub struct Region<S> {
    source: S,
    start: u64,
    bytes: u64,
    at: u64,
}

impl<S: ReadAt> Region<S> {
    /// At its first byte.
    pub fn new(source: S, start: u64, bytes: u64) -> Self {
        Self { source, start, bytes, at: 0 }
    }
}

impl<S: ReadAt> Read for Region<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.saturating_sub(self.at);
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if bytes > 0 {
            let offset = self.start.checked_add(self.at).ok_or(io::ErrorKind::InvalidInput)?;
            self.source.fill_at(&mut buffer[..bytes], offset)?;
        }
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl<S: ReadAt> Seek for Region<S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn nothing_outside_of_it_is_seen() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before|inside|behind").unwrap();
        let mut region = Region::new(&file, 7, 6);
        let mut text = String::new();
        region.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        assert_eq!(region.seek(SeekFrom::End(-2)).unwrap(), 4);
        assert_eq!(region.read(&mut [0; 9]).unwrap(), 2);
        assert_eq!(region.seek(SeekFrom::Start(99)).unwrap(), 99);
        assert_eq!(region.read(&mut [0; 9]).unwrap(), 0);
        assert!(region.seek(SeekFrom::Current(-100)).is_err());
        let short = Region::new(&file, 14, 100).read(&mut [0; 100]).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    }
}
