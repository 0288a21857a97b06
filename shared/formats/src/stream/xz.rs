//! xz streams (The .xz File Format 1.2.1): any number of them, with any number of blocks, in bounded
//! memory.
//!
//! ```text
//! stream header, { block header, LZMA2 data, padding, check } ..., index, stream footer, padding
//! ```
//!
//! All checks are made: of the headers, of each block's content, and of the index against the blocks.
//! The one filter is LZMA2, which is what xz, pixz and `xz -T` use unless told otherwise.

mod check;

use super::read::{Counted, read_whole};
use check::{Check, Sum};
use lzma_rust2::Lzma2Reader;
use std::io::{self, Read};

/// Largest dictionary: that of `xz -9`.
const MAX_DICTIONARY_BYTES: u32 = 64 << 20;

const MAGIC: [u8; 6] = *b"\xfd7zXZ\0";
const FOOTER_MAGIC: [u8; 2] = *b"YZ";
const LZMA2: u64 = 0x21;

/// Bits of a block's flags.
const FILTERS: u8 = 0x03;
const RESERVED: u8 = 0x3c;
const HAS_COMPRESSED_BYTES: u8 = 0x40;
const HAS_CONTENT_BYTES: u8 = 0x80;

/// The decompressed content of xz streams that follow each other.
pub(super) struct Xz<R: Read> {
    state: State<R>,
}

enum State<R: Read> {
    /// Before a stream, or at the end. The first stream must be there.
    Outside { inner: R, is_first: bool },
    /// Before a block or the index.
    Between { inner: R, stream: Stream },
    /// In a block.
    Within(Box<Block<R>>),
    /// After an error, or at the end.
    Ended,
}

/// A stream as far as it was read.
struct Stream {
    flags: [u8; 2],
    check: Check,
    blocks: Records,
}

/// The sizes of blocks, as the index must have them.
#[derive(Default, PartialEq, Eq)]
struct Records {
    count: u64,
    hash: Option<blake3::Hash>,
}

/// A block as far as it was read.
struct Block<R: Read> {
    data: Lzma2Reader<Counted<R>>,
    stream: Stream,
    header_bytes: u64,
    compressed_bytes: Option<u64>,
    content_bytes: Option<u64>,
    content: u64,
    sum: Sum,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("xz: {what}"))
}

impl<R: Read> Xz<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { state: State::Outside { inner, is_first: true } }
    }
}

impl<R: Read> Read for Xz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            // An error leaves it ended.
            self.state = match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Ok(0),
                State::Outside { inner, is_first } => match begin(inner, is_first)? {
                    Some(state) => state,
                    None => return Ok(0),
                },
                State::Between { inner, stream } => between(inner, stream)?,
                State::Within(mut block) => match block.data.read(buffer)? {
                    0 => end_block(*block)?,
                    bytes => {
                        block.sum.update(&buffer[..bytes]);
                        block.content += bytes as u64;
                        self.state = State::Within(block);
                        return Ok(bytes);
                    }
                },
            };
        }
    }
}

/// Reads the header of a stream, after padding; `None` at the end.
fn begin<R: Read>(mut inner: R, is_first: bool) -> io::Result<Option<State<R>>> {
    let mut word = [0; 4];
    loop {
        if !read_whole(&mut inner, &mut word)? {
            return if is_first { Err(bad("there is no stream")) } else { Ok(None) };
        }
        if word != [0; 4] || is_first {
            break;
        }
    }
    if word != MAGIC[..4] {
        return Err(bad("what follows a stream is not another"));
    }
    let mut rest = [0; 8];
    inner.read_exact(&mut rest)?;
    let flags = [rest[2], rest[3]];
    if rest[..2] != MAGIC[4..] {
        return Err(bad("what follows a stream is not another"));
    }
    if crc32fast::hash(&flags).to_le_bytes() != rest[4..] {
        return Err(bad("the header of a stream is damaged"));
    }
    let check = match flags {
        [0, 0] => Check::None,
        [0, 1] => Check::Crc32,
        [0, 4] => Check::Crc64,
        [0, 10] => Check::Sha256,
        _ => return Err(bad("a stream of an unknown kind")),
    };
    let stream = Stream { flags, check, blocks: Records::default() };
    Ok(Some(State::Between { inner, stream }))
}

