//! Makes a Clonezilla directory of a revision, for Clonezillas that cannot read the store's: compressed
//! in another way, cut into pieces, with checksums that old ones know.
//!
//! ```text
//! <part>...zst ──Sequential──> frames ──pipeline──> prove, decode, compress ──Pieces──> .aa .ab ...
//! side files ──────────────────────────────────────> .metalcast-export-<random>/ ──rename──> DIR
//! ```
//!
//! The directory is hidden until it is whole, and `disk` and `parts`, without which it is no image,
//! come last.

mod pieces;

use super::{
    ExportError, Images, Progress, StoreError,
    loaded::Loaded,
    output::FileSum,
    pipeline,
    sequential::Sequential,
    side_files::{self, write_sums},
    space::{self, MIB},
};
use flate2::write::GzEncoder;
use metalcast_formats::{
    chunk,
    clonezilla::{Directory, RAW},
    stream::{Algorithm, Compression},
};
use metalcast_shared::{
    id::Revision,
    manifest::{Chunk, Partition},
};
use pieces::Pieces;
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Read, Write},
    num::NonZeroU64,
    path::{Path, PathBuf},
};

/// How the files of an export are hashed: as Clonezillas of any age check it, and as today's do.
const SUMS: [Algorithm; 2] = [Algorithm::Md5, Algorithm::Blake2b];

/// What makes a directory an image.
const LAST: [&str; 2] = ["disk", "parts"];

/// Beyond the estimate, for directories and rounding.
const SLACK_BYTES: u64 = 4 * MIB;

/// Copied at once.
const BUFFER_BYTES: usize = 256 << 10;

/// How an export is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportOptions {
    /// How partitions are compressed.
    #[serde(default)]
    pub packing: Packing,
    /// Longest piece of a partition, in bytes.
    #[serde(default)]
    pub split_bytes: Option<NonZeroU64>,
}

/// How the partitions of an export are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// gzip, which every Clonezilla reads.
    #[default]
    Gzip,
    /// zstd, as in the store; old Clonezillas do not know it.
    Zstd,
    /// Not at all.
    None,
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReport {
    /// Which revision.
    pub revision: Revision,
    /// The new directory.
    pub path: PathBuf,
    /// Files in it.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// See [`Images::export`].
pub(super) fn export(
    images: &Images,
    revision: &Revision,
    to: &Path,
    options: ExportOptions,
    progress: &dyn Fn(Progress),
) -> Result<ExportReport, ExportError> {
    if to.symlink_metadata().is_ok() {
        return Err(ExportError::Exists(to.to_owned()));
    }
    let (Some(parent), Some(_)) = (to.parent(), to.file_name()) else {
        return Err(ExportError::NoName(to.to_owned()));
    };
    let loaded = images.load(revision)?;
    let directory = loaded.directory(&images.layout.revision(revision))?;
    check_space(parent, &directory, &loaded, options.packing)?;
    let build = images.layout.export(to.to_owned(), parent)?;
    let dir = build.path();

    let (last, first): (Vec<_>, Vec<_>) =
        directory.side_files.iter().cloned().partition(|file| LAST.contains(&file.name.as_str()));
    let mut sums: Vec<FileSum> = side_files::copy::<ExportError>(&first, dir, &SUMS)?;
    let partitions = &loaded.manifest.partitions;
    let total_bytes = partitions.iter().map(|partition| partition.file_bytes).sum();
    let mut before = 0;
    for partition in partitions {
        let file = Sequential::open(&loaded, partition, &directory)?;
        let pieces = Pieces::new(dir, partition, options)?;
        let report = |file: &str, bytes: u64| {
            progress(Progress { file: file.to_owned(), done_bytes: before + bytes, total_bytes });
        };
        let packing = options.packing;
        let export = Export { loaded: &loaded, partition, packing, pieces, report: &report };
        sums.extend(export.run(file)?);
        before += partition.file_bytes;
    }
    sums.extend(side_files::copy::<ExportError>(&last, dir, &SUMS)?);
    let (files, bytes) = (sums.len(), sums.iter().map(|sum| sum.bytes).sum());
    write_sums(dir, &sums, &SUMS)?;
    build.publish()?;
    let files = (files + SUMS.len()) as u64;
    Ok(ExportReport { revision: revision.clone(), path: to.to_owned(), files, bytes })
}

/// Spares most hopeless exports; a disk that fills up later is an error then.
fn check_space(
    parent: &Path,
    directory: &Directory,
    loaded: &Loaded,
    packing: Packing,
) -> Result<(), ExportError> {
    let side: u64 = directory.side_files.iter().map(|file| file.bytes).sum();
    let data: u64 = loaded.manifest.partitions.iter().map(|one| packing.estimate(one)).sum();
    let needed = side.saturating_add(data).saturating_add(SLACK_BYTES);
    let free = space::free_bytes(parent)?;
    if free >= needed {
        return Ok(());
    }
    let path = parent.to_owned();
    Err(ExportError::Space { path, needed_mib: needed / MIB, free_mib: free / MIB })
}

impl Packing {
    fn compression(self) -> Compression {
        match self {
            Self::Gzip => Compression::Gzip,
            Self::Zstd => Compression::Zstd,
            Self::None => Compression::None,
        }
    }

    /// Bytes that a partition will hardly exceed.
    fn estimate(self, partition: &Partition) -> u64 {
        match self {
            // Half as much again: gzip is worse, but seldom by so much.
            Self::Gzip => self.limit(partition).min(partition.file_bytes.saturating_mul(3) / 2),
            Self::Zstd | Self::None => self.limit(partition),
        }
    }

    /// Bytes that a partition cannot exceed.
    fn limit(self, partition: &Partition) -> u64 {
        let plain = partition.used_bytes().saturating_add(partition.total_blocks / 8 + MIB);
        match self {
            Self::None => plain,
            Self::Zstd => partition.file_bytes,
            // What cannot be compressed is stored, with a header for each chunk and each block.
            Self::Gzip => {
                plain.saturating_add(plain / 1000).saturating_add(u64::from(partition.chunks) * 64)
            }
        }
    }

    /// A chunk proved and compressed, so that it stands for itself; with the length of its frame.
    fn repack(
        self,
        chunk: &Chunk,
        frame: Vec<u8>,
        partition: &Partition,
    ) -> Result<(u32, Vec<u8>), ExportError> {
        let plain = chunk::open(&frame, chunk, partition)
            .map_err(|source| ExportError::Chunk { partition: partition.name.clone(), source })?;
        let content = match self {
            Self::None => plain,
            Self::Zstd => frame,
            Self::Gzip => {
                let mut encoder = gzip(Vec::new());
                let packed = encoder.write_all(&plain).and_then(|()| encoder.finish());
                packed.expect("a vector takes whatever is written")
            }
        };
        Ok((chunk.frame_bytes, content))
    }
}

fn gzip<W: Write>(to: W) -> GzEncoder<W> {
    GzEncoder::new(to, flate2::Compression::default())
}

/// One partition being exported.
struct Export<'e> {
    loaded: &'e Loaded,
    partition: &'e Partition,
    packing: Packing,
    pieces: Pieces<'e>,
    /// Called with the file being written and the bytes read of the partition's.
    report: &'e dyn Fn(&str, u64),
}

