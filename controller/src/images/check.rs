//! Holds a revision against everything that vouches for it: the manifest's signature, the hashes of
//! pages, frames and decoded blocks, each partition's map of what is used, and the list of files.
//!
//! ```text
//! <part>...zst ──Sequential (BLAKE2b of the file)──> frames ──pipeline──> hash, decode, hash
//! ```
//!
//! Every file is read once, from front to back. What is damaged is noted and the check goes on.

use super::{
    Images, Progress, StoreError, loaded::Loaded, pipeline, sequential::Sequential, side_files,
};
use crate::causes::with_causes;
use metalcast_formats::{
    chunk,
    clonezilla::{Directory, RAW},
    partclone::{Bitmap, Reader},
    stream,
};
use metalcast_shared::{
    id::Revision,
    manifest::{Chunk, Partition},
};
use serde::{Deserialize, Serialize};
use std::io::{BufReader, Read};

/// Most damages that are told; a disk that has lost a partition's file has as many as there are chunks.
const MAX_DAMAGES: usize = 100;

/// Read-ahead.
const BUFFER_BYTES: usize = 1 << 20;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Which revision.
    pub revision: Revision,
    /// Files that were read.
    pub files: u64,
    /// Chunks that were decoded.
    pub chunks: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is damaged, the first 100 of it; a revision is sound where nothing is.
    pub damage: Vec<String>,
}

/// See [`Images::check`].
pub(super) fn check(
    images: &Images,
    revision: &Revision,
    progress: &dyn Fn(Progress),
) -> Result<CheckReport, StoreError> {
    let report = CheckReport {
        revision: revision.clone(),
        files: 0,
        chunks: 0,
        bytes: 0,
        damage: Vec::new(),
    };
    let dir = images.layout.revision(revision);
    let loaded = match Loaded::open(&dir, revision, &images.sign) {
        Ok(loaded) => loaded,
        Err(error @ StoreError::Damaged { .. }) => return Ok(report.with(with_causes(&error))),
        Err(error) => return Err(error),
    };
    let directory = match loaded.directory(&dir) {
        Ok(directory) => directory,
        Err(error) => return Ok(report.with(with_causes(&error))),
    };
    let side: u64 = directory.side_files.iter().map(|file| file.bytes).sum();
    let data: u64 = loaded.manifest.partitions.iter().map(|partition| partition.file_bytes).sum();
    let mut check = Check { loaded: &loaded, progress, total: side + data, report };
    check.side_files(&directory);
    for partition in &loaded.manifest.partitions {
        check.partition(partition, &directory);
    }
    for image in &directory.partitions {
        if loaded.manifest.partition(&image.name).is_none() {
            check.report.note(format!("{} is in no manifest", image.name));
        }
    }
    Ok(check.report)
}

impl CheckReport {
    fn with(mut self, damage: String) -> Self {
        self.damage.push(damage);
        self
    }

    fn note(&mut self, damage: String) {
        match self.damage.len() {
            0..MAX_DAMAGES => self.damage.push(damage),
            MAX_DAMAGES => self.damage.push("and more".to_owned()),
            _ => {}
        }
    }
}

struct Check<'c> {
    loaded: &'c Loaded,
    progress: &'c dyn Fn(Progress),
    total: u64,
    report: CheckReport,
}

/// What the chunks of a partition must add up to.
#[derive(Default)]
struct Sums {
    chunks: u64,
    blocks: u64,
}

