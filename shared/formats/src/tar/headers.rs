//! All headers of one member, read as one: extended headers, long names and maps of sparse files
//! included. What they are made of is kept, so that an archive can be copied as it is.

use super::{
    BLOCK_BYTES, MAX_HEADER_BYTES, TarError,
    block::{Block, text},
    member::{Kind, Member, Meta, Time},
    padded, path,
    pax::{self, Record},
    shown,
    sparse::Map,
};
use crate::stream::read_whole;
use std::{
    io::{self, Read},
    sync::Arc,
};

/// Most bytes that the records have which hold for all that follow.
const MAX_GLOBAL_BYTES: usize = 64 << 10;

/// What comes next in an archive.
#[derive(Debug)]
pub enum Next {
    /// A member, whose content follows.
    Member(Box<Member>),
    /// A block of zeros.
    EndMark,
    /// Nothing more.
    Eof,
}

/// Reads headers.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// pax records that hold for all members that follow.
    globals: Vec<Record>,
    /// Bytes read, by this and by its user.
    offset: u64,
    /// Where the headers of the current member begin.
    start: u64,
}

/// What precedes the header proper of a member.
#[derive(Default)]
struct Before {
    records: Vec<Record>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    is_there: bool,
}

/// What extended headers say of a member.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    bytes: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<Time>,
    meta: Meta,
    sparse: Option<Sparse>,
}

#[derive(Default)]
struct Sparse {
    map: Map,
    name: Option<Vec<u8>>,
    file_bytes: Option<u64>,
    major: Option<u64>,
    minor: Option<u64>,
}

type Reason = String;

impl Headers {
    /// Goes on where these records hold.
    pub(super) fn with_globals(globals: Vec<Record>) -> Self {
        Self { globals, ..Self::default() }
    }

