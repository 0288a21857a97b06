//! Takes a frame apart into members, and parts of a member, by its context alone.

use super::{
    TarError,
    context::{Context, Rest},
    headers::{Headers, Next},
    member::Member,
    padded,
};

/// Something in a frame.
#[derive(Debug)]
pub enum Part<'d> {
    /// A member that begins here.
    Member {
        /// Its number in the archive.
        number: u32,
        /// The member.
        member: Box<Member>,
        /// Its content, or the beginning of it.
        data: &'d [u8],
    },
    /// A part of the content of a member that begins elsewhere.
    Rest {
        /// Of which, and where it belongs.
        rest: &'d Rest,
        /// The content.
        data: &'d [u8],
    },
}

/// The parts of a frame.
pub struct Parts<'d> {
    headers: Headers,
    data: &'d [u8],
    rest: Option<&'d Rest>,
    next: u32,
    raw: Vec<u8>,
}

impl<'d> Parts<'d> {
    /// `data` is what the frame decompresses to.
    pub fn new(context: &'d Context, data: &'d [u8]) -> Self {
        Self {
            headers: Headers::with_globals(context.globals.clone()),
            data,
            rest: context.rest.as_ref(),
            next: context.first_member,
            raw: Vec::new(),
        }
    }

    /// The next one. Offsets in errors count from the frame's first byte.
    pub fn next_part(&mut self) -> Result<Option<Part<'d>>, TarError> {
        if let Some(rest) = self.rest.take() {
            let data = self.take(rest.data_bytes)?;
            let expected: u64 =
                rest.pieces.iter().map(|piece| piece.bytes).fold(0, u64::saturating_add);
            return match expected == rest.data_bytes {
                true => Ok(Some(Part::Rest { rest, data })),
                false => Err(self.wrong("the part of a member has another length")),
            };
        }
        self.raw.clear();
        let mut input = self.data;
        let next = self.headers.next(&mut input, &mut self.raw)?;
        self.data = input;
        let member = match next {
            Next::Eof | Next::EndMark => return Ok(None),
            Next::Member(member) => member,
        };
        let number = self.next;
        self.next = number.checked_add(1).ok_or_else(|| self.wrong("too many members"))?;
        let here = member.data_bytes.min(self.data.len() as u64);
        let data = self.take(here)?;
        Ok(Some(Part::Member { number, member, data }))
    }

    /// Content with its padding, which a member that goes on elsewhere does not have.
    fn take(&mut self, bytes: u64) -> Result<&'d [u8], TarError> {
        let content = usize::try_from(bytes).ok().and_then(|bytes| self.data.get(..bytes));
        let content = content.ok_or_else(|| self.wrong("the part of a member is cut off"))?;
        let with_padding = padded(bytes).min(self.data.len() as u64);
        self.data = &self.data[with_padding as usize..];
        self.headers.advance(with_padding);
        Ok(content)
    }

    fn wrong(&self, what: &str) -> TarError {
        TarError::Invalid { offset: self.headers.offset(), member: None, what: what.to_owned() }
    }
}
