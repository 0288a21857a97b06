//! What has to wait, and what is to be verified: on the target itself, so that memory does not grow with
//! the archive.

use anyhow::{Context, ensure};
use metalcast_formats::tar::{Meta, Piece};
use metalcast_shared::{codec, hash::Hash};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Its name in the root of the new filesystem.
const NAME: &str = ".metalcast-unpacking";

/// Most bytes of a record: a path, the map of a sparse file, or extended attributes.
const MAX_RECORD_BYTES: usize = 2 << 20;

/// What is noted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Record {
    /// Content that was written to a file, and its hash.
    Content { path: Vec<u8>, pieces: Vec<Piece>, hash: Hash },
    /// A hard link to be made.
    Link { path: Vec<u8>, target: Vec<u8> },
    /// What is set when all else is done.
    Meta { path: Vec<u8>, meta: Box<Meta> },
}

/// Records being written.
pub(super) struct Spool {
    path: PathBuf,
    file: Mutex<BufWriter<File>>,
}

impl Spool {
    pub(super) fn create(root: &Path) -> anyhow::Result<Self> {
        let path = root.join(NAME);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.context("making a file for what has to wait")?;
        Ok(Self { path, file: Mutex::new(BufWriter::new(file)) })
    }

    pub(super) fn put(&self, record: &Record) -> anyhow::Result<()> {
        let framed = codec::encode_framed(record);
        ensure!(framed.len() <= MAX_RECORD_BYTES, "a member with too many pieces or attributes");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&framed).context("noting what has to wait")
    }

    /// All that was noted so far, from the first.
    pub(super) fn read(&self) -> anyhow::Result<Records> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.flush().context("noting what has to wait")?;
        Records::open(&self.path)
    }
}

/// Records being read.
pub(super) struct Records(BufReader<File>);

impl Records {
    /// Those on a filesystem whose root this is.
    pub(super) fn of(root: &Path) -> anyhow::Result<Self> {
        Self::open(&root.join(NAME))
    }

    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).context("opening the notes on what was unpacked")?;
        Ok(Self(BufReader::new(file)))
    }

    fn next_record(&mut self) -> anyhow::Result<Option<Record>> {
        let mut length = [0; codec::LENGTH_BYTES];
        match self.0.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error).context("reading the notes on what was unpacked"),
        }
        let damaged = "the notes on what was unpacked are damaged; the disk is faulty";
        let bytes = codec::decode_length(length, MAX_RECORD_BYTES).context(damaged)?;
        let mut record = vec![0; bytes];
        self.0.read_exact(&mut record).context(damaged)?;
        codec::decode(&record, MAX_RECORD_BYTES).map(Some).context(damaged)
    }
}

impl Iterator for Records {
    type Item = anyhow::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

/// Removes the notes.
pub(super) fn remove(root: &Path) -> anyhow::Result<()> {
    fs::remove_file(root.join(NAME)).context("removing the notes on what was unpacked")
}