    /// pax records that hold for all members that follow.
    pub(super) fn globals(&self) -> &[Record] {
        &self.globals
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the headers read last begin.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Says that so many bytes were read by someone else.
    pub fn advance(&mut self, bytes: u64) {
        self.offset = self.offset.saturating_add(bytes);
    }

    /// Reads all headers of the next member and appends them to `raw`. Memory:
    /// [`MAX_HEADER_BYTES`], a few times.
    pub fn next(&mut self, input: &mut impl Read, raw: &mut Vec<u8>) -> Result<Next, TarError> {
        self.start = self.offset;
        let from = raw.len();
        let mut before = Before::default();
        loop {
            let Some(block) = self.block(input, raw, from)? else {
                return match before.is_there {
                    true => Err(self.cut_off("between the headers of a member")),
                    false => Ok(Next::Eof),
                };
            };
            if block.iter().all(|byte| *byte == 0) {
                return match before.is_there {
                    true => Err(self.invalid("its headers end without it")),
                    false => Ok(Next::EndMark),
                };
            }
            let header = Block::new(&block).map_err(|what| self.invalid(what))?;
            match header.kind() {
                b'x' | b'X' => {
                    let content = self.content(header, input, raw, from)?;
                    let records = pax::records(&content).map_err(|what| self.invalid(what))?;
                    before.records.extend(records);
                }
                b'g' => {
                    let content = self.content(header, input, raw, from)?;
                    let records = pax::records(&content).map_err(|what| self.invalid(what))?;
                    self.hold(records)?;
                    // It may stand alone, at the end too.
                    continue;
                }
                b'L' => {
                    let content = self.content(header, input, raw, from)?;
                    before.long_name = Some(text(&content).to_vec());
                }
                b'K' => {
                    let content = self.content(header, input, raw, from)?;
                    before.long_link = Some(text(&content).to_vec());
                }
                // The name of the volume.
                b'V' => continue,
                _ => {
                    let mut member = self.member(header, before, input, raw, from)?;
                    // A map in front of the content is part of the headers.
                    member.path.shrink_to_fit();
                    return Ok(Next::Member(Box::new(member)));
                }
            }
            before.is_there = true;
        }
    }

    fn block(
        &mut self,
        input: &mut impl Read,
        raw: &mut Vec<u8>,
        from: usize,
    ) -> Result<Option<[u8; BLOCK_BYTES]>, TarError> {
        self.room(BLOCK_BYTES as u64, raw.len() - from)?;
        let mut block = [0; BLOCK_BYTES];
        match read_whole(input, &mut block) {
            Ok(false) => return Ok(None),
            Ok(true) => {}
            Err(error) => return Err(self.unreadable(error, "within a header")),
        }
        self.offset += BLOCK_BYTES as u64;
        raw.extend_from_slice(&block);
        Ok(Some(block))
    }

    /// The content of an extended header.
    fn content(
        &mut self,
        header: Block<'_>,
        input: &mut impl Read,
        raw: &mut Vec<u8>,
        from: usize,
    ) -> Result<Vec<u8>, TarError> {
        let bytes = header.size().and_then(|bytes| usize::try_from(bytes).ok());
        let bytes =
            bytes.ok_or_else(|| self.invalid("the size of its extended header is wrong"))?;
        let at = raw.len();
        self.blocks(padded(bytes as u64), input, raw, from)?;
        Ok(raw[at..at + bytes].to_vec())
    }

    /// Reads more of the headers.
    fn blocks(
        &mut self,
        bytes: u64,
        input: &mut impl Read,
        raw: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), TarError> {
        let bytes = self.room(bytes, raw.len() - from)?;
        let at = raw.len();
        raw.resize(at + bytes, 0);
        if let Err(error) = input.read_exact(&mut raw[at..]) {
            return Err(self.unreadable(error, "within a header"));
        }
        self.advance(bytes as u64);
        Ok(())
    }

    /// That many bytes, if they are not too many for one member.
    fn room(&self, bytes: u64, used: usize) -> Result<usize, TarError> {
        let room = MAX_HEADER_BYTES.saturating_sub(used);
        usize::try_from(bytes).ok().filter(|bytes| *bytes <= room).ok_or_else(|| {
            self.invalid(format!("its headers have more than {} KiB", MAX_HEADER_BYTES >> 10))
        })
    }

    /// Takes records that hold from here on; an empty one ends what held.
    fn hold(&mut self, records: Vec<Record>) -> Result<(), TarError> {
        for (key, value) in records {
            self.globals.retain(|(other, _)| *other != key);
            if !value.is_empty() {
                self.globals.push((key, value));
            }
        }
        let bytes: usize = self.globals.iter().map(|(key, value)| key.len() + value.len()).sum();
        match bytes <= MAX_GLOBAL_BYTES {
            true => Ok(()),
            false => Err(self.invalid("the records for all members have more than 64 KiB")),
        }
    }

    fn member(
        &mut self,
        header: Block<'_>,
        before: Before,
        input: &mut impl Read,
        raw: &mut Vec<u8>,
        from: usize,
    ) -> Result<Member, TarError> {
        let mut extended = Extended::default();
        let mut name = before.long_name.unwrap_or_else(|| header.name());
        let globals = std::mem::take(&mut self.globals);
        let read = extended.read(&globals).and_then(|()| extended.read(&before.records));
        self.globals = globals;
        if let Some(path) = extended.path.take() {
            name = path;
        }
        let sparse_name = extended.sparse.as_mut().and_then(|sparse| sparse.name.take());
        let name = sparse_name.unwrap_or(name);
        let fail = |reader: &Self, what: Reason| TarError::Invalid {
            offset: reader.start,
            member: Some(shown(&name)),
            what,
        };
        read.map_err(|what| fail(self, what.into()))?;
        let path = path::clean(&name).map_err(|what| fail(self, what.into()))?;
        let ends_in_slash = name.ends_with(b"/");
        let link = before.long_link.or(extended.link.take());
        let link = link.unwrap_or_else(|| header.link().to_vec());
        let kind = kind(header, ends_in_slash, &link).map_err(|what| fail(self, what))?;
        let meta = meta(header, &mut extended).map_err(|what| fail(self, what.into()))?;
        let stored = match extended.bytes {
            Some(bytes) => Some(bytes),
            None => header.size().and_then(|bytes| u64::try_from(bytes).ok()),
        };
        let stored = stored.filter(|bytes| i64::try_from(*bytes).is_ok());
        let stored = stored.ok_or_else(|| fail(self, "its size is wrong".into()))?;
        let mut member =
            Member { path, kind, meta, data_bytes: stored, file_bytes: stored, map: None };
        match member.kind {
            Kind::File => {}
            // Names of what was in it, or what it may hold: skipped.
            Kind::Directory => {
                member.file_bytes = 0;
                return Ok(member);
            }
            // The size of what it is another name of.
            Kind::HardLink(_) => {
                (member.data_bytes, member.file_bytes) = (0, 0);
                return Ok(member);
            }
            Kind::Symlink(_) | Kind::Character { .. } | Kind::Block { .. } | Kind::Fifo => {
                return match stored {
                    0 => Ok(member),
                    _ => Err(fail(self, "it has content, which nothing of its kind has".into())),
                };
            }
        }
        let mapped = if header.kind() == b'S' {
            self.old_map(header, &mut member, input, raw, from)
        } else if let Some(sparse) = extended.sparse {
            self.new_map(sparse, &mut member, input, raw, from)
        } else {
            return Ok(member);
        };
        mapped.map_err(|broken| match broken {
            Broken::Read(error) => error,
            Broken::Map(what) => fail(self, what.into()),
        })?;
        Ok(member)
    }

    fn old_map(
        &mut self,
        header: Block<'_>,
        member: &mut Member,
        input: &mut impl Read,
        raw: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), Broken> {
        let mut map = Map::default();
        let (mut goes_on, file_bytes) = map.old(header.0)?;
        while goes_on {
            let at = raw.len();
            self.blocks(BLOCK_BYTES as u64, input, raw, from)?;
            let more = raw[at..].first_chunk().expect("a block was read");
            goes_on = map.old_more(more)?;
        }
        member.file_bytes = file_bytes;
        member.map = Some(map.finish(member.data_bytes, file_bytes)?);
        Ok(())
    }

    fn new_map(
        &mut self,
        sparse: Sparse,
        member: &mut Member,
        input: &mut impl Read,
        raw: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), Broken> {
        let Sparse { mut map, file_bytes, major, minor, .. } = sparse;
        match (major.unwrap_or(0), minor.unwrap_or(0)) {
            (0, _) => {}
            (1, 0) => {
                let at = raw.len();
                let mut lines = 0;
                while Map::needed_lines(&raw[at..])?.is_none_or(|needed| lines < needed) {
                    if (raw.len() - at) as u64 >= member.data_bytes {
                        return Err(Broken::Map("the map of this sparse file has no end"));
                    }
                    let block = raw.len();
                    self.blocks(BLOCK_BYTES as u64, input, raw, from)?;
                    lines += raw[block..].iter().filter(|byte| **byte == b'\n').count();
                }
                map = Map::lines(&raw[at..])?;
                let map_bytes = (raw.len() - at) as u64;
                member.data_bytes = member
                    .data_bytes
                    .checked_sub(map_bytes)
                    .ok_or(Broken::Map("the map of this sparse file contradicts its size"))?;
            }
            _ => return Err(Broken::Map("it is a sparse file in a format that is not known")),
        }
        let file_bytes = file_bytes.ok_or(Broken::Map("a sparse file without a size"))?;
        member.file_bytes = file_bytes;
        member.map = Some(map.finish(member.data_bytes, file_bytes)?);
        Ok(())
    }

    fn unreadable(&self, error: io::Error, what: &'static str) -> TarError {
        match error.kind() {
            // A decompressor's own is one of these too: there what is compressed was cut off.
            io::ErrorKind::UnexpectedEof => self.cut_off(what),
            _ => TarError::Read { offset: self.offset, source: Arc::new(error) },
        }
    }

    fn cut_off(&self, what: &'static str) -> TarError {
        TarError::CutOff { offset: self.offset, what }
    }

    fn invalid(&self, what: impl Into<String>) -> TarError {
        TarError::Invalid { offset: self.start, member: None, what: what.into() }
    }
}

/// Why there is no map.
enum Broken {
    Read(TarError),
    Map(&'static str),
}

impl From<TarError> for Broken {
    fn from(error: TarError) -> Self {
        Self::Read(error)
    }
}

impl From<&'static str> for Broken {
    fn from(what: &'static str) -> Self {
        Self::Map(what)
    }
}

impl Extended {
    fn read(&mut self, records: &[Record]) -> Result<(), &'static str> {
        for record in records {
            self.take(record)?;
        }
        Ok(())
    }

