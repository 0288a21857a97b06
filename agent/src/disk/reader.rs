//! A part of a disk as a file.

use super::Window;
use std::io::{self, Read, Seek, SeekFrom};

/// Reads a window from the disk itself.
#[derive(Debug)]
pub struct Reader<'d> {
    window: Window<'d>,
    at: u64,
}

impl<'d> Reader<'d> {
    pub(super) fn new(window: Window<'d>) -> Self {
        Self { window, at: 0 }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.window.bytes().saturating_sub(self.at);
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        self.window.read_at(&mut buffer[..bytes], self.at).map_err(io::Error::other)?;
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.window.bytes().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
