//! LZ4 frames (LZ4 Frame Format 1.6.4): any number of them, in bounded memory.
//!
//! ```text
//! magic, descriptor, { length, block, checksum? } ..., 0, checksum of the content?
//! ```
//!
//! All checksums that are there are verified, and a frame must have its end. The old format of
//! `lz4 -l` and dictionaries of their own are refused; Clonezilla writes neither.

use super::read::{Blocks, array, read_whole};
use std::io::{self, Read};
use xxhash_rust::xxh32::{Xxh32, xxh32};

const MAGIC: u32 = 0x184d_2204;

/// Magics of frames without content, but for the last four bits.
const SKIPPABLE: u32 = 0x184d_2a50;

/// How far back a block may refer to those before it.
const WINDOW_BYTES: usize = 64 << 10;

/// A block that is not compressed.
const STORED: u32 = 1 << 31;

/// Bits of a descriptor.
const DICTIONARY: u8 = 0x01;
const RESERVED: u8 = 0x02;
const CONTENT_SUM: u8 = 0x04;
const CONTENT_BYTES: u8 = 0x08;
const BLOCK_SUMS: u8 = 0x10;
const INDEPENDENT: u8 = 0x20;

/// The decompressed content of frames that follow each other.
pub(super) struct Lz4<R> {
    inner: R,
    frame: Option<Frame>,
    compressed: Vec<u8>,
    is_first: bool,
}

/// A frame as far as it was read.
struct Frame {
    flags: u8,
    max_block_bytes: usize,
    content_bytes: Option<u64>,
    content: u64,
    sum: Xxh32,
    /// The end of the content so far, where blocks may refer to it.
    window: Vec<u8>,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("lz4: {what}"))
}

impl<R: Read> Lz4<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, frame: None, compressed: Vec::new(), is_first: true }
    }

    /// Reads the beginning of a frame; `None` at the end.
    fn begin(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let mut magic = [0; 4];
            if !read_whole(&mut self.inner, &mut magic)? {
                return if self.is_first { Err(bad("there is no frame")) } else { Ok(None) };
            }
            self.is_first = false;
            match u32::from_le_bytes(magic) {
                MAGIC => return self.descriptor().map(Some),
                magic if magic & !0xf == SKIPPABLE => {
                    let bytes = u64::from(self.number()?);
                    let skipped = io::copy(&mut (&mut self.inner).take(bytes), &mut io::sink())?;
                    if skipped < bytes {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                _ => return Err(bad("what follows a frame is not another")),
            }
        }
    }

    fn descriptor(&mut self) -> io::Result<Frame> {
        let mut descriptor = [0; 10];
        self.inner.read_exact(&mut descriptor[..2])?;
        let [flags, size, ..] = descriptor;
        let length = if flags & CONTENT_BYTES == 0 { 2 } else { 10 };
        self.inner.read_exact(&mut descriptor[2..length])?;
        let mut sum = [0];
        self.inner.read_exact(&mut sum)?;
        if xxh32(&descriptor[..length], 0).to_le_bytes()[1] != sum[0] {
            return Err(bad("the header of a frame is damaged"));
        }
        if flags >> 6 != 1 || flags & RESERVED != 0 || size & !0x70 != 0 {
            return Err(bad("a frame of an unknown version"));
        }
        if flags & DICTIONARY != 0 {
            return Err(bad("a frame needs a dictionary of its own, which is not supported"));
        }
        let max_block_bytes = match size >> 4 {
            code @ 4..=7 => 1 << (2 * code + 8),
            _ => return Err(bad("the blocks of a frame have an unknown size")),
        };
        let content_bytes = descriptor[2..length].try_into().map(u64::from_le_bytes).ok();
        let (sum, window) = (Xxh32::new(0), Vec::new());
        Ok(Frame { flags, max_block_bytes, content_bytes, content: 0, sum, window })
    }

    /// Reads a block; `false` at the frame's end.
    fn read_block(&mut self, frame: &mut Frame, block: &mut Vec<u8>) -> io::Result<bool> {
        let length = self.number()?;
        if length == 0 {
            return self.end(frame).map(|()| false);
        }
        let bytes = (length & !STORED) as usize;
        if bytes > frame.max_block_bytes {
            return Err(bad("a block is longer than its frame allows"));
        }
        self.compressed.resize(bytes, 0);
        self.inner.read_exact(&mut self.compressed)?;
        if frame.flags & BLOCK_SUMS != 0 && xxh32(&self.compressed, 0) != self.number()? {
            return Err(bad("a block does not match its checksum"));
        }
        if length & STORED == 0 {
            block.resize(frame.max_block_bytes, 0);
            let decompress = lz4_flex::block::decompress_into_with_dict;
            let bytes = decompress(&self.compressed, block, &frame.window)
                .map_err(|error| bad(&format!("a block is damaged: {error}")))?;
            block.truncate(bytes);
        } else {
            std::mem::swap(block, &mut self.compressed);
        }
        frame.took(block);
        Ok(true)
    }

    fn end(&mut self, frame: &Frame) -> io::Result<()> {
        if frame.content_bytes.is_some_and(|bytes| bytes != frame.content) {
            return Err(bad("the content of a frame has another length than its header says"));
        }
        if frame.flags & CONTENT_SUM != 0 && self.number()? != frame.sum.digest() {
            return Err(bad("the content of a frame does not match its checksum"));
        }
        Ok(())
    }

    fn number(&mut self) -> io::Result<u32> {
        array(&mut self.inner).map(u32::from_le_bytes)
    }
}

impl Frame {
    fn took(&mut self, block: &[u8]) {
        self.content += block.len() as u64;
        if self.flags & CONTENT_SUM != 0 {
            self.sum.update(block);
        }
        if self.flags & INDEPENDENT == 0 {
            let tail = &block[block.len().saturating_sub(WINDOW_BYTES)..];
            let excess = (self.window.len() + tail.len()).saturating_sub(WINDOW_BYTES);
            self.window.drain(..excess);
            self.window.extend_from_slice(tail);
        }
    }
}

impl<R: Read> Blocks for Lz4<R> {
    fn next_block(&mut self, block: &mut Vec<u8>) -> io::Result<bool> {
        let mut frame = match self.frame.take() {
            Some(frame) => frame,
            None => match self.begin()? {
                Some(frame) => frame,
                None => return Ok(false),
            },
        };
        if self.read_block(&mut frame, block)? {
            self.frame = Some(frame);
        }
        Ok(true)
    }
}
