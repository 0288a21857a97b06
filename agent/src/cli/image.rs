//! One partition of an image in a directory, a piece at a time: a revision of ours, or whatever
//! Clonezilla has saved.

use crate::task::workers;
use anyhow::{Context, bail};
use clap::Args;
use metalcast_formats::{
    chunk::{self, Chunks, PlainChunk},
    clonezilla::{Directory, Form, PartitionImage},
    partclone::{Reader, ntfsclone::NtfsClone},
    pipeline,
};
use metalcast_shared::{
    codec,
    manifest::{Chunk, MAX_ROOT_BYTES, Manifest, Page, Partition, Run, SignedManifest},
};
use std::{
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// What makes a directory a revision of ours; both lie beside the Clonezilla image.
pub(super) const MANIFEST_FILE: &str = "metalcast.manifest";
pub(super) const PAGES_FILE: &str = "metalcast.pages";

/// Room for the signature around a root.
const SIGNED_BYTES: usize = MAX_ROOT_BYTES + 1024;

/// Which image.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// Directory that Clonezilla saved, or of a revision in the controller's store
    #[arg(long, value_name = "DIR")]
    pub(super) image: PathBuf,
    /// Which of its partitions, such as sda1
    #[arg(long, value_name = "NAME")]
    pub(super) partition: String,
}

/// One partition of an image, opened.
pub(super) struct Image {
    /// What the image is called.
    pub(super) name: String,
    /// partclone's name of the filesystem.
    pub(super) filesystem: String,
    /// How large a partition it needs.
    pub(super) device_bytes: u64,
    source: Source,
}

enum Source {
    Revision { partition: Partition, pages: File, frames: File },
    Clonezilla { chunks: Chunks<Box<dyn Read + Send>>, block_bytes: u32 },
}

/// Used blocks with their place in the partition.
pub(super) struct Piece {
    /// First byte of the range that they lie in.
    pub(super) start: u64,
    block_bytes: u32,
    runs: Vec<Run>,
    /// The blocks, one behind the other.
    pub(super) data: Vec<u8>,
}

impl Piece {
    /// Where they lie: offset and length in bytes.
    pub(super) fn extents(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        let block = u64::from(self.block_bytes);
        let extent = move |run: &Run| {
            (self.start + u64::from(run.start) * block, run.count as usize * block as usize)
        };
        self.runs.iter().map(extent)
    }
}

impl ImageArgs {
    /// Opens it; what it is too damaged for is found here, what else is damaged on the way.
    pub(super) fn open(&self) -> anyhow::Result<Image> {
        let open = match self.image.join(MANIFEST_FILE).exists() {
            true => self.open_revision(),
            false => self.open_clonezilla(),
        };
        open.with_context(|| format!("opening image {}", self.image.display()))
    }

    fn open_revision(&self) -> anyhow::Result<Image> {
        let bytes =
            std::fs::read(self.image.join(MANIFEST_FILE)).context("reading the manifest")?;
        let signed: SignedManifest = codec::decode(&bytes, SIGNED_BYTES)?;
        let manifest = Manifest::decode(&signed.root)?;
        let names = manifest.partitions.iter().map(|partition| partition.name.as_str());
        let partition =
            manifest.partition(&self.partition).with_context(|| self.no_partition(names))?.clone();
        let open = |name: &str| {
            File::open(self.image.join(name)).with_context(|| format!("opening its file {name}"))
        };
        Ok(Image {
            name: manifest.revision.to_string(),
            filesystem: partition.filesystem.clone(),
            device_bytes: partition.device_bytes,
            source: Source::Revision {
                pages: open(PAGES_FILE)?,
                frames: open(&partition.file)?,
                partition,
            },
        })
    }

    fn open_clonezilla(&self) -> anyhow::Result<Image> {
        let directory = Directory::open(&self.image)?;
        let names = directory.partitions.iter().map(|partition| partition.name.as_str());
        let image = directory
            .partitions
            .iter()
            .find(|partition| partition.name == self.partition)
            .with_context(|| self.no_partition(names))?;
        let reader = reader(image)?;
        let (block_bytes, device_bytes) =
            (reader.header().block_bytes, reader.header().device_bytes);
        Ok(Image {
            name: base_name(&directory.path),
            filesystem: image.filesystem.clone(),
            device_bytes,
            source: Source::Clonezilla { chunks: Chunks::new(reader)?, block_bytes },
        })
    }

