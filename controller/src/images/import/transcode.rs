//! One partition: from whatever Clonezilla wrote to one frame per chunk.
//!
//! ```text
//! reader: decompress, verify, cut ──┬─ work ──> sealers, one per processor ──> answer
//!                                   └─ order (the same chunks' answers) ──> writer, this thread
//! ```
//!
//! Both queues are bounded. The writer takes the answers in the order in which the chunks were read,
//! so memory does not depend on how long a chunk takes.

use super::{
    output::{FileSum, Output},
    pages::PageFile,
};
use crate::images::ImportError;
use metalcast_formats::{
    chunk::{Chunks, PlainChunk, Sealed, Sealer},
    clonezilla::PartitionImage,
    partclone::{HeadFacts, ReadError, Reader, head_bytes, write_head},
    stream::{self, Progress},
};
use metalcast_shared::manifest::Partition;
use std::{
    io::{self, Read},
    path::Path,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

/// zstd's own default: the best of its fast levels, and as fast to decompress as any.
const LEVEL: i32 = 3;

/// Chunks that wait for each sealer, so that none is idle while the reader is slow for a moment.
const QUEUED_PER_SEALER: usize = 2;

/// More sealers than this are never fed by one reader.
const MAX_SEALERS: usize = 16;

/// A chunk to be sealed, and where the answer goes.
type Work = (PlainChunk, SyncSender<io::Result<Sealed>>);

/// Answers in the order of the chunks.
type Ordered = Receiver<Receiver<io::Result<Sealed>>>;

/// Called with the file being read and the bytes read of all files of the partition.
pub(super) type Report<'r> = &'r dyn Fn(String, u64);

/// Writes the file of one partition into `dir` and its chunks into `pages`.
pub(super) fn transcode(
    image: &PartitionImage,
    dir: &Path,
    pages: &mut PageFile,
    report: Report<'_>,
) -> Result<(Partition, FileSum), ImportError> {
    let name = || image.name.clone();
    let opened = stream::open(image.pieces.clone(), image.compression)
        .map_err(|source| ImportError::Stream { partition: name(), source })?;
    let progress = opened.progress;
    let unreadable = |error| ImportError::Image {
        partition: name(),
        place: progress.place(),
        source: Box::new(error),
    };
    let mut chunks = Reader::open(opened.stream).and_then(Chunks::new).map_err(unreadable)?;
    let file = format!("{}.{}-ptcl-img.zst", image.name, image.filesystem);
    let mut writer = Writer {
        output: Output::create(dir, &file)?,
        pages,
        chunks: 0,
        partition: image.name.as_str(),
        progress: &progress,
        report,
    };
    let head_bytes = writer.head(chunks.reader())?;
    let (read, written) = run(&mut chunks, &mut writer);
    // Why reading ended is the cause if both failed.
    read.map_err(unreadable)?;
    written?;
    let header = chunks.reader().header().clone();
    let (used_blocks, chunk_blocks) = (chunks.reader().used_blocks(), chunks.chunk_blocks());
    chunks.finish().map_err(unreadable)?;
    if progress.bytes() != progress.total_bytes() {
        return Err(ImportError::Leftover { partition: name(), place: progress.place() });
    }
    let chunk_count = writer.chunks;
    let sum = writer.output.finish()?;
    let partition = Partition {
        name: image.name.clone(),
        filesystem: image.filesystem.clone(),
        file,
        block_bytes: header.block_bytes,
        total_blocks: header.total_blocks,
        used_blocks,
        device_bytes: header.device_bytes,
        chunk_blocks,
        chunks: chunk_count,
        head_bytes,
        file_bytes: sum.bytes,
        pages: pages.end_partition()?,
    };
    Ok((partition, sum))
}

/// Reads, seals and writes all chunks.
fn run<R: Read + Send>(
    chunks: &mut Chunks<R>,
    writer: &mut Writer<'_>,
) -> (Result<(), ReadError>, Result<(), ImportError>) {
    let sealers = thread::available_parallelism().map_or(1, usize::from).min(MAX_SEALERS);
    let (work_in, work) = sync_channel(sealers * QUEUED_PER_SEALER);
    let (order_in, order) = sync_channel(sealers * QUEUED_PER_SEALER);
    let work = Mutex::new(work);
    thread::scope(|scope| {
        for _ in 0..sealers {
            scope.spawn(|| seal_all(&work));
        }
        let reader = scope.spawn(move || read_all(chunks, &work_in, &order_in));
        let written = writer.write_all(order);
        let read = match reader.join() {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        (read, written)
    })
}

/// Feeds chunks until there are none left or the writer has given up.
fn read_all<R: Read>(
    chunks: &mut Chunks<R>,
    work: &SyncSender<Work>,
    order: &SyncSender<Receiver<io::Result<Sealed>>>,
) -> Result<(), ReadError> {
    while let Some(plain) = chunks.next_chunk()? {
        let (answer_in, answer) = sync_channel(1);
        if order.send(answer).is_err() || work.send((plain, answer_in)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Seals chunks until there is no more work.
fn seal_all(work: &Mutex<Receiver<Work>>) {
    let mut sealer = Sealer::new(LEVEL);
    loop {
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((plain, answer)) = next else { return };
        let sealed = match &mut sealer {
            Ok(sealer) => sealer.seal(plain),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        // Nobody waits for it any more if the writer has failed.
        let _ = answer.send(sealed);
    }
}

struct Writer<'w> {
    output: Output,
    pages: &'w mut PageFile,
    chunks: u32,
    partition: &'w str,
    progress: &'w Progress,
    report: Report<'w>,
}

impl Writer<'_> {
    /// Writes header and bitmap as a frame of their own; its length.
    fn head<R: Read>(&mut self, reader: &Reader<R>) -> Result<u32, ImportError> {
        let header = reader.header();
        let facts = HeadFacts {
            filesystem: &header.filesystem,
            device_bytes: header.device_bytes,
            block_bytes: header.block_bytes,
        };
        let bitmap = reader.bitmap();
        let mut write = || {
            let mut frame = zstd::stream::write::Encoder::new(&mut self.output, LEVEL)?;
            frame.include_checksum(true)?;
            frame.set_pledged_src_size(Some(head_bytes(bitmap)))?;
            write_head(&mut frame, &facts, bitmap)?;
            frame.finish().map(drop)
        };
        write().map_err(|source| self.output.failed(source))?;
        u32::try_from(self.output.bytes())
            .map_err(|_| ImportError::TooLarge("its bitmap does not fit into a frame".into()))
    }

    fn write_all(&mut self, order: Ordered) -> Result<(), ImportError> {
        for answer in order {
            let answer = answer
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("the thread that compresses has ended")));
            let sealed = answer.map_err(|source| ImportError::Compress {
                partition: self.partition.to_owned(),
                source,
            })?;
            self.write_chunk(sealed)?;
        }
        Ok(())
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
