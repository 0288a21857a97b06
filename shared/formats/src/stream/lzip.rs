//! lzip members (version 1 of the format): any number of them, in bounded memory.
//!
//! ```text
//! magic, version, dictionary, LZMA data with an end mark, CRC-32, length, length of the member
//! ```
//!
//! Checksum and both lengths are verified, and nothing but another member may follow one.

use super::read::{Counted, array, read_whole};
use lzma_rust2::LzmaReader;
use std::io::{self, Read};

/// Largest dictionary: twice that of `lzip -9`.
const MAX_DICTIONARY_BYTES: u32 = 64 << 20;

const MAGIC: [u8; 4] = *b"LZIP";
const VERSION: u8 = 1;
const HEADER_BYTES: u64 = 6;
const TRAILER_BYTES: u64 = 20;

/// The parameters that LZMA always has within lzip: literal context, literal position and position
/// bits.
const LZMA_BITS: (u32, u32, u32) = (3, 0, 2);

/// The decompressed content of members that follow each other.
pub(super) struct Lzip<R: Read> {
    state: State<R>,
}

enum State<R: Read> {
    /// Before a member, or at the end. The first one must be there.
    Outside { inner: R, is_first: bool },
    /// In a member.
    Within(Box<Member<R>>),
    /// After an error, or at the end.
    Ended,
}

/// A member as far as it was read.
struct Member<R: Read> {
    data: LzmaReader<Counted<R>>,
    sum: crc32fast::Hasher,
    content: u64,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("lzip: {what}"))
}

impl<R: Read> Lzip<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { state: State::Outside { inner, is_first: true } }
    }
}

impl<R: Read> Read for Lzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            // An error leaves it ended.
            self.state = match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Ok(0),
                State::Outside { inner, is_first } => match begin(inner, is_first)? {
                    Some(member) => State::Within(Box::new(member)),
                    None => return Ok(0),
                },
                State::Within(mut member) => match member.data.read(buffer)? {
                    0 => State::Outside { inner: end(*member)?, is_first: false },
                    bytes => {
                        member.sum.update(&buffer[..bytes]);
                        member.content += bytes as u64;
                        self.state = State::Within(member);
                        return Ok(bytes);
                    }
                },
            };
        }
    }
}

/// Reads the header of a member; `None` at the end.
fn begin<R: Read>(mut inner: R, is_first: bool) -> io::Result<Option<Member<R>>> {
    let mut header = [0; HEADER_BYTES as usize];
    if !read_whole(&mut inner, &mut header)? {
        return if is_first { Err(bad("there is no member")) } else { Ok(None) };
    }
    if header[..4] != MAGIC {
        return Err(bad("what follows a member is not another"));
    }
    if header[4] != VERSION {
        return Err(bad("a member of an unknown version"));
    }
    let dictionary = dictionary(header[5])?;
    let (context, position, bits) = LZMA_BITS;
    let data =
        LzmaReader::new(Counted::new(inner), u64::MAX, context, position, bits, dictionary, None)?;
    Ok(Some(Member { data, sum: crc32fast::Hasher::new(), content: 0 }))
}

/// Bytes of the dictionary: a power of two less some sixteenths of it.
fn dictionary(code: u8) -> io::Result<u32> {
    let bytes = match code & 0x1f {
        power @ 12..=29 => (1_u32 << power) - (1 << (power - 4)) * u32::from(code >> 5),
        _ => return Err(bad("the header of a member is damaged")),
    };
    match bytes {
        4096..=MAX_DICTIONARY_BYTES => Ok(bytes),
        _ => Err(bad(&format!(
            "a dictionary of {bytes} bytes is needed, and {MAX_DICTIONARY_BYTES} is the limit; save \
             the image again with at most lzip -9"
        ))),
    }
}

/// Reads the trailer and compares it with what was read.
fn end<R: Read>(member: Member<R>) -> io::Result<R> {
    let Counted { mut inner, bytes } = member.data.into_inner();
    let sum: [u8; 4] = array(&mut inner)?;
    let content = u64::from_le_bytes(array(&mut inner)?);
    let length = u64::from_le_bytes(array(&mut inner)?);
    if sum != member.sum.finalize().to_le_bytes() {
        return Err(bad("the content of a member does not match its checksum"));
    }
    if content != member.content || length != HEADER_BYTES + bytes + TRAILER_BYTES {
        return Err(bad("a member has another length than its end says"));
    }
    Ok(inner)
}