impl Check<'_> {
    fn read(&mut self, file: &str, bytes: u64) {
        self.report.bytes += bytes;
        let (done_bytes, total_bytes) = (self.report.bytes.min(self.total), self.total);
        (self.progress)(Progress { file: file.to_owned(), done_bytes, total_bytes });
    }

    fn side_files(&mut self, directory: &Directory) {
        for piece in &directory.side_files {
            self.report.files += 1;
            if piece.expected.is_empty() && !stream::is_unlisted(&piece.name) {
                self.report.note(format!("{} is in no list of checksums", piece.name));
            }
            if let Err(error) = side_files::read(piece) {
                self.report.note(with_causes(&error));
            }
            self.read(&piece.name, piece.bytes);
        }
    }

    fn partition(&mut self, partition: &Partition, directory: &Directory) {
        self.report.files += 1;
        let mut file = match Sequential::open(self.loaded, partition, directory) {
            Ok(file) => file,
            Err(error) => return self.report.note(with_causes(&error)),
        };
        let read = self.frames(partition, &mut file);
        if let Err(error) = read.and_then(|()| file.finish()) {
            self.report.note(with_causes(&error));
        }
    }

    /// Reads a partition's file to its end.
    fn frames(
        &mut self,
        partition: &Partition,
        file: &mut Sequential<'_>,
    ) -> Result<(), StoreError> {
        let bitmap = match head(partition, file) {
            Ok(bitmap) => bitmap,
            Err(what) => {
                self.report.note(format!("{}: {what}", partition.file));
                None
            }
        };
        file.skip_to(partition.head_bytes.into())?;
        self.read(&partition.file, partition.head_bytes.into());
        let loaded = self.loaded;
        let mut chunks = loaded.chunks(partition);
        let mut sums = Sums::default();
        let (read, _) = pipeline::run(
            || match chunks.next() {
                None => Ok(None),
                // A page is damaged, or where it says that chunks are.
                Some(Err(error)) => Ok(Some(Err(with_causes(&error)))),
                Some(Ok(chunk)) => match file.frame(&chunk) {
                    Ok(frame) => Ok(Some(Ok((chunk, frame)))),
                    Err(error @ StoreError::Io { .. }) => Err(error),
                    Err(error) => Ok(Some(Err(with_causes(&error)))),
                },
            },
            || |frame| prove(frame, partition, bitmap.as_ref()),
            |proof| {
                self.took(partition, proof, &mut sums);
                Ok::<_, std::convert::Infallible>(())
            },
        );
        read?;
        file.skip_to(partition.file_bytes)?;
        let expected = (u64::from(partition.chunks), partition.used_blocks);
        if (sums.chunks, sums.blocks) != expected {
            let what = format!(
                "{} has {} good chunks with {} blocks instead of {} with {}",
                partition.file, sums.chunks, sums.blocks, expected.0, expected.1
            );
            self.report.note(what);
        }
        Ok(())
    }

    fn took(&mut self, partition: &Partition, proof: Result<Chunk, String>, sums: &mut Sums) {
        match proof {
            Ok(chunk) => {
                sums.chunks += 1;
                sums.blocks += u64::from(chunk.blocks());
                self.report.chunks += 1;
                self.read(&partition.file, chunk.frame_bytes.into());
            }
            Err(what) => self.report.note(format!("{}: {what}", partition.file)),
        }
    }
}

/// The map of what is used, if the partition has one; it and the header must be the manifest's.
fn head(partition: &Partition, file: &mut Sequential<'_>) -> Result<Option<Bitmap>, String> {
    if partition.filesystem == RAW || partition.is_archive() {
        return Ok(None);
    }
    let frame = BufReader::with_capacity(BUFFER_BYTES, file.take(partition.head_bytes.into()));
    let frame = zstd::stream::read::Decoder::with_buffer(frame).map_err(|e| with_causes(&e))?;
    let reader = Reader::open(frame.single_frame()).map_err(|error| with_causes(&error))?;
    let header = reader.header();
    let found =
        (header.block_bytes, header.total_blocks, reader.used_blocks(), header.device_bytes);
    let Partition { block_bytes, total_blocks, used_blocks, device_bytes, .. } = *partition;
    if found != (block_bytes, total_blocks, used_blocks, device_bytes) {
        return Err("its head is not the one in the manifest".to_owned());
    }
    Ok(Some(reader.bitmap().clone()))
}

/// A frame as it was read, or the damage of the page that it should be on.
type Frame = Result<(Chunk, Vec<u8>), String>;

/// Holds a frame against its hash, its blocks against theirs, and its runs against the map.
fn prove(frame: Frame, partition: &Partition, bitmap: Option<&Bitmap>) -> Result<Chunk, String> {
    let (chunk, frame) = frame?;
    let data = chunk::open(&frame, &chunk, partition)
        .map_err(|error| format!("byte {}: {}", chunk.offset, with_causes(&error)))?;
    if chunk.zero != data.iter().all(|byte| *byte == 0) {
        return Err(format!("chunk {} is wrong about being zero", chunk.index));
    }
    let first = u64::from(chunk.index) * u64::from(partition.chunk_blocks);
    if bitmap.is_some_and(|map| map.runs(first, partition.chunk_blocks) != chunk.runs) {
        return Err(format!("chunk {} has other blocks than the map of used ones", chunk.index));
    }
    Ok(chunk)
}