    fn take(&mut self, record: &Record) -> Result<(), &'static str> {
        const BAD: &str = "a number in its extended header is wrong";
        let (key, value) = record;
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.get_or_insert_default().take(key, value);
        }
        let number = || pax::decimal(value).map(Some).ok_or(BAD);
        match &key[..] {
            // An empty value ends what held for all.
            b"path" => self.path = Some(value.clone()).filter(|value| !value.is_empty()),
            b"linkpath" => self.link = Some(value.clone()).filter(|value| !value.is_empty()),
            b"size" => self.bytes = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.modified = Some(pax::time(value).ok_or(BAD)?),
            b"atime" => self.meta.accessed = Some(pax::time(value).ok_or(BAD)?),
            b"SCHILY.acl.access" => self.meta.access_acl = Some(value.clone()),
            b"SCHILY.acl.default" => self.meta.default_acl = Some(value.clone()),
            _ => {
                if let Some(xattr) = pax::xattr(record)? {
                    self.meta.xattrs.retain(|other| other.name != xattr.name);
                    self.meta.xattrs.push(xattr);
                }
            }
        }
        Ok(())
    }
}

impl Sparse {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        const BAD: &str = "a number of this sparse file is wrong";
        let number = || pax::decimal(value).map(Some).ok_or(BAD);
        match key {
            b"major" => self.major = number()?,
            b"minor" => self.minor = number()?,
            b"size" | b"realsize" => self.file_bytes = number()?,
            b"name" => self.name = Some(value.to_vec()),
            b"map" => self.map.list(value)?,
            b"offset" => self.map.offset(value)?,
            b"numbytes" => self.map.bytes(value)?,
            // How many pieces there are.
            _ => {}
        }
        Ok(())
    }
}

