//! One partition: from whatever Clonezilla wrote to one frame per chunk.
//!
//! A partclone image is read once, one of ntfsclone twice, for its map of what is used is known at its
//! end only; both become partclone images. A raw image stays one.

use super::draft::{Draft, PartitionFile, Shape};
use crate::images::{ImportError, pipeline};
use metalcast_formats::{
    chunk::{Chunks, PlainChunk, RAW_BLOCK_BYTES, RawChunks, Sealed, sealer, write_head_frame},
    clonezilla::{Form, PartitionImage},
    partclone::{HeadFacts, ReadError, Reader, ntfsclone::NtfsClone},
    stream::{Opened, Progress},
};
use std::{
    error::Error,
    io::{self, Read},
};

/// Called with the file being read and the bytes read of all files of the partition.
pub(super) type Report<'r> = &'r dyn Fn(String, u64);

/// Makes one partition of `draft` of its image.
pub(super) fn transcode(
    image: &PartitionImage,
    draft: &mut Draft<'_>,
    report: Report<'_>,
) -> Result<(), ImportError> {
    let opened = open(image)?;
    let source = Source { image, progress: &opened.progress };
    match image.form {
        Form::Partclone => {
            let reader = Reader::open(opened.stream).map_err(|error| source.unreadable(error))?;
            source.blocks(reader, Writer::create(&source, draft, report)?)
        }
        Form::NtfsClone => {
            let stream = Reported { stream: opened.stream, progress: &opened.progress, report };
            let survey = NtfsClone::survey(stream).map_err(|error| source.unreadable(error))?;
            let again = open(image)?;
            let source = Source { image, progress: &again.progress };
            let reader = survey.open(again.stream).map_err(|error| source.unreadable(error))?;
            let before = opened.progress.total_bytes();
            let report = |file: String, bytes: u64| report(file, before + bytes);
            source.blocks(reader, Writer::create(&source, draft, &report)?)
        }
        Form::Raw => source.raw(opened.stream, Writer::create(&source, draft, report)?),
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
        mut writer: Writer<'_, '_>,
    ) -> Result<(), ImportError> {
        let mut chunks = Chunks::new(reader).map_err(|error| self.unreadable(error))?;
        writer.head(chunks.reader())?;
        self.run(|| chunks.next_chunk(), &mut writer)?;
        let header = chunks.reader().header();
        let shape = Shape {
            name: self.image.name.clone(),
            filesystem: self.image.filesystem.clone(),
            block_bytes: header.block_bytes,
            total_blocks: header.total_blocks,
            used_blocks: chunks.reader().used_blocks(),
            device_bytes: header.device_bytes,
        };
        chunks.finish().map_err(|error| self.unreadable(error))?;
        self.finish(writer, shape)
    }

    /// The bytes of a partition, which stay that for Clonezilla too: without a head.
    fn raw<R: Read + Send>(
        &self,
        stream: R,
        mut writer: Writer<'_, '_>,
    ) -> Result<(), ImportError> {
        let mut chunks = RawChunks::new(stream);
        self.run(|| chunks.next_chunk(), &mut writer)?;
        let blocks = chunks.bytes() / u64::from(RAW_BLOCK_BYTES);
        let shape = Shape {
            name: self.image.name.clone(),
            filesystem: self.image.filesystem.clone(),
            block_bytes: RAW_BLOCK_BYTES,
            total_blocks: blocks,
            used_blocks: blocks,
            device_bytes: chunks.bytes(),
        };
        self.finish(writer, shape)
    }

    /// Seals and writes all chunks. Why reading ended is the cause if writing failed too.
    fn run(
        &self,
        next: impl FnMut() -> Result<Option<PlainChunk>, ReadError> + Send,
        writer: &mut Writer<'_, '_>,
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

    fn finish(&self, writer: Writer<'_, '_>, shape: Shape) -> Result<(), ImportError> {
        if self.progress.bytes() != self.progress.total_bytes() {
            let partition = self.image.name.clone();
            return Err(ImportError::Leftover { partition, place: self.progress.place() });
        }
        writer.file.finish(shape)
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

struct Writer<'w, 'i> {
    file: PartitionFile<'w, 'i>,
    progress: &'w Progress,
    report: Report<'w>,
}

impl<'w, 'i> Writer<'w, 'i> {
    fn create(
        source: &Source<'w>,
        draft: &'w mut Draft<'i>,
        report: Report<'w>,
    ) -> Result<Self, ImportError> {
        let PartitionImage { name, filesystem, .. } = source.image;
        let file = draft.partition(&format!("{name}.{filesystem}-ptcl-img.zst"))?;
        Ok(Self { file, progress: source.progress, report })
    }

    fn head<R: Read>(&mut self, reader: &Reader<R>) -> Result<(), ImportError> {
        let header = reader.header();
        let facts = HeadFacts {
            filesystem: &header.filesystem,
            device_bytes: header.device_bytes,
            block_bytes: header.block_bytes,
        };
        self.file.head(|out| write_head_frame(out, &facts, reader.bitmap()))
    }

    fn write_chunk(&mut self, sealed: Sealed) -> Result<(), ImportError> {
        self.file.chunk(sealed)?;
        (self.report)(self.progress.place().name, self.progress.bytes());
        Ok(())
    }
}
