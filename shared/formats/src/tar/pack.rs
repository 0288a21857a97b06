//! Cuts an archive into frames: at members, and large files at any block.

use super::{
    BLOCK_BYTES, TarError,
    block::Block,
    context::{Context, Rest},
    headers::{Headers, Next},
    member::{Kind, Member, slice},
    padded, shown,
    survey::Survey,
};
use crate::chunk::PlainChunk;
use metalcast_shared::manifest::{CHUNK_BYTES, Run};
use std::{
    io::{self, Read},
    sync::Arc,
};

/// The end mark: two blocks of zeros.
const END_BYTES: usize = 2 * BLOCK_BYTES;

/// Read at once of what follows the end mark.
const BUFFER_BYTES: usize = 64 << 10;

/// What becomes one frame.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Blocks of the archive; its only run says how many.
    pub plain: PlainChunk,
    /// What is to stand in front of the frame.
    pub context: Context,
}

/// Cuts an archive. Memory: a frame, the headers of a member, and what is remembered of each path.
pub struct Packer<R> {
    input: R,
    headers: Headers,
    survey: Survey,
    /// A member of which not everything was given out.
    open: Option<Open>,
    /// A member that did not fit any more.
    waiting: Option<(Box<Member>, Vec<u8>, u32)>,
    next_index: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Members,
    /// The end mark was read.
    Ended,
    /// It was given out.
    Done,
}

struct Open {
    member: Box<Member>,
    number: u32,
    done_bytes: u64,
}

/// Whether a file that begins so is an archive. The oldest ones have no mark, but a checksum: those are
/// taken for one if `is_named` says that they are.
pub fn is_archive(start: &[u8], is_named: bool) -> bool {
    let Some(block) = start.first_chunk() else { return false };
    Block::new(block).is_ok_and(|header| {
        (header.has_magic() || is_named) && (header.kind() == b'g' || !header.name().is_empty())
    })
}

impl<R: Read> Packer<R> {
    /// Begins with the first byte.
    pub fn new(input: R) -> Self {
        Self {
            input,
            headers: Headers::default(),
            survey: Survey::default(),
            open: None,
            waiting: None,
            next_index: 0,
            state: State::Members,
        }
    }

    /// Where it reads. What was read of it may be more than what has become frames.
    pub fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// What becomes the next frame; `None` after the one with the end mark.
    pub fn next_chunk(&mut self) -> Result<Option<Packed>, TarError> {
        let first_member = self.waiting.as_ref().map(|(_, _, number)| *number);
        let mut context = Context {
            globals: self.headers.globals().to_vec(),
            first_member: first_member.unwrap_or(self.survey.members()),
            rest: None,
            index: None,
        };
        let mut data = Vec::with_capacity(CHUNK_BYTES as usize);
        if let Some(open) = self.open.take() {
            context.rest = Some(self.rest(open, &mut data)?);
        }
        while self.open.is_none() && self.state == State::Members {
            if !self.member(&mut data)? {
                break;
            }
        }
        match (self.state, data.is_empty()) {
            (State::Members, _) | (State::Ended, false) => self.packed(data, context).map(Some),
            (State::Ended, true) => {
                self.state = State::Done;
                context.index =
                    Some(self.survey.finish().map_err(|what| self.refused(None, what))?);
                data.resize(END_BYTES, 0);
                self.packed(data, context).map(Some)
            }
            (State::Done, _) => Ok(None),
        }
    }

    fn packed(&mut self, data: Vec<u8>, context: Context) -> Result<Packed, TarError> {
        let index = self.next_index;
        let too_many = || self.refused(None, "it has more frames than can be counted".to_owned());
        self.next_index = index.checked_add(1).ok_or_else(too_many)?;
        let count = (data.len() / BLOCK_BYTES) as u32;
        let plain = PlainChunk { index, runs: vec![Run { start: 0, count }], data };
        Ok(Packed { plain, context })
    }