impl Export<'_> {
    /// Writes what is before the chunks, then those. The files, when the store's has proved whole.
    fn run(mut self, mut file: Sequential<'_>) -> Result<Vec<FileSum>, ExportError> {
        if self.partition.filesystem != RAW && !self.partition.is_archive() {
            self.head(&mut file)?;
        }
        self.chunks(&mut file)?;
        file.finish()?;
        Ok(self.pieces.finish()?)
    }

    fn head(&mut self, file: &mut Sequential<'_>) -> Result<(), ExportError> {
        let mut frame = vec![0; self.partition.head_bytes as usize];
        file.read_exact(&mut frame).map_err(|source| file.failed(source))?;
        let mut plain = zstd::stream::read::Decoder::with_buffer(&frame[..])
            .map_err(|source| file.failed(source))?;
        let copied = match self.packing {
            Packing::Zstd => copy(&mut &frame[..], &mut self.pieces),
            Packing::None => copy(&mut plain, &mut self.pieces),
            Packing::Gzip => {
                let mut encoder = gzip(&mut self.pieces);
                let copied = copy(&mut plain, &mut encoder);
                copied.and_then(|()| encoder.finish().map(drop).map_err(Broken::Write))
            }
        };
        copied.map_err(|broken| match broken {
            Broken::Read(source) => file.failed(source).into(),
            Broken::Write(source) => self.pieces.failed(source).into(),
        })
    }

    fn chunks(&mut self, file: &mut Sequential<'_>) -> Result<(), ExportError> {
        let Self { loaded, partition, packing, pieces, report } = self;
        let (partition, packing) = (*partition, *packing);
        let mut chunks = loaded.chunks(partition);
        let mut done = u64::from(partition.head_bytes);
        let (read, written) = pipeline::run(
            || match chunks.next().transpose()? {
                None => Ok(None),
                Some(chunk) => file.frame(&chunk).map(|frame| Some((chunk, frame))),
            },
            || |(chunk, frame): (Chunk, Vec<u8>)| packing.repack(&chunk, frame, partition),
            |packed| {
                let (frame_bytes, content) = packed?;
                pieces.put(&content)?;
                done += u64::from(frame_bytes);
                report(pieces.name(), done);
                Ok::<_, ExportError>(())
            },
        );
        let read: Result<(), StoreError> = read;
        read?;
        written
    }
}

/// Where copying broke off.
enum Broken {
    Read(io::Error),
    Write(io::Error),
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => to.write_all(&buffer[..bytes]).map_err(Broken::Write)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Broken::Read(error)),
        }
    }
}
