//! Files of lzop (versions 0.94 to 1.04): any number of them one after the other, in bounded memory.
//!
//! ```text
//! magic, header, its checksum, { lengths, checksums?, block } ..., 0
//! ```
//!
//! All checksums that are there are verified, and a file must have its end. All integers are
//! big-endian. Filters and other methods than LZO1X, which lzop offers but never uses unasked, are
//! refused.

use super::{
    lzo1x::{self, Damage},
    read::{Blocks, array, read_whole},
};
use std::io::{self, Read};

const MAGIC: [u8; 9] = *b"\x89LZO\0\r\n\x1a\n";

/// Longest block: lzop's own limit. It writes 256 KiB.
const MAX_BLOCK_BYTES: u32 = 64 << 20;

/// Longest extra field of a header, which nothing writes.
const MAX_EXTRA_BYTES: u32 = 64 << 10;

/// The version from which on headers have all their fields.
const WITH_ALL_FIELDS: u16 = 0x0940;

/// Bits of a header's flags.
const CONTENT_ADLER: u32 = 0x1;
const BLOCK_ADLER: u32 = 0x2;
const EXTRA_FIELD: u32 = 0x40;
const CONTENT_CRC: u32 = 0x100;
const BLOCK_CRC: u32 = 0x200;
const MULTIPART: u32 = 0x400;
const FILTER: u32 = 0x800;
const HEADER_CRC: u32 = 0x1000;

/// The decompressed content of files that follow each other.
pub(super) struct Lzop<R> {
    inner: R,
    /// Those of the file that is being read.
    flags: Option<u32>,
    compressed: Vec<u8>,
    is_first: bool,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("lzop: {what}"))
}

impl<R: Read> Lzop<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, flags: None, compressed: Vec::new(), is_first: true }
    }

    /// Reads the beginning of a file, its flags; `None` at the end.
    fn begin(&mut self) -> io::Result<Option<u32>> {
        let mut magic = [0; MAGIC.len()];
        if !read_whole(&mut self.inner, &mut magic)? {
            return if self.is_first { Err(bad("there is no file")) } else { Ok(None) };
        }
        if magic != MAGIC {
            return Err(bad("what follows a file is not another"));
        }
        self.is_first = false;
        let mut header = Header { inner: &mut self.inner, bytes: Vec::new() };
        let version = u16::from_be_bytes(header.next()?);
        let [_, _] = header.next()?;
        if version < WITH_ALL_FIELDS {
            return Err(bad("a file of an lzop older than 0.94"));
        }
        let [_, _, method, _] = header.next()?;
        let flags = u32::from_be_bytes(header.next()?);
        // Mode and time are of no use here, nor is the name.
        let [.., name_bytes]: [u8; 13] = header.next()?;
        header.skip(name_bytes.into())?;
        let sum = sum(flags & HEADER_CRC != 0, &header.bytes);
        if self.number()? != sum {
            return Err(bad("the header of a file is damaged"));
        }
        if !(1..=3).contains(&method) || flags & (FILTER | MULTIPART) != 0 {
            return Err(bad("a method other than LZO1X, a filter or several parts are used; \
                            save the image again without them"));
        }
        if flags & EXTRA_FIELD != 0 {
            self.extra_field(flags)?;
        }
        Ok(Some(flags))
    }

    fn extra_field(&mut self, flags: u32) -> io::Result<()> {
        let length = array(&mut self.inner)?;
        let bytes = u32::from_be_bytes(length);
        if bytes > MAX_EXTRA_BYTES {
            return Err(bad("the extra field of a file is too long"));
        }
        let mut field = Header { inner: &mut self.inner, bytes: length.to_vec() };
        field.skip(bytes as usize)?;
        let sum = sum(flags & HEADER_CRC != 0, &field.bytes);
        if self.number()? == sum { Ok(()) } else { Err(bad("the header of a file is damaged")) }
    }

    /// Reads a block; `false` at the file's end.
    fn read_block(&mut self, flags: u32, block: &mut Vec<u8>) -> io::Result<bool> {
        let content_bytes = self.number()?;
        if content_bytes == 0 {
            return Ok(false);
        }
        let bytes = self.number()?;
        if content_bytes > MAX_BLOCK_BYTES || bytes == 0 || bytes > content_bytes {
            return Err(bad("a block has a length that is not possible"));
        }
        let mut sums = |adler: u32, crc: u32| -> io::Result<Sums> {
            let mut read = |is_there: u32| match flags & is_there {
                0 => Ok(None),
                _ => array(&mut self.inner).map(|bytes| Some(u32::from_be_bytes(bytes))),
            };
            Ok(Sums { adler: read(adler)?, crc: read(crc)? })
        };
        let of_content = sums(CONTENT_ADLER, CONTENT_CRC)?;
        // What did not become shorter is stored as it is, and needs no second checksum.
        let is_stored = bytes == content_bytes;
        let of_block = if is_stored { Sums::default() } else { sums(BLOCK_ADLER, BLOCK_CRC)? };
        self.compressed.resize(bytes as usize, 0);
        self.inner.read_exact(&mut self.compressed)?;
        of_block.check(&self.compressed, "a block does not match its checksum")?;
        if is_stored {
            std::mem::swap(block, &mut self.compressed);
        } else {
            lzo1x::decompress(&self.compressed, content_bytes as usize, block)
                .map_err(|damage| bad(damage.what()))?;
        }
        of_content.check(block, "the content of a block does not match its checksum")?;
        Ok(true)
    }

    fn number(&mut self) -> io::Result<u32> {
        array(&mut self.inner).map(u32::from_be_bytes)
    }
}

impl<R: Read> Blocks for Lzop<R> {
    fn next_block(&mut self, block: &mut Vec<u8>) -> io::Result<bool> {
        let flags = match self.flags.take() {
            Some(flags) => flags,
            None => match self.begin()? {
                Some(flags) => flags,
                None => return Ok(false),
            },
        };
        if self.read_block(flags, block)? {
            self.flags = Some(flags);
        }
        Ok(true)
    }
}

impl Damage {
    fn what(self) -> &'static str {
        match self {
            Self::Length => "a block is damaged: it ends too early or too late",
            Self::Match => "a block is damaged: it refers to what is before it",
            Self::Content => "a block is damaged: its content has another length",
        }
    }
}

/// Reads a header and keeps it, for its checksum.
struct Header<'r, R> {
    inner: &'r mut R,
    bytes: Vec<u8>,
}

impl<R: Read> Header<'_, R> {
    fn next<const BYTES: usize>(&mut self) -> io::Result<[u8; BYTES]> {
        let bytes = array(self.inner)?;
        self.bytes.extend_from_slice(&bytes);
        Ok(bytes)
    }

    fn skip(&mut self, bytes: usize) -> io::Result<()> {
        let from = self.bytes.len();
        self.bytes.resize(from + bytes, 0);
        self.inner.read_exact(&mut self.bytes[from..])
    }
}

/// Checksums of the same bytes, where they are there.
#[derive(Default)]
struct Sums {
    adler: Option<u32>,
    crc: Option<u32>,
}

impl Sums {
    fn check(&self, bytes: &[u8], complaint: &str) -> io::Result<()> {
        let differs = |expected: Option<u32>, is_crc| {
            expected.is_some_and(|expected| expected != sum(is_crc, bytes))
        };
        if differs(self.adler, false) || differs(self.crc, true) {
            return Err(bad(complaint));
        }
        Ok(())
    }
}

fn sum(is_crc: bool, bytes: &[u8]) -> u32 {
    if is_crc { crc32fast::hash(bytes) } else { adler2::adler32_slice(bytes) }
}