    /// Puts the next member, or its beginning, into the frame; `false` if it is to begin the next one.
    fn member(&mut self, data: &mut Vec<u8>) -> Result<bool, TarError> {
        let (member, raw, number) = match self.waiting.take() {
            Some(waiting) => waiting,
            None => {
                let mut raw = Vec::with_capacity(4 * BLOCK_BYTES);
                match self.headers.next(&mut self.input, &mut raw)? {
                    Next::Member(member) => {
                        let number = self.survey.add(&member);
                        let number =
                            number.map_err(|what| self.refused(Some(&member.path), what))?;
                        (member, raw, number)
                    }
                    Next::EndMark => {
                        self.state = State::Ended;
                        self.only_padding_follows()?;
                        return Ok(true);
                    }
                    Next::Eof => {
                        let (offset, what) = (self.headers.offset(), "without an end mark");
                        return Err(TarError::CutOff { offset, what });
                    }
                }
            }
        };
        let room = CHUNK_BYTES as usize - data.len();
        let bytes = (raw.len() as u64).saturating_add(padded(member.data_bytes));
        // What fits into a frame is not cut; what does not begins with one, unless hardly any is used.
        let begins_next = match bytes <= u64::from(CHUNK_BYTES) {
            true => bytes > room as u64,
            false => raw.len() >= room || data.len() > CHUNK_BYTES as usize / 4,
        };
        if begins_next && !data.is_empty() {
            self.waiting = Some((member, raw, number));
            return Ok(false);
        }
        data.extend_from_slice(&raw);
        let open = Open { member, number, done_bytes: 0 };
        self.content(open, data).map(|_| true)
    }

    /// Puts as much of a member's content into the frame as there is room for; its bytes.
    fn content(&mut self, mut open: Open, data: &mut Vec<u8>) -> Result<u64, TarError> {
        let left = open.member.data_bytes - open.done_bytes;
        let room = CHUNK_BYTES as usize - data.len();
        let bytes = padded(left).min(room as u64);
        let at = data.len();
        data.resize(at + bytes as usize, 0);
        if let Err(source) = self.input.read_exact(&mut data[at..]) {
            let offset = self.headers.offset();
            return Err(match source.kind() {
                io::ErrorKind::UnexpectedEof => {
                    TarError::CutOff { offset, what: "within the content of a member" }
                }
                _ => TarError::Read { offset, source: Arc::new(source) },
            });
        }
        self.headers.advance(bytes);
        let done = bytes.min(left);
        open.done_bytes += done;
        if open.done_bytes < open.member.data_bytes {
            self.open = Some(open);
        }
        Ok(done)
    }

    fn rest(&mut self, open: Open, data: &mut Vec<u8>) -> Result<Rest, TarError> {
        let (from, number, path) = (open.done_bytes, open.number, open.member.path.clone());
        let is_skipped = open.member.kind != Kind::File;
        let map = open.member.map.clone();
        let data_bytes = self.content(open, data)?;
        let pieces = slice(map.as_deref(), from, from + data_bytes);
        Ok(Rest { number, path, data_bytes, pieces, is_skipped })
    }

    /// Reads to the end: an archive behind another one is not left out silently.
    fn only_padding_follows(&mut self) -> Result<(), TarError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = match self.input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    let offset = self.headers.offset();
                    return Err(TarError::Read { offset, source: Arc::new(source) });
                }
            };
            if buffer[..read].iter().any(|byte| *byte != 0) {
                let what = "more follows its end mark: several archives in one, or damage; unpack it \
                            (tar --ignore-zeros) and make one archive of it";
                return Err(self.refused(None, what.to_owned()));
            }
            self.headers.advance(read as u64);
        }
    }

    fn refused(&self, path: Option<&[u8]>, what: String) -> TarError {
        let offset = if path.is_some() { self.headers.start() } else { self.headers.offset() };
        TarError::Invalid { offset, member: path.map(shown), what }
    }
}