    fn no_partition<'n>(&self, names: impl Iterator<Item = &'n str>) -> String {
        let names: Vec<&str> = names.collect();
        format!("it has no partition {}; there are {}", self.partition, names.join(", "))
    }
}

/// Reads head and bitmap of what Clonezilla has saved, wherever they are.
fn reader(image: &PartitionImage) -> anyhow::Result<Reader<Box<dyn Read + Send>>> {
    let opened = image.open()?;
    match image.form {
        Form::Partclone => Ok(Reader::open(opened.stream)?),
        Form::NtfsClone => Ok(NtfsClone::survey(opened.stream)?.open(image.open()?.stream)?),
        Form::Raw => bail!(
            "{} is a raw image, whose size is known only at its end; decompress it onto the \
             partition by itself, or import it and take the revision",
            image.name
        ),
    }
}

fn base_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

impl Image {
    /// Hands over all of it, from several threads at a time and in no order, while what comes next is read. Each
    /// piece was held against the image's own checksums.
    pub(super) fn each(
        self,
        work: impl Fn(Piece) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<()> {
        match self.source {
            Source::Revision { partition, pages, frames } => {
                let frames = Frames { partition: &partition, pages, frames };
                each_of_revision(&frames, work)
            }
            Source::Clonezilla { chunks, block_bytes } => {
                each_of_clonezilla(chunks, block_bytes, work)
            }
        }
    }
}

fn each_of_revision(
    frames: &Frames<'_>,
    work: impl Fn(Piece) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let partition = frames.partition;
    let mut numbers = 0..partition.pages.len();
    let mut page = Vec::new().into_iter();
    let next = || -> anyhow::Result<Option<(Chunk, Vec<u8>)>> {
        loop {
            if let Some(chunk) = page.next() {
                return frames.frame(&chunk).map(|frame| Some((chunk, frame)));
            }
            let Some(number) = numbers.next() else { return Ok(None) };
            page = frames.page(number)?.chunks.into_iter();
        }
    };
    let unpack = |(chunk, frame): (Chunk, Vec<u8>)| -> anyhow::Result<()> {
        let data = chunk::open(&frame, &chunk, partition)?;
        let (start, block_bytes) = (partition.range_start(&chunk), partition.block_bytes);
        work(Piece { start, block_bytes, runs: chunk.runs, data })
    };
    let (read, worked) = pipeline::run(workers(), next, || unpack, |outcome| outcome);
    worked?;
    read
}

/// One stream: it can only be unpacked in order.
fn each_of_clonezilla(
    mut chunks: Chunks<Box<dyn Read + Send>>,
    block_bytes: u32,
    work: impl Fn(Piece) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let range = u64::from(chunks.chunk_blocks()) * u64::from(block_bytes);
    let work = |PlainChunk { index, runs, data }| {
        work(Piece { start: u64::from(index) * range, block_bytes, runs, data })
    };
    let (read, worked) =
        pipeline::run(workers(), || chunks.next_chunk(), || work, |outcome| outcome);
    worked?;
    read.context("reading the image")?;
    chunks.finish().context("reading the image's end")
}

/// The files of one partition of a revision.
struct Frames<'p> {
    partition: &'p Partition,
    pages: File,
    frames: File,
}

impl Frames<'_> {
    fn page(&self, number: usize) -> anyhow::Result<Page> {
        let reference = self.partition.pages[number];
        let mut bytes = vec![0; reference.bytes as usize];
        self.pages
            .read_exact_at(&mut bytes, reference.offset)
            .with_context(|| format!("reading page {number} of the image"))?;
        Ok(self.partition.decode_page(number, &bytes)?)
    }

    fn frame(&self, chunk: &Chunk) -> anyhow::Result<Vec<u8>> {
        let mut frame = vec![0; chunk.frame_bytes as usize];
        self.frames
            .read_exact_at(&mut frame, chunk.offset)
            .with_context(|| format!("reading chunk {} of the image", chunk.index))?;
        Ok(frame)
    }
}
