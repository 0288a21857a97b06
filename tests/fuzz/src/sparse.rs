//! A disk of which only some sectors are there; all others are zero. Filesystems are large, what their
//! readers look at is not.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

/// Sectors of this disk.
pub const SECTOR: usize = 512;

/// Largest disk that a file may stand for: 2 GiB.
const MAX_SECTORS: u32 = 1 << 22;

/// The disk.
#[derive(Clone, Default)]
pub struct Sparse {
    /// Its size in sectors.
    pub sectors: u32,
    /// Those that are not zero.
    pub content: BTreeMap<u32, [u8; SECTOR]>,
    at: u64,
}

#[allow(dead_code, reason = "reading and writing are used in different places")]
impl Sparse {
    /// From a file: number of sectors, then each with its number before it.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (sectors, rest) = bytes.split_first_chunk::<4>()?;
        let sectors = u32::from_le_bytes(*sectors) % (MAX_SECTORS + 1);
        let content = rest.chunks_exact(4 + SECTOR).filter_map(|entry| {
            let (number, sector) = entry.split_first_chunk::<4>()?;
            Some((u32::from_le_bytes(*number), sector.try_into().ok()?))
        });
        Some(Self { sectors, content: content.collect(), at: 0 })
    }

    /// The file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.sectors.to_le_bytes().to_vec();
        for (number, sector) in &self.content {
            bytes.extend(number.to_le_bytes());
            bytes.extend(sector);
        }
        bytes
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        u64::from(self.sectors) * SECTOR as u64
    }
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.len().saturating_sub(self.at);
        let within = (self.at % SECTOR as u64) as usize;
        let step = (SECTOR - within).min(buffer.len()).min(left as usize);
        match self.content.get(&((self.at / SECTOR as u64) as u32)) {
            Some(sector) => buffer[..step].copy_from_slice(&sector[within..within + step]),
            None => buffer[..step].fill(0),
        }
        self.at += step as u64;
        Ok(step)
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
