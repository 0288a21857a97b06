//! Maps of sparse files, in the four ways in which they are written.
//!
//! ```text
//! old GNU    type S: pairs in the header, 21 more in each block behind it
//! pax 0.0    GNU.sparse.offset, GNU.sparse.numbytes, again and again
//! pax 0.1    GNU.sparse.map=offset,bytes,offset,bytes ...
//! pax 1.0    in front of the content: the number of pairs, then the pairs, a line each, padded
//! ```

use super::{BLOCK_BYTES, MAX_PIECES, block, member::Piece, padded, pax};
use std::ops::Range;

const FIRST: Range<usize> = 386..482;
const IS_EXTENDED: usize = 482;
const REAL_SIZE: Range<usize> = 483..495;
const MORE: Range<usize> = 0..504;
const MORE_IS_EXTENDED: usize = 504;
const NUMBER: usize = 12;

/// Longest line with a number.
const NUMBER_BYTES: usize = 21;

const BAD: &str = "the map of this sparse file cannot be understood";
const TOO_MANY: &str = "this sparse file has more pieces than can be taken";

/// The lines of a map in front of the content, padded. A hole at the end of the file is known to GNU tar only
/// by an empty piece behind it.
pub(super) fn to_lines(map: &[Piece], file_bytes: u64) -> Vec<u8> {
    let end = map.last().map_or(0, |piece| piece.offset.saturating_add(piece.bytes));
    let last =
        (end < file_bytes || map.is_empty()).then_some(Piece { offset: file_bytes, bytes: 0 });
    let mut lines = format!("{}\n", map.len() + usize::from(last.is_some()));
    for Piece { offset, bytes } in map.iter().chain(&last) {
        lines.push_str(&format!("{offset}\n{bytes}\n"));
    }
    let mut lines = lines.into_bytes();
    lines.resize(padded(lines.len() as u64) as usize, 0);
    lines
}

/// A map in the making.
#[derive(Default)]
pub(super) struct Map(Vec<Piece>);

impl Map {
    fn push(&mut self, offset: u64, bytes: u64) -> Result<(), &'static str> {
        if self.0.len() == MAX_PIECES {
            return Err(TOO_MANY);
        }
        self.0.push(Piece { offset, bytes });
        Ok(())
    }

    /// Pairs of an old header or of a block behind it; they end with an empty one.
    fn pairs(&mut self, field: &[u8]) -> Result<(), &'static str> {
        for pair in field.chunks_exact(2 * NUMBER) {
            if pair[0] == 0 {
                break;
            }
            let (offset, bytes) = pair.split_at(NUMBER);
            let number = |field| block::unsigned(field).ok_or(BAD);
            self.push(number(offset)?, number(bytes)?)?;
        }
        Ok(())
    }

    /// The pairs in an old header: whether blocks with more follow, and how long the file is.
    pub(super) fn old(&mut self, header: &[u8; BLOCK_BYTES]) -> Result<(bool, u64), &'static str> {
        self.pairs(&header[FIRST])?;
        let bytes = block::unsigned(&header[REAL_SIZE]).ok_or(BAD)?;
        Ok((header[IS_EXTENDED] != 0, bytes))
    }

    /// The pairs in a block behind it; whether more follow.
    pub(super) fn old_more(&mut self, more: &[u8; BLOCK_BYTES]) -> Result<bool, &'static str> {
        self.pairs(&more[MORE])?;
        Ok(more[MORE_IS_EXTENDED] != 0)
    }

    /// `offset,bytes,offset,bytes ...`
    pub(super) fn list(&mut self, text: &[u8]) -> Result<(), &'static str> {
        if text.is_empty() {
            return Ok(());
        }
        let mut numbers = text.split(|byte| *byte == b',').map(pax::decimal);
        while let Some(offset) = numbers.next() {
            let bytes = numbers.next().flatten().ok_or(BAD)?;
            self.push(offset.ok_or(BAD)?, bytes)?;
        }
        Ok(())
    }

    /// One half of a pair, which come in turn.
    pub(super) fn offset(&mut self, text: &[u8]) -> Result<(), &'static str> {
        self.push(pax::decimal(text).ok_or(BAD)?, 0)
    }

    /// The other half.
    pub(super) fn bytes(&mut self, text: &[u8]) -> Result<(), &'static str> {
        self.0.last_mut().ok_or(BAD)?.bytes = pax::decimal(text).ok_or(BAD)?;
        Ok(())
    }

    /// How many lines are in front of the content, once their number is in `blocks`.
    pub(super) fn needed_lines(blocks: &[u8]) -> Result<Option<usize>, &'static str> {
        let first = &blocks[..blocks.len().min(NUMBER_BYTES)];
        let Some(end) = first.iter().position(|byte| *byte == b'\n') else {
            return if first.len() < NUMBER_BYTES { Ok(None) } else { Err(BAD) };
        };
        match pax::decimal(&first[..end]).ok_or(BAD)? {
            count if count > MAX_PIECES as u64 => Err(TOO_MANY),
            count => Ok(Some(2 * count as usize + 1)),
        }
    }

    /// What those lines say.
    pub(super) fn lines(blocks: &[u8]) -> Result<Self, &'static str> {
        let mut numbers =
            blocks.split(|byte| *byte == b'\n').map(|line| pax::decimal(line).ok_or(BAD));
        let mut next = || numbers.next().unwrap_or(Err(BAD));
        let mut map = Self::default();
        for _ in 0..next()? {
            map.push(next()?, next()?)?;
        }
        Ok(map)
    }

    /// The pieces, which lie within the file in their order and are together as long as its content.
    pub(super) fn finish(
        mut self,
        data_bytes: u64,
        file_bytes: u64,
    ) -> Result<Vec<Piece>, &'static str> {
        const WRONG: &str = "the map of this sparse file contradicts its size";
        // The last one says where the file ends.
        self.0.retain(|piece| piece.bytes > 0);
        let (mut end, mut sum) = (0_u64, 0_u64);
        for piece in &self.0 {
            if piece.offset < end {
                return Err("the pieces of this sparse file are not in order");
            }
            end = piece.offset.checked_add(piece.bytes).ok_or(WRONG)?;
            sum += piece.bytes;
        }
        match end <= file_bytes && sum == data_bytes {
            true => Ok(self.0),
            false => Err(WRONG),
        }
    }
}
