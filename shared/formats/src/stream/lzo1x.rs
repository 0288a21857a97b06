//! LZO1X, the compression within lzop's blocks, undone.
//!
//! ```text
//! [literals]  { instruction, [literals] } ...  end
//! ```
//!
//! An instruction copies a match from what was written before and says how many literals (0 to 3)
//! follow it; what the lowest instructions mean depends on how many followed the one before. Nothing
//! is written beyond the length that the caller expects.

/// How many literals stood before an instruction, where more than 3 are all the same.
const MANY: u8 = 4;

/// Distance of the match that is none: the end.
const END: usize = 16384;

/// What a match of 3 bytes after many literals is further away than one of 2 bytes.
const FAR: usize = 2048;

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// It ends within an instruction, or goes on after its end.
    Length,
    /// A match begins before the block.
    Match,
    /// Its content has another length than it should have.
    Content,
}

/// Puts the content of a block, `bytes` long, into `out`, which is cleared first.
pub(super) fn decompress(block: &[u8], bytes: usize, out: &mut Vec<u8>) -> Result<(), Damage> {
    out.clear();
    let mut run = Run { rest: block, out, bytes };
    let mut before = match *block.first().ok_or(Damage::Length)? {
        first @ 18.. => {
            run.rest = &block[1..];
            run.literals(usize::from(first - 17))?;
            (first - 17).min(MANY)
        }
        _ => 0,
    };
    while let Some(after) = run.instruction(before)? {
        before = after;
    }
    match (run.rest, run.out.len() == bytes) {
        ([], true) => Ok(()),
        ([], false) => Err(Damage::Content),
        _ => Err(Damage::Length),
    }
}

struct Run<'r> {
    rest: &'r [u8],
    out: &'r mut Vec<u8>,
    bytes: usize,
}

impl Run<'_> {
    /// One instruction after `before` literals. How many stood last; `None` at the end.
    fn instruction(&mut self, before: u8) -> Result<Option<u8>, Damage> {
        let code = self.byte()?;
        let low = usize::from(code);
        let (distance, length, after) = match code {
            0..16 if before == 0 => {
                let count = 3 + self.length(low, 15)?;
                self.literals(count)?;
                return Ok(Some(MANY));
            }
            0..16 => {
                let distance = (usize::from(self.byte()?) << 2) + (low >> 2) + 1;
                match before {
                    MANY => (distance + FAR, 3, code),
                    _ => (distance, 2, code),
                }
            }
            16..32 => {
                let length = 2 + self.length(low & 7, 7)?;
                let (distance, after) = self.pair()?;
                match END + ((low & 8) << 11) + distance {
                    END => return Ok(None),
                    distance => (distance, length, after),
                }
            }
            32..64 => {
                let length = 2 + self.length(low & 31, 31)?;
                let (distance, after) = self.pair()?;
                (distance + 1, length, after)
            }
            64.. => {
                let distance = (usize::from(self.byte()?) << 3) + ((low >> 2) & 7) + 1;
                (distance, (low >> 5) + 1, code)
            }
        };
        self.copy(distance, length)?;
        let after = after & 3;
        self.literals(usize::from(after))?;
        Ok(Some(after))
    }

    fn byte(&mut self) -> Result<u8, Damage> {
        let (byte, rest) = self.rest.split_first().ok_or(Damage::Length)?;
        self.rest = rest;
        Ok(*byte)
    }

    /// A distance of 14 bits, and the byte that says what follows in its lowest two bits.
    fn pair(&mut self) -> Result<(usize, u8), Damage> {
        let (low, high) = (self.byte()?, self.byte()?);
        Ok((usize::from(u16::from_le_bytes([low, high]) >> 2), low))
    }

    /// A length that the instruction has no room for goes on in bytes of 255 each, written as 0.
    fn length(&mut self, short: usize, most: usize) -> Result<usize, Damage> {
        if short > 0 {
            return Ok(short);
        }
        let mut length = most;
        loop {
            match self.byte()? {
                0 => length = length.saturating_add(255),
                last => return Ok(length.saturating_add(usize::from(last))),
            }
        }
    }

    fn literals(&mut self, count: usize) -> Result<(), Damage> {
        let (literals, rest) = self.rest.split_at_checked(count).ok_or(Damage::Length)?;
        self.must_fit(count)?;
        self.out.extend_from_slice(literals);
        self.rest = rest;
        Ok(())
    }

    /// A match may reach into what it writes itself.
    fn copy(&mut self, distance: usize, length: usize) -> Result<(), Damage> {
        self.must_fit(length)?;
        let start = self.out.len().checked_sub(distance).ok_or(Damage::Match)?;
        let mut left = length;
        while left > 0 {
            let step = left.min(self.out.len() - start);
            self.out.extend_from_within(start..start + step);
            left -= step;
        }
        Ok(())
    }

    fn must_fit(&self, more: usize) -> Result<(), Damage> {
        if more <= self.bytes - self.out.len() { Ok(()) } else { Err(Damage::Content) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(block: &[u8], expected: Result<&[u8], Damage>) {
        let mut out = b"old".to_vec();
        let bytes = expected.map_or(8, <[u8]>::len);
        assert_eq!(decompress(block, bytes, &mut out).map(|()| &out[..]), expected, "{block:?}");
    }

    #[test]
    fn literals_and_matches_become_content() {
        let end = [0x11, 0, 0];
        let with_end = |start: &[u8]| [start, &end].concat();
        check(&end, Ok(b""));
        check(&with_end(b"\x15abcd"), Ok(b"abcd"));
        // A long run of literals, then a match that reaches into itself, then one literal.
        check(&with_end(b"\x01abcd"), Ok(b"abcd"));
        check(&with_end(b"\x15abcd\x26\x05\0x"), Ok(b"abcdcdcdcdcdx"));
        // A match of 2 bytes after one literal.
        check(&with_end(b"\x12a\0\0"), Err(Damage::Content));
        check(&with_end(b"\x14abc\x04\0"), Ok(b"abcbc"));
        check(&with_end(b"\x15abcd\x4c\0"), Ok(b"abcdabc"));
    }

    #[test]
    fn what_is_damaged_is_refused() {
        for (block, damage) in [
            (&b""[..], Damage::Length),
            (b"\x15ab", Damage::Length),
            (b"\x15abcd", Damage::Length),
            (b"\x15abcd\x11\0\0more", Damage::Length),
            (b"\x15abcd\x11\0\0", Damage::Content),
            (b"\x15abcd\x4c\xff\x11\0\0", Damage::Match),
            (b"\x00\0\0\0\0", Damage::Length),
            (b"\x1aabcdefghi\x11\0\0", Damage::Content),
            (b"\x15abcd\x20\0\0\xff\0\0\x11\0\0", Damage::Content),
        ] {
            check(block, Err(damage));
        }
    }
}
