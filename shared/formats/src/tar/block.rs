//! One header block of 512 bytes.
//!
//! ```text
//! 0 name 100 mode 108 uid 116 gid 124 size 136 mtime 148 checksum 156 type 157 linkname 257 magic
//! 329 devmajor 337 devminor 345 prefix (ustar), or times and the first of a sparse map (GNU)
//! ```

use super::BLOCK_BYTES;
use std::ops::Range;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
/// star has times behind a shorter prefix.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_MAGIC: Range<usize> = 508..512;

const POSIX: &[u8] = b"ustar\0";
const GNU: &[u8] = b"ustar  \0";

/// A header block whose checksum is right.
#[derive(Clone, Copy)]
pub(super) struct Block<'b>(pub(super) &'b [u8; BLOCK_BYTES]);

impl<'b> Block<'b> {
    /// The block as a header.
    pub(super) fn new(block: &'b [u8; BLOCK_BYTES]) -> Result<Self, &'static str> {
        let stored = number(&block[CHECKSUM]).ok_or("this is no header of a member")?;
        let byte = |(at, byte): (usize, &u8)| if CHECKSUM.contains(&at) { b' ' } else { *byte };
        let bytes = || block.iter().enumerate().map(byte);
        let unsigned: i64 = bytes().map(i64::from).sum();
        // Some old programs took the bytes as signed.
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        match stored == unsigned || stored == signed {
            true => Ok(Self(block)),
            false => Err("the checksum of the header is wrong; the archive is damaged"),
        }
    }

    pub(super) fn kind(self) -> u8 {
        self.0[TYPE]
    }

    pub(super) fn has_magic(self) -> bool {
        self.0[MAGIC].starts_with(POSIX) || &self.0[MAGIC] == GNU
    }

    /// The name as it stands in this header.
    pub(super) fn name(self) -> Vec<u8> {
        let name = text(&self.0[NAME]);
        if !self.0[MAGIC].starts_with(POSIX) {
            return name.to_vec();
        }
        let is_star = &self.0[STAR_MAGIC] == b"tar\0";
        let prefix = text(&self.0[if is_star { STAR_PREFIX } else { PREFIX }]);
        match prefix.is_empty() {
            true => name.to_vec(),
            false => [prefix, b"/", name].concat(),
        }
    }

    pub(super) fn link(self) -> &'b [u8] {
        text(&self.0[LINK])
    }

    pub(super) fn mode(self) -> Option<i64> {
        number(&self.0[MODE])
    }

    pub(super) fn uid(self) -> Option<i64> {
        number(&self.0[UID])
    }

    pub(super) fn gid(self) -> Option<i64> {
        number(&self.0[GID])
    }

    pub(super) fn size(self) -> Option<i64> {
        number(&self.0[SIZE])
    }

    pub(super) fn modified(self) -> Option<i64> {
        number(&self.0[MTIME])
    }

    pub(super) fn device(self) -> Option<(u32, u32)> {
        Some((unsigned(&self.0[MAJOR])?, unsigned(&self.0[MINOR])?))
    }
}

/// What a header that we write has in its fields; what does not fit is said in records in front of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'f> {
    pub(super) kind: u8,
    pub(super) name: &'f [u8],
    pub(super) link: &'f [u8],
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) modified: u64,
    pub(super) device: (u32, u32),
}

impl Fields<'_> {
    /// Longest name, and largest numbers of owners and other fields, that there is room for.
    pub(super) const MAX_NAME_BYTES: usize = NAME.end - NAME.start;
    pub(super) const MAX_ID: u64 = 0o777_7777;
    pub(super) const MAX_NUMBER: u64 = 0o777_7777_7777;

    /// The header. What is too long for its field is cut, what is too large is the largest.
    pub(super) fn block(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut text = |field: Range<usize>, text: &[u8]| {
            let bytes = text.len().min(field.len());
            block[field.start..field.start + bytes].copy_from_slice(&text[..bytes]);
        };
        let octal = |field: &Range<usize>, number: u64| {
            let digits = field.len() - 1;
            format!("{:0digits$o}", number.min((1 << (3 * digits)) - 1))
        };
        text(NAME, self.name);
        text(LINK, self.link);
        text(MAGIC, b"ustar\x0000");
        text(TYPE..TYPE + 1, &[self.kind]);
        for (field, number) in [
            (MODE, self.mode.into()),
            (UID, self.uid),
            (GID, self.gid),
            (SIZE, self.size),
            (MTIME, self.modified),
            (MAJOR, self.device.0.into()),
            (MINOR, self.device.1.into()),
        ] {
            text(field.clone(), octal(&field, number).as_bytes());
        }
        text(CHECKSUM, &[b' '; CHECKSUM.end - CHECKSUM.start]);
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let sum = format!("{sum:06o}\0 ");
        block[CHECKSUM].copy_from_slice(sum.as_bytes());
        block
    }
}

/// A number that is not negative.
pub(super) fn unsigned<N: TryFrom<i64>>(field: &[u8]) -> Option<N> {
    number(field).and_then(|number| N::try_from(number).ok())
}

/// Bytes up to a NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, or in binary where the first bit says so; an empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement of 7 bits and all that follow.
        let start = i128::from(first & 0x7f) - if first & 0x40 != 0 { 0x80 } else { 0 };
        let value = rest.iter().try_fold(start, |value, byte| {
            value.checked_mul(256)?.checked_add(i128::from(*byte))
        })?;
        return i64::try_from(value).ok();
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}
