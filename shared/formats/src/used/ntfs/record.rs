//! A record of the master file table: its attributes.

use crate::bytes::{le_u16, le_u32, le_u64};

/// What each 512 bytes of a record end with is checked and put right.
const STRIDE: usize = 512;
const END: u32 = 0xffff_ffff;

/// A record whose sectors belong together.
pub(super) struct Record {
    bytes: Vec<u8>,
}

/// An attribute of a record.
pub(super) struct Attribute<'r> {
    pub(super) kind: u32,
    /// UTF-16.
    pub(super) name: &'r [u8],
    /// Whether it is compressed, encrypted or sparse.
    pub(super) is_special: bool,
    pub(super) body: Body<'r>,
}

/// Where the value of an attribute is.
pub(super) enum Body<'r> {
    /// In the record.
    Resident(&'r [u8]),
    /// In clusters of its own.
    Runs {
        /// First cluster within the value.
        first: u64,
        /// Length of the value in bytes.
        bytes: u64,
        /// Packed.
        runs: &'r [u8],
    },
}

/// Checks that the sectors of a record or of an index block were written together, and puts back what
/// the check had taken the place of.
pub(super) fn mend(bytes: &mut [u8], magic: &[u8; 4]) -> Option<()> {
    if bytes.get(..4)? != magic {
        return None;
    }
    let (at, count) = (usize::from(le_u16(bytes, 4)), usize::from(le_u16(bytes, 6)));
    if count != bytes.len() / STRIDE + 1 || at + 2 * count > STRIDE - 2 {
        return None;
    }
    for number in 1..count {
        let end = number * STRIDE;
        if bytes[end - 2..end] != bytes[at..at + 2] {
            return None;
        }
        bytes.copy_within(at + 2 * number..at + 2 * number + 2, end - 2);
    }
    Some(())
}

impl Record {
    /// Takes the bytes of a record that is in use.
    pub(super) fn new(mut bytes: Vec<u8>) -> Option<Self> {
        mend(&mut bytes, b"FILE")?;
        let record = Self { bytes };
        (le_u16(&record.bytes, 0x16) & 1 != 0).then_some(record)
    }

    /// How often its number was given out.
    pub(super) fn sequence(&self) -> u16 {
        le_u16(&self.bytes, 0x10)
    }

    /// Its attributes, up to the first that cannot be one.
    pub(super) fn attributes(&self) -> impl Iterator<Item = Attribute<'_>> {
        let mut rest = self.bytes.get(usize::from(le_u16(&self.bytes, 0x14))..).unwrap_or(&[]);
        std::iter::from_fn(move || {
            if rest.len() < 0x18 || le_u32(rest, 0) == END {
                return None;
            }
            let length = le_u32(rest, 4) as usize;
            let (bytes, behind) = rest.split_at_checked(length).filter(|_| length >= 0x18)?;
            rest = behind;
            attribute(bytes)
        })
    }
}

fn attribute(bytes: &[u8]) -> Option<Attribute<'_>> {
    let (name_at, name_bytes) = (usize::from(le_u16(bytes, 0x0a)), 2 * usize::from(bytes[9]));
    let name = bytes.get(name_at..name_at + name_bytes)?;
    let body = if bytes[8] == 0 {
        let (value, length) = (usize::from(le_u16(bytes, 0x14)), le_u32(bytes, 0x10) as usize);
        Body::Resident(bytes.get(value..value.checked_add(length)?)?)
    } else {
        if bytes.len() < 0x40 {
            return None;
        }
        let runs = bytes.get(usize::from(le_u16(bytes, 0x20))..)?;
        Body::Runs { first: le_u64(bytes, 0x10), bytes: le_u64(bytes, 0x30), runs }
    };
    Some(Attribute { kind: le_u32(bytes, 0), name, is_special: le_u16(bytes, 0x0c) != 0, body })
}
