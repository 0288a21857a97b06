//! The image of one partition, as one file or cut into pieces as `split` does.

use super::{ExportOptions, Packing};
use crate::images::{
    ExportError,
    export::SUMS,
    output::{FileSum, Output, WriteError},
};
use metalcast_formats::clonezilla::piece_suffix;
use metalcast_shared::manifest::Partition;
use std::{
    io::{self, Write},
    num::NonZeroU64,
    path::{Path, PathBuf},
};

/// Pieces that two letters number, and three: more are written by nobody.
const TWO_LETTERS: u64 = 26 * 26;
const THREE_LETTERS: u64 = 26 * 26 * 26;

/// The pieces of a partition.
pub(super) struct Pieces<'p> {
    dir: &'p Path,
    stem: String,
    split: Option<Split>,
    /// The one being written.
    current: Option<Output>,
    /// Of the one being written.
    name: String,
    finished: Vec<FileSum>,
}

#[derive(Clone, Copy)]
struct Split {
    bytes: NonZeroU64,
    letters: usize,
}

impl<'p> Pieces<'p> {
    /// Nothing is written yet.
    pub(super) fn new(
        dir: &'p Path,
        partition: &Partition,
        options: ExportOptions,
    ) -> Result<Self, ExportError> {
        let Partition { name, filesystem, .. } = partition;
        let suffix = options.packing.compression().suffix();
        let stem = match (partition.is_archive(), options.packing) {
            (true, Packing::None) => format!("{name}.{filesystem}"),
            (true, Packing::Gzip | Packing::Zstd) => format!("{name}.{filesystem}.{suffix}"),
            (false, _) => format!("{name}.{filesystem}-ptcl-img.{suffix}"),
        };
        let split = options.split_bytes.map(|bytes| split(bytes, partition, options.packing));
        let split = split.transpose()?;
        Ok(Self { dir, stem, split, current: None, name: String::new(), finished: Vec::new() })
    }

    /// The file being written.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Writes all of `content`.
    pub(super) fn put(&mut self, content: &[u8]) -> Result<(), WriteError> {
        self.write_all(content).map_err(|source| self.failed(source))
    }

    /// Where writing failed.
    pub(super) fn failed(&self, source: io::Error) -> WriteError {
        match &self.current {
            Some(output) => output.failed(source),
            None => WriteError { path: self.path(), offset: 0, source },
        }
    }

    /// Makes the last one durable.
    pub(super) fn finish(mut self) -> Result<Vec<FileSum>, WriteError> {
        self.end_piece()?;
        Ok(self.finished)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    fn end_piece(&mut self) -> Result<(), WriteError> {
        if let Some(output) = self.current.take() {
            self.finished.push(output.finish()?);
        }
        Ok(())
    }

    /// The piece that has room, and how much.
    fn piece(&mut self) -> Result<(&mut Output, usize), WriteError> {
        let limit = self.split.map_or(u64::MAX, |split| split.bytes.get());
        if self.current.as_ref().is_some_and(|output| output.bytes() >= limit) {
            self.end_piece()?;
        }
        let output = match self.current.take() {
            Some(output) => output,
            None => {
                let number = self.finished.len();
                self.name = match self.split {
                    Some(split) => format!("{}.{}", self.stem, piece_suffix(number, split.letters)),
                    None => self.stem.clone(),
                };
                Output::create(self.dir, &self.name, &SUMS)?
            }
        };
        let room = limit.saturating_sub(output.bytes());
        Ok((self.current.insert(output), usize::try_from(room).unwrap_or(usize::MAX)))
    }
}

fn split(bytes: NonZeroU64, partition: &Partition, packing: Packing) -> Result<Split, ExportError> {
    let pieces = packing.limit(partition) / bytes + 1;
    if pieces > THREE_LETTERS {
        let partition = partition.name.clone();
        return Err(ExportError::TooManyPieces { partition, limit: THREE_LETTERS });
    }
    Ok(Split { bytes, letters: if pieces > TWO_LETTERS { 3 } else { 2 } })
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (output, room) = self.piece().map_err(|error| error.source)?;
        Write::write(output, &bytes[..bytes.len().min(room)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.current.as_mut().map_or(Ok(()), Write::flush)
    }
}
