//! The few things an image builder asks of 64-bit little-endian ELF files (elf(5)): which shared
//! libraries and interpreter a program needs, and what a kernel module says in `.modinfo`.
//!
//! Every offset comes from the file, so every one is checked.

use std::collections::BTreeMap;

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
/// Most libraries of one file; real programs have fewer than 50.
const NEEDED_LIMIT: usize = 256;

/// Why a file could not be read as ELF.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ElfError {
    /// Another format, or another class or byte order.
    #[error("not a 64-bit little-endian ELF file")]
    NotElf,
    /// An offset points out of the file, or a string does not end.
    #[error("damaged ELF file: {0}")]
    Damaged(&'static str),
}

/// What the dynamic loader has to find before a program can start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The loader itself, as an absolute path (`PT_INTERP`); libraries have none.
    pub interpreter: Option<String>,
    /// Shared libraries by name (`DT_NEEDED`), in order.
    pub libraries: Vec<String>,
}

/// Whether this looks like an ELF file that [`needs`] can read.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What a program or library needs; nothing for a static one.
pub fn needs(bytes: &[u8]) -> Result<Needs, ElfError> {
    let segments = segments(bytes)?;
    let interpreter = match segments.iter().find(|segment| segment.kind == PT_INTERP) {
        Some(segment) => Some(string(file_range(bytes, segment)?, 0)?),
        None => None,
    };
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
        return Ok(Needs { interpreter, libraries: Vec::new() });
    };
    let table = file_range(bytes, dynamic)?;
    let entries: Vec<(u64, u64)> = table
        .as_chunks::<16>()
        .0
        .iter()
        .map(|entry| (number(entry, 0), number(entry, 8)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let names: Vec<u64> =
        entries.iter().filter(|(tag, _)| *tag == DT_NEEDED).map(|(_, value)| *value).collect();
    if names.is_empty() {
        return Ok(Needs { interpreter, libraries: Vec::new() });
    }
    if names.len() > NEEDED_LIMIT {
        return Err(ElfError::Damaged("too many libraries"));
    }
    let (_, address) = entries
        .iter()
        .find(|(tag, _)| *tag == DT_STRTAB)
        .ok_or(ElfError::Damaged("no string table"))?;
    let strings = loaded_at(bytes, &segments, *address)?;
    let libraries =
        names.into_iter().map(|offset| string(strings, offset)).collect::<Result<_, _>>()?;
    Ok(Needs { interpreter, libraries })
}

/// The `key=value` pairs of a module's `.modinfo` section, keys may repeat.
pub fn modinfo(bytes: &[u8]) -> Result<BTreeMap<String, Vec<String>>, ElfError> {
    let mut pairs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let section = section(bytes, ".modinfo")?.ok_or(ElfError::Damaged("no .modinfo section"))?;
    for field in section.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
        let text = String::from_utf8_lossy(field);
        if let Some((key, value)) = text.split_once('=') {
            pairs.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    Ok(pairs)
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
}

fn segments(bytes: &[u8]) -> Result<Vec<Segment>, ElfError> {
    let headers = table(bytes, 0x20, 0x36, 0x38, 56)?;
    Ok(headers
        .map(|header| Segment {
            kind: half(header, 0),
            offset: number(header, 8),
            address: number(header, 16),
            file_size: number(header, 32),
        })
        .collect())
}

fn section<'f>(bytes: &'f [u8], name: &str) -> Result<Option<&'f [u8]>, ElfError> {
    let headers: Vec<&[u8]> = table(bytes, 0x28, 0x3a, 0x3c, 64)?.collect();
    let names_index = usize::from(short(bytes, 0x3e));
    let names = headers.get(names_index).ok_or(ElfError::Damaged("no section names"))?;
    let names = range(bytes, number(names, 24), number(names, 32))?;
    for header in &headers {
        if string(names, u64::from(half(header, 0)))? == name {
            return range(bytes, number(header, 24), number(header, 32)).map(Some);
        }
    }
    Ok(None)
}

