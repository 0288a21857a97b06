//! Small readers that several formats need.

use std::io::{self, Read};

/// Counts what is read.
pub(super) struct Counted<R> {
    pub(super) inner: R,
    pub(super) bytes: u64,
}

impl<R> Counted<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, bytes: 0 }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.bytes += bytes as u64;
        Ok(bytes)
    }
}

/// Fills the buffer; `false` if there is nothing at all.
pub(crate) fn read_whole(inner: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let bytes = loop {
        match inner.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if bytes > 0 {
        inner.read_exact(&mut buffer[bytes..])?;
    }
    Ok(bytes > 0)
}

/// The next bytes, as many as the caller wants.
pub(crate) fn array<const BYTES: usize>(inner: &mut impl Read) -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    inner.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A format whose content comes in blocks that are decompressed whole.
pub(super) trait Blocks {
    /// Puts the content of the next block into `block`, whatever was in it, or nothing between two
    /// blocks; `false` at the end.
    fn next_block(&mut self, block: &mut Vec<u8>) -> io::Result<bool>;
}

/// The content of blocks as a stream. Memory: one block.
pub(super) struct Blockwise<B> {
    blocks: B,
    block: Vec<u8>,
    /// How much of the block was read.
    read: usize,
}

impl<B: Blocks> Blockwise<B> {
    pub(super) fn new(blocks: B) -> Self {
        Self { blocks, block: Vec::new(), read: 0 }
    }
}

impl<B: Blocks> Read for Blockwise<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let rest = &self.block[self.read..];
            if !rest.is_empty() {
                let bytes = rest.len().min(buffer.len());
                buffer[..bytes].copy_from_slice(&rest[..bytes]);
                self.read += bytes;
                return Ok(bytes);
            }
            self.block.clear();
            self.read = 0;
            if !self.blocks.next_block(&mut self.block)? {
                return Ok(0);
            }
        }
    }
}
