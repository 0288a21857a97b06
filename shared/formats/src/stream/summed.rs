//! A file that is hashed while it is written.

use super::{
    Hasher,
    digest::{Algorithm, Hex},
};
use std::io::{self, Write};

/// Passes bytes on to a writer, counts and hashes them.
pub struct Summed<W> {
    out: W,
    hashers: Vec<(Algorithm, Hasher)>,
    bytes: u64,
}

/// What a file is called, how long it is and what it hashes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSum {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    digests: Vec<(Algorithm, Vec<u8>)>,
}

impl<W: Write> Summed<W> {
    /// Hashes by each of the algorithms.
    pub fn new(out: W, algorithms: &[Algorithm]) -> Self {
        let hashers = algorithms.iter().map(|one| (*one, one.hasher())).collect();
        Self { out, hashers, bytes: 0 }
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is written to.
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// The writer, and what was written as the file of this name.
    pub fn finish(self, name: String) -> (W, FileSum) {
        let hashers = self.hashers.into_iter();
        let digests = hashers.map(|(one, hasher)| (one, hasher.finish())).collect();
        (self.out, FileSum { name, bytes: self.bytes, digests })
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hashers.iter_mut().for_each(|(_, hasher)| hasher.update(&bytes[..written]));
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl FileSum {
    /// As `b2sum` and its like print it, if it was hashed so.
    pub fn line(&self, algorithm: Algorithm) -> Option<String> {
        let (_, digest) = self.digests.iter().find(|(one, _)| *one == algorithm)?;
        Some(format!("{}  {}\n", Hex(digest), self.name))
    }

    /// A file of checksums of these files, as Clonezilla would list them.
    pub fn list(sums: &[Self], algorithm: Algorithm) -> String {
        let mut listed: Vec<&Self> = sums.iter().filter(|sum| !is_unlisted(&sum.name)).collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        listed.iter().filter_map(|sum| sum.line(algorithm)).collect()
    }
}

/// Whether Clonezilla writes a file only after it has listed the checksums of all.
pub fn is_unlisted(name: &str) -> bool {
    name == "clonezilla-img" || name.starts_with("Info-")
}