fn kind(header: Block<'_>, ends_in_slash: bool, link: &[u8]) -> Result<Kind, Reason> {
    let device = || header.device().ok_or("the number of this device is wrong");
    Ok(match header.kind() {
        // Of the time before directories had a type.
        0 | b'0' if ends_in_slash => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => {
            Kind::HardLink(path::clean(link).map_err(|what| format!("as a hard link, {what}"))?)
        }
        b'2' => Kind::Symlink(path::link_target(link)?),
        b'3' => device().map(|(major, minor)| Kind::Character { major, minor })?,
        b'4' => device().map(|(major, minor)| Kind::Block { major, minor })?,
        b'5' | b'D' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'M' => return Err("it goes on in another volume; join the volumes first".to_owned()),
        other => {
            return Err(format!("type {:?} is not known", char::from(other)));
        }
    })
}

fn meta(header: Block<'_>, extended: &mut Extended) -> Result<Meta, &'static str> {
    let id = |said: Option<u64>, there: Option<i64>| {
        let id = said.or_else(|| there.and_then(|id| u64::try_from(id).ok()));
        // The last is "nobody" to the kernel.
        id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX)
    };
    let modified = match extended.modified {
        Some(time) => time,
        None => {
            let seconds = header.modified().ok_or("its time of change is wrong")?;
            Time { seconds, nanos: 0 }
        }
    };
    let mode = header.mode().and_then(|mode| u32::try_from(mode & 0o7777).ok());
    Ok(Meta {
        mode: mode.ok_or("its mode is wrong")?,
        uid: id(extended.uid, header.uid()).ok_or("its owner is no number that Linux has")?,
        gid: id(extended.gid, header.gid()).ok_or("its group is no number that Linux has")?,
        modified,
        ..std::mem::take(&mut extended.meta)
    })
}
