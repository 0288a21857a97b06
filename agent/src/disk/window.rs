//! A part of a disk, in its own offsets.

use super::{Device, hash, look};
use anyhow::ensure;
use metalcast_formats::{
    probe::Contents,
    region::{ReadAt, Region},
};
use metalcast_shared::hash::Hash;
use std::io;

/// A range of a disk. Reads and writes that would leave it fail before they begin.
#[derive(Clone, Copy, Debug)]
pub struct Window<'d> {
    device: &'d Device<'d>,
    start: u64,
    bytes: u64,
}

impl<'d> Window<'d> {
    /// The caller has checked that the device is large enough.
    pub(super) fn new(device: &'d Device<'_>, start: u64, bytes: u64) -> Self {
        Self { device, start, bytes }
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes at an offset within the window.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> anyhow::Result<()> {
        let offset = self.place(offset, bytes.len() as u64)?;
        self.device.write_at(bytes, offset)
    }

    /// Writes `data` to extents (offset in the window, length), one behind the other. That they are
    /// of the same length is seen to before anything is written.
    pub fn write_extents(
        &self,
        extents: impl Iterator<Item = (u64, usize)>,
        data: &[u8],
    ) -> anyhow::Result<()> {
        let extents: Vec<_> = extents.collect();
        let bytes: usize = extents.iter().map(|(_, length)| length).sum();
        ensure!(bytes == data.len(), "{} bytes of data for {bytes} of the target", data.len());
        let mut rest = data;
        for (offset, length) in extents {
            let (run, behind) = rest.split_at(length);
            self.write_at(run, offset)?;
            rest = behind;
        }
        Ok(())
    }

    /// Fills a part with zeros, by the disk's own command where it has one.
    pub fn zero_at(&self, offset: u64, bytes: u64) -> anyhow::Result<()> {
        let offset = self.place(offset, bytes)?;
        self.device.zero_at(offset, bytes)
    }

    /// Reads from the disk itself, not from memory, where that is possible.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> anyhow::Result<()> {
        let offset = self.place(offset, bytes.len() as u64)?;
        self.device.read_at(bytes, offset)
    }

    /// The same, with what was read lent and not copied.
    pub(super) fn read_with(
        &self,
        offset: u64,
        length: usize,
        take: impl FnOnce(&[u8]),
    ) -> anyhow::Result<()> {
        let offset = self.place(offset, length as u64)?;
        self.device.read_with(offset, length, take)
    }

    /// All of it as a file, read from the disk itself.
    pub fn reader(&self) -> Region<Self> {
        Region::new(*self, 0, self.bytes)
    }

    /// The hash of some extents (offset in the window, length), one behind the other.
    pub fn hash(&self, extents: impl Iterator<Item = (u64, usize)>) -> anyhow::Result<Hash> {
        hash::of_extents(self, extents)
    }

    /// What is recognised in it.
    pub fn look(&self) -> anyhow::Result<Contents> {
        look::look(self)
    }

    /// Waits until all that was written to the disk is on stable storage.
    pub fn flush(&self) -> anyhow::Result<()> {
        self.device.flush()
    }

    fn place(&self, offset: u64, bytes: u64) -> anyhow::Result<u64> {
        let end = offset.checked_add(bytes);
        ensure!(
            end.is_some_and(|end| end <= self.bytes),
            "{bytes} bytes at {offset} would leave the target of {} bytes",
            self.bytes
        );
        Ok(self.start + offset)
    }
}

impl ReadAt for Window<'_> {
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        Window::read_at(self, buffer, offset).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn nothing_can_be_written_outside_of_a_window() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = Device::open_file(file.path(), 64 << 10).unwrap();
        let window = device.window(8192, 4096).unwrap();
        window.write_at(b"last", 4092).unwrap();
        for (offset, bytes) in [(4093, 4), (4096, 1), (u64::MAX, 2), (0, 4097)] {
            assert!(window.write_at(&vec![1; bytes], offset).is_err(), "{offset} {bytes}");
            assert!(window.zero_at(offset, bytes as u64).is_err());
            assert!(window.read_at(&mut vec![0; bytes], offset).is_err());
        }
        let mut all = vec![0; 64 << 10];
        file.as_file().read_exact_at(&mut all, 0).unwrap();
        assert_eq!(all.iter().filter(|byte| **byte != 0).count(), 4);
        assert_eq!(&all[12284..12288], b"last");
        assert!(device.window(60 << 10, 4097).is_err());
        assert!(device.window(u64::MAX, 2).is_err());
    }

    #[test]
    fn unaligned_reads_and_hashes_see_what_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = Device::open_file(file.path(), 1 << 20).unwrap();
        let window = device.window(512, 900_000).unwrap();
        let data: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        window.write_at(&data, 1000).unwrap();
        let mut back = vec![0; 5000];
        window.read_at(&mut back, 1007).unwrap();
        assert_eq!(back, data[7..5007]);
        let extents = [(1000u64, 10usize), (1500, 200_000)];
        let expected = [&data[..10], &data[500..200_500]].concat();
        assert_eq!(window.hash(extents.into_iter()).unwrap(), Hash::of(&expected));
    }
}
