//! Chunks from the partition itself, by a map of its used blocks.

use super::{CutError, PlainChunk, ranges::Ranges};
use crate::used::UsedMap;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

/// How finely a range that cannot be read is looked at: a sector of today's disks.
const PROBE_BYTES: usize = 4096;

/// Cuts a partition into chunks, in ascending order.
pub struct DiskChunks<'m, D> {
    disk: D,
    map: &'m UsedMap,
    ranges: Ranges,
}

/// A part of the partition cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} bytes from byte {offset} on cannot be read")]
pub struct UnreadableRange {
    /// First byte of the first 4 KiB that cannot be read, from the start of the partition.
    pub offset: u64,
    /// To the end of the last such 4 KiB within the same MiB.
    pub bytes: u64,
    /// The system's reason.
    pub source: io::Error,
}

impl<'m, D: Read + Seek> DiskChunks<'m, D> {
    /// Starts with the first range.
    pub fn new(disk: D, map: &'m UsedMap) -> Result<Self, CutError> {
        let ranges = Ranges::new(map.block_bytes, map.used.blocks())?;
        Ok(Self { disk, map, ranges })
    }

    /// Leaves out the next ranges that have used blocks, so many of them.
    pub fn skip(&mut self, chunks: u32) {
        for _ in 0..chunks {
            if self.ranges.next(&self.map.used).is_none() {
                break;
            }
        }
    }

    /// The next range that has used blocks. Memory: its used blocks, at most 1 MiB or one block.
    pub fn next_chunk(&mut self) -> Result<Option<PlainChunk>, UnreadableRange> {
        let Some((index, runs)) = self.ranges.next(&self.map.used) else { return Ok(None) };
        let block = u64::from(self.map.block_bytes);
        let start = u64::from(index) * u64::from(self.ranges.chunk_blocks) * block;
        let blocks: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
        let mut data = vec![0; (blocks * block) as usize];
        let mut rest = &mut data[..];
        for run in &runs {
            let (part, behind) = rest.split_at_mut((u64::from(run.count) * block) as usize);
            let offset = start + u64::from(run.start) * block;
            self.read(offset, part).map_err(|source| self.unreadable(offset, part, source))?;
            rest = behind;
        }
        Ok(Some(PlainChunk { index, runs, data }))
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.seek(SeekFrom::Start(offset))?;
        self.disk.read_exact(buffer)
    }

    /// Which part of a range that failed it is; all of it if it can be read after all.
    fn unreadable(&mut self, offset: u64, buffer: &mut [u8], source: io::Error) -> UnreadableRange {
        let mut failed: Option<(u64, u64)> = None;
        // Beyond the end there is nothing to look at more finely.
        if source.kind() != ErrorKind::UnexpectedEof {
            let mut at = offset;
            for piece in buffer.chunks_mut(PROBE_BYTES) {
                let end = at + piece.len() as u64;
                if self.read(at, piece).is_err() {
                    failed = Some((failed.map_or(at, |(start, _)| start), end));
                }
                at = end;
            }
        }
        let (start, end) = failed.unwrap_or((offset, offset + buffer.len() as u64));
        UnreadableRange { offset: start, bytes: end - start, source }
    }
}
