//! One partition: from whatever Clonezilla wrote to one frame per chunk.
//!
//! A partclone image is read once, one of ntfsclone twice, for its map of what is used is known at its
//! end only; both become partclone images. A raw image stays one.

use super::{SUMS, pages::PageFile};
use crate::images::{
    ImportError,
    output::{FileSum, Output},
    pipeline,
};
use metalcast_formats::{
    chunk::{Chunks, PlainChunk, RAW_BLOCK_BYTES, RawChunks, Sealed, sealer, write_head_frame},
    clonezilla::{Form, PartitionImage},
    partclone::{HeadFacts, ReadError, Reader, ntfsclone::NtfsClone},
    stream::{Opened, Progress},
};
use metalcast_shared::manifest::Partition;
use std::{
    error::Error,
    io::{self, Read},
    path::Path,
};

/// Called with the file being read and the bytes read of all files of the partition.
pub(super) type Report<'r> = &'r dyn Fn(String, u64);

/// Writes the file of one partition into `dir` and its chunks into `pages`.
pub(super) fn transcode(
    image: &PartitionImage,
    dir: &Path,
    pages: &mut PageFile,
    report: Report<'_>,
) -> Result<(Partition, FileSum), ImportError> {
    let opened = open(image)?;
    let source = Source { image, progress: &opened.progress };
    match image.form {
        Form::Partclone => {
            let reader = Reader::open(opened.stream).map_err(|error| source.unreadable(error))?;
            source.blocks(reader, Writer::create(&source, dir, pages, report)?)
        }
        Form::NtfsClone => {
            let stream = Reported { stream: opened.stream, progress: &opened.progress, report };
            let survey = NtfsClone::survey(stream).map_err(|error| source.unreadable(error))?;
            let again = open(image)?;
            let source = Source { image, progress: &again.progress };
            let reader = survey.open(again.stream).map_err(|error| source.unreadable(error))?;
            let before = opened.progress.total_bytes();
            let report = |file: String, bytes: u64| report(file, before + bytes);
            source.blocks(reader, Writer::create(&source, dir, pages, &report)?)
        }
        Form::Raw => source.raw(opened.stream, Writer::create(&source, dir, pages, report)?),
    }
}

fn open(image: &PartitionImage) -> Result<Opened, ImportError> {
    let partition = image.name.clone();
    image.open().map_err(|source| ImportError::Stream { partition, source })
}

/// What is read.
struct Source<'s> {
    image: &'s PartitionImage,
    progress: &'s Progress,
}

/// What a partition is, beside its chunks.
struct Shape {
    block_bytes: u32,
    total_blocks: u64,
    used_blocks: u64,
    device_bytes: u64,
    head_bytes: u32,
}