/// Reads the header of a block, or index and footer.
fn between<R: Read>(mut inner: R, stream: Stream) -> io::Result<State<R>> {
    let size = byte(&mut inner)?;
    if size == 0 {
        end_stream(&mut inner, &stream)?;
        return Ok(State::Outside { inner, is_first: false });
    }
    let mut header = vec![size; (usize::from(size) + 1) * 4];
    inner.read_exact(&mut header[1..])?;
    let header_bytes = header.len() as u64;
    let (fields, sum) = header.split_at(header.len() - 4);
    if crc32fast::hash(fields).to_le_bytes() != sum {
        return Err(bad("the header of a block is damaged"));
    }
    let (flags, mut fields) = (fields[1], &fields[2..]);
    if flags & RESERVED != 0 {
        return Err(bad("a block of an unknown kind"));
    }
    let mut size = |is_there: u8| match flags & is_there {
        0 => Ok(None),
        _ => number(&mut fields).map(Some),
    };
    let compressed_bytes = size(HAS_COMPRESSED_BYTES)?;
    let content_bytes = size(HAS_CONTENT_BYTES)?;
    let (filter, properties) = (number(&mut fields)?, number(&mut fields)?);
    if flags & FILTERS != 0 || filter != LZMA2 || properties != 1 {
        return Err(bad("a filter other than LZMA2 is used; save the image again without it"));
    }
    let dictionary = dictionary(byte(&mut fields)?)?;
    if fields.iter().any(|byte| *byte != 0) {
        return Err(bad("the header of a block is damaged"));
    }
    let sum = stream.check.begin();
    let data = Lzma2Reader::new(Counted::new(inner), dictionary, None);
    let block =
        Block { data, stream, header_bytes, compressed_bytes, content_bytes, content: 0, sum };
    Ok(State::Within(Box::new(block)))
}

/// Bytes of the dictionary for a block's LZMA2 data.
fn dictionary(code: u8) -> io::Result<u32> {
    let bytes = match code {
        0..40 => (2 | u64::from(code & 1)) << (code / 2 + 11),
        40 => u64::from(u32::MAX),
        _ => return Err(bad("the header of a block is damaged")),
    };
    match u32::try_from(bytes) {
        Ok(bytes) if bytes <= MAX_DICTIONARY_BYTES => Ok(bytes),
        _ => Err(bad(&format!(
            "a dictionary of {} MiB is needed, and {} MiB is the limit; save the image again with \
             at most xz -9",
            bytes >> 20,
            MAX_DICTIONARY_BYTES >> 20
        ))),
    }
}

/// Reads padding and check, and compares what was read with the header.
fn end_block<R: Read>(block: Block<R>) -> io::Result<State<R>> {
    let Counted { mut inner, bytes } = block.data.into_inner();
    let differs = |said: Option<u64>, found: u64| said.is_some_and(|said| said != found);
    if differs(block.compressed_bytes, bytes) || differs(block.content_bytes, block.content) {
        return Err(bad("a block has another length than its header says"));
    }
    padding(&mut inner, bytes)?;
    let expected = block.sum.finish();
    let mut found = vec![0; expected.len()];
    inner.read_exact(&mut found)?;
    if found != expected {
        return Err(bad("the content of a block does not match its check"));
    }
    let mut stream = block.stream;
    stream.blocks.push(block.header_bytes + bytes + expected.len() as u64, block.content);
    Ok(State::Between { inner, stream })
}

/// Reads the index, whose first byte was read, and the footer.
fn end_stream<R: Read>(inner: &mut R, stream: &Stream) -> io::Result<()> {
    let mut index = Summed { inner, sum: crc32fast::Hasher::new(), bytes: 1 };
    index.sum.update(&[0]);
    let count = number(&mut index)?;
    let mut records = Records::default();
    // Another number of blocks is noticed before it costs time.
    while records.count < count.min(stream.blocks.count) {
        let (unpadded, content) = (number(&mut index)?, number(&mut index)?);
        records.push(unpadded, content);
    }
    if count != stream.blocks.count || records != stream.blocks {
        return Err(bad("the index does not fit the blocks"));
    }
    let bytes = index.bytes;
    padding(&mut index, bytes)?;
    let (bytes, sum) = (index.bytes, index.sum.finalize());
    let mut end = [0; 16];
    inner.read_exact(&mut end)?;
    let [sums, footer] = [&end[..4], &end[4..]];
    let backward = u32::from_le_bytes([footer[4], footer[5], footer[6], footer[7]]);
    let is_whole = sums == sum.to_le_bytes()
        && footer[..4] == crc32fast::hash(&footer[4..10]).to_le_bytes()
        && (u64::from(backward) + 1) * 4 == bytes + 4
        && footer[8..10] == stream.flags
        && footer[10..] == FOOTER_MAGIC;
    if is_whole { Ok(()) } else { Err(bad("the end of a stream is damaged")) }
}

impl Records {
    fn push(&mut self, unpadded: u64, content: u64) {
        let before = self.hash.map_or([0; 32], Into::into);
        let mut hasher = blake3::Hasher::new_keyed(&before);
        hasher.update(&unpadded.to_le_bytes()).update(&content.to_le_bytes());
        self.hash = Some(hasher.finalize());
        self.count += 1;
    }
}

/// Counts and sums what is read.
struct Summed<'r, R> {
    inner: &'r mut R,
    sum: crc32fast::Hasher,
    bytes: u64,
}

impl<R: Read> Read for Summed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.sum.update(&buffer[..bytes]);
        self.bytes += bytes as u64;
        Ok(bytes)
    }
}

/// Reads the zeros up to a multiple of four.
fn padding(inner: &mut impl Read, bytes: u64) -> io::Result<()> {
    for _ in 0..(4 - bytes % 4) % 4 {
        if byte(inner)? != 0 {
            return Err(bad("padding is not zero"));
        }
    }
    Ok(())
}

fn byte(inner: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    inner.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// A number of 63 bits, 7 of them in a byte.
fn number(inner: &mut impl Read) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let byte = byte(inner)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(bad("a number is too long"))
}
