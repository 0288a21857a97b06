//! Chunks of raw (dd) images, which are the bytes of a partition and nothing else.

use super::PlainChunk;
use crate::partclone::{ReadError, Section};
use metalcast_shared::manifest::{CHUNK_BYTES, Partition, Run};
use std::io::{self, Read};

/// Size of a raw image's blocks: a sector.
pub const RAW_BLOCK_BYTES: u32 = 512;

/// Cuts a raw image into chunks, in ascending order. All its blocks are used.
pub struct RawChunks<R> {
    stream: R,
    bytes: u64,
}

impl<R: Read> RawChunks<R> {
    /// Starts with the first chunk.
    pub fn new(stream: R) -> Self {
        Self { stream, bytes: 0 }
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next chunk; `None` at the end, which must be that of a sector. Memory: one chunk.
    pub fn next_chunk(&mut self) -> Result<Option<PlainChunk>, ReadError> {
        let offset = self.bytes;
        let mut data = Vec::new();
        let read = (&mut self.stream).take(CHUNK_BYTES.into()).read_to_end(&mut data);
        let read = read.map_err(|source: io::Error| {
            let offset = offset + data.len() as u64;
            ReadError::Io {
                offset,
                section: Section::Block(offset / u64::from(RAW_BLOCK_BYTES)),
                source,
            }
        })?;
        self.bytes += read as u64;
        let blocks = read as u32 / RAW_BLOCK_BYTES;
        if !(read as u32).is_multiple_of(RAW_BLOCK_BYTES) {
            let section = Section::Block(self.bytes / u64::from(RAW_BLOCK_BYTES));
            return Err(ReadError::Truncated { offset: self.bytes, section });
        }
        if read == 0 {
            let is_empty = self.bytes == 0;
            let what = "an image without any content".to_owned();
            return if is_empty { Err(ReadError::Invalid { offset, what }) } else { Ok(None) };
        }
        let range = u64::from(Partition::chunk_blocks_for(RAW_BLOCK_BYTES) * RAW_BLOCK_BYTES);
        let index = u32::try_from(offset / range).map_err(|_| ReadError::Unsupported {
            offset,
            what: "a raw image of this size".to_owned(),
        })?;
        Ok(Some(PlainChunk { index, runs: vec![Run { start: 0, count: blocks }], data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_come_in_chunks_of_a_mebibyte() {
        let image: Vec<u8> = (0..CHUNK_BYTES + 1024).map(|at| (at / 512) as u8).collect();
        let mut chunks = RawChunks::new(&image[..]);
        let mut all = Vec::new();
        for (index, blocks) in [(0, 2048), (1, 2)] {
            let chunk = chunks.next_chunk().unwrap().unwrap();
            assert_eq!(
                (chunk.index, &chunk.runs[..]),
                (index, &[Run { start: 0, count: blocks }][..])
            );
            all.extend(chunk.data);
        }
        assert!(chunks.next_chunk().unwrap().is_none() && all == image);
        assert_eq!(chunks.bytes(), image.len() as u64);
    }

    #[test]
    fn what_is_cut_off_or_empty_is_refused() {
        let cut = RawChunks::new(&[0; 1000][..]).next_chunk();
        assert!(matches!(cut, Err(ReadError::Truncated { offset: 1000, .. })), "{cut:?}");
        assert!(matches!(RawChunks::new(&[][..]).next_chunk(), Err(ReadError::Invalid { .. })));
    }
}