impl Source<'_> {
    fn unreadable(&self, error: impl Error + Send + Sync + 'static) -> ImportError {
        ImportError::Image {
            partition: self.image.name.clone(),
            place: self.progress.place(),
            source: Box::new(error),
        }
    }

    /// An image that says which blocks are used.
    fn blocks<R: Read + Send>(
        &self,
        reader: Reader<R>,
        mut writer: Writer<'_>,
    ) -> Result<(Partition, FileSum), ImportError> {
        let mut chunks = Chunks::new(reader).map_err(|error| self.unreadable(error))?;
        let head_bytes = writer.head(chunks.reader())?;
        self.run(|| chunks.next_chunk(), &mut writer)?;
        let header = chunks.reader().header();
        let shape = Shape {
            block_bytes: header.block_bytes,
            total_blocks: header.total_blocks,
            used_blocks: chunks.reader().used_blocks(),
            device_bytes: header.device_bytes,
            head_bytes,
        };
        chunks.finish().map_err(|error| self.unreadable(error))?;
        self.finish(writer, &shape)
    }

    /// The bytes of a partition, which stay that for Clonezilla too: without a head.
    fn raw<R: Read + Send>(
        &self,
        stream: R,
        mut writer: Writer<'_>,
    ) -> Result<(Partition, FileSum), ImportError> {
        let mut chunks = RawChunks::new(stream);
        self.run(|| chunks.next_chunk(), &mut writer)?;
        let blocks = chunks.bytes() / u64::from(RAW_BLOCK_BYTES);
        let shape = Shape {
            block_bytes: RAW_BLOCK_BYTES,
            total_blocks: blocks,
            used_blocks: blocks,
            device_bytes: chunks.bytes(),
            head_bytes: 0,
        };
        self.finish(writer, &shape)
    }

    /// Seals and writes all chunks. Why reading ended is the cause if writing failed too.
    fn run(
        &self,
        next: impl FnMut() -> Result<Option<PlainChunk>, ReadError> + Send,
        writer: &mut Writer<'_>,
    ) -> Result<(), ImportError> {
        let (read, written) = pipeline::run(next, sealer, |sealed| match sealed {
            Ok(sealed) => writer.write_chunk(sealed),
            Err(source) => {
                Err(ImportError::Compress { partition: self.image.name.clone(), source })
            }
        });
        read.map_err(|error| self.unreadable(error))?;
        written
    }

    fn finish(
        &self,
        writer: Writer<'_>,
        shape: &Shape,
    ) -> Result<(Partition, FileSum), ImportError> {
        let partition = self.image.name.clone();
        if self.progress.bytes() != self.progress.total_bytes() {
            return Err(ImportError::Leftover { partition, place: self.progress.place() });
        }
        let Writer { output, pages, chunks, .. } = writer;
        let sum = output.finish()?;
        let partition = Partition {
            name: partition,
            filesystem: self.image.filesystem.clone(),
            file: sum.name.clone(),
            block_bytes: shape.block_bytes,
            total_blocks: shape.total_blocks,
            used_blocks: shape.used_blocks,
            device_bytes: shape.device_bytes,
            chunk_blocks: Partition::chunk_blocks_for(shape.block_bytes),
            chunks,
            head_bytes: shape.head_bytes,
            file_bytes: sum.bytes,
            pages: pages.end_partition()?,
        };
        Ok((partition, sum))
    }
}

/// A stream that says how far it is.
struct Reported<'r, R> {
    stream: R,
    progress: &'r Progress,
    report: Report<'r>,
}

impl<R: Read> Read for Reported<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.stream.read(buffer)?;
        (self.report)(self.progress.place().name, self.progress.bytes());
        Ok(bytes)
    }
}

struct Writer<'w> {
    output: Output,
    pages: &'w mut PageFile,
    chunks: u32,
    progress: &'w Progress,
    report: Report<'w>,
}

impl<'w> Writer<'w> {
    fn create(
        source: &Source<'w>,
        dir: &Path,
        pages: &'w mut PageFile,
        report: Report<'w>,
    ) -> Result<Self, ImportError> {
        let PartitionImage { name, filesystem, .. } = source.image;
        let output = Output::create(dir, &format!("{name}.{filesystem}-ptcl-img.zst"), &SUMS)?;
        Ok(Self { output, pages, chunks: 0, progress: source.progress, report })
    }

    /// Writes header and bitmap as a frame of their own; its length.
    fn head<R: Read>(&mut self, reader: &Reader<R>) -> Result<u32, ImportError> {
        let header = reader.header();
        let facts = HeadFacts {
            filesystem: &header.filesystem,
            device_bytes: header.device_bytes,
            block_bytes: header.block_bytes,
        };
        write_head_frame(&mut self.output, &facts, reader.bitmap())
            .map_err(|source| self.output.failed(source))?;
        u32::try_from(self.output.bytes())
            .map_err(|_| ImportError::TooLarge("its bitmap does not fit into a frame".into()))
    }

    fn write_chunk(&mut self, sealed: Sealed) -> Result<(), ImportError> {
        let Sealed { frame, mut chunk } = sealed;
        chunk.offset = self.output.bytes();
        self.output.write(&frame)?;
        self.pages.push(chunk)?;
        self.chunks += 1;
        (self.report)(self.progress.place().name, self.progress.bytes());
        Ok(())
    }
}