/// The rows of the program or section header table: positions of its offset, row size and count
/// in the file header, and the smallest sound row size.
fn table(
    bytes: &[u8],
    offset_at: usize,
    size_at: usize,
    count_at: usize,
    least: usize,
) -> Result<impl Iterator<Item = &[u8]>, ElfError> {
    if !is_elf(bytes) || bytes.len() < 64 {
        return Err(ElfError::NotElf);
    }
    let (size, count) = (usize::from(short(bytes, size_at)), usize::from(short(bytes, count_at)));
    if count > 0 && size < least {
        return Err(ElfError::Damaged("header rows are too short"));
    }
    let rows = range(bytes, number(bytes, offset_at), (size * count) as u64)?;
    Ok(rows.chunks_exact(size.max(1)))
}

fn file_range<'f>(bytes: &'f [u8], segment: &Segment) -> Result<&'f [u8], ElfError> {
    range(bytes, segment.offset, segment.file_size)
}

/// What the loader would put at a virtual address, up to the end of its segment.
fn loaded_at<'f>(
    bytes: &'f [u8],
    segments: &[Segment],
    address: u64,
) -> Result<&'f [u8], ElfError> {
    let inside = |segment: &&Segment| {
        segment.kind == PT_LOAD
            && address.checked_sub(segment.address).is_some_and(|at| at < segment.file_size)
    };
    let segment =
        segments.iter().find(inside).ok_or(ElfError::Damaged("string table is not loaded"))?;
    range(file_range(bytes, segment)?, address - segment.address, u64::MAX)
}

/// `length` bytes from `offset`; a length of `u64::MAX` means the rest.
fn range(bytes: &[u8], offset: u64, length: u64) -> Result<&[u8], ElfError> {
    let rest = usize::try_from(offset).ok().and_then(|start| bytes.get(start..));
    let part = match (rest, length) {
        (Some(rest), u64::MAX) => Some(rest),
        (Some(rest), _) => usize::try_from(length).ok().and_then(|length| rest.get(..length)),
        (None, _) => None,
    };
    part.ok_or(ElfError::Damaged("an offset points out of the file"))
}

fn string(bytes: &[u8], offset: u64) -> Result<String, ElfError> {
    let rest = range(bytes, offset, u64::MAX)?;
    let end = rest.iter().position(|byte| *byte == 0).ok_or(ElfError::Damaged("endless string"))?;
    String::from_utf8(rest[..end].to_vec()).map_err(|_| ElfError::Damaged("a name is not UTF-8"))
}

/// A little-endian u64; 0 past the end, which every caller's range check has excluded.
fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn short(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Compared with what binutils says of a program of this machine.
    #[test]
    fn needs_agree_with_readelf() {
        let path = "/bin/sh";
        let bytes = std::fs::read(path).unwrap();
        let out = Command::new("readelf").args(["-dlW", path]).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let between = |line: &str, from: &str| {
            line.split_once(from).map(|(_, rest)| rest.trim_end_matches(']').to_owned())
        };
        let libraries: Vec<String> =
            text.lines().filter_map(|line| between(line, "Shared library: [")).collect();
        let interpreter = text.lines().find_map(|line| between(line, "program interpreter: "));
        assert!(!libraries.is_empty());
        assert_eq!(needs(&bytes).unwrap(), Needs { interpreter, libraries });
    }

    #[test]
    fn a_file_cut_or_spoilt_anywhere_is_refused_without_a_panic() {
        let whole = std::fs::read("/bin/true").unwrap();
        assert_eq!(needs(b"#!/bin/sh"), Err(ElfError::NotElf));
        for len in (0..whole.len()).step_by(61) {
            let _ = needs(&whole[..len]);
            let _ = modinfo(&whole[..len]);
        }
        for at in 0..0x400 {
            let mut spoilt = whole.clone();
            spoilt[at] ^= 0xff;
            let _ = needs(&spoilt);
            let _ = modinfo(&spoilt);
        }
        assert!(needs(&whole[..100]).is_err());
        assert_eq!(modinfo(&whole), Err(ElfError::Damaged("no .modinfo section")));
    }
}
