//! A tar archive while it comes: its bytes, wherever they were cut. It is read, surveyed and cut into frames
//! as an import would, and nothing of the agent's frames is kept.

use super::facts;
use crate::{
    causes::with_causes,
    images::{
        UploadError, archive,
        draft::{Draft, PartitionFile},
    },
};
use metalcast_formats::{
    chunk::{Opener, Sealed, archive_sealer},
    tar::{BLOCK_BYTES, Index, MAX_HEADER_BYTES, Packed, Packer, TarError},
};
use metalcast_shared::{
    manifest::{ARCHIVE, ARCHIVE_NAME, CHUNK_BYTES, Chunk, Partition},
    upload::SurveyPartition,
};
use std::io::{self, Read};

/// Written between flushes: bounds what waits to be written when the archive ends.
const SYNC_BYTES: u64 = 256 << 20;

/// What a frame can take of the archive: all that is in it, and the headers of the member behind it. While
/// less waits, none is begun.
const FRAME_NEEDS_BYTES: usize = CHUNK_BYTES as usize + 2 * MAX_HEADER_BYTES;

type Sealer = Box<dyn FnMut(Packed) -> io::Result<Sealed> + Send>;

/// The archive.
pub(super) struct OpenArchive {
    file: PartitionFile,
    /// What an opener has to know of a partition.
    facts: Partition,
    opener: Opener,
    packer: Packer<Waiting>,
    sealer: Sealer,
    /// Chunks that have come.
    chunks: u32,
    blocks: u64,
    index: Option<Index>,
    synced: u64,
}

/// Bytes that wait to be read; behind them the archive seems to end.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    at: usize,
}

impl Waiting {
    fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn push(&mut self, more: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(more);
    }
}

impl Read for Waiting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = (&self.bytes[self.at..]).read(buffer)?;
        self.at += read;
        Ok(read)
    }
}

impl OpenArchive {
    pub(super) fn begin(draft: &Draft, partition: &SurveyPartition) -> Result<Self, UploadError> {
        Ok(Self {
            file: draft.partition(ARCHIVE_NAME, ARCHIVE)?,
            facts: facts(partition, 0),
            opener: Opener::default(),
            packer: Packer::new(Waiting::default()),
            sealer: Box::new(archive_sealer()),
            chunks: 0,
            blocks: 0,
            index: None,
            synced: 0,
        })
    }

    /// How many chunks have come.
    pub(super) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Takes the next one. Whether it made all so far durable.
    pub(super) fn take(
        &mut self,
        draft: &mut Draft,
        chunk: &Chunk,
        frame: &[u8],
    ) -> Result<bool, UploadError> {
        if chunk.index != self.chunks {
            let (came, next) = (chunk.index, self.chunks);
            return Err(UploadError::sent(format!("chunk {came} where chunk {next} was to come")));
        }
        let opened = self.opener.open(frame, chunk, &self.facts);
        let data = opened.map_err(|error| UploadError::sent(with_causes(&error)))?;
        if data.is_empty() || data.len() % BLOCK_BYTES != 0 {
            return Err(UploadError::sent("a piece of an archive that is not made of blocks"));
        }
        self.packer.input().push(data);
        self.chunks += 1;
        while self.packer.input().len() >= FRAME_NEEDS_BYTES {
            self.pack(draft)?;
        }
        let is_due = self.file.bytes() - self.synced >= SYNC_BYTES;
        if is_due {
            self.file.sync()?;
            self.synced = self.file.bytes();
        }
        Ok(is_due)
    }

    /// Makes it part of the draft: all has come. What is known of it as a whole.
    pub(super) fn end(mut self, draft: &mut Draft) -> Result<Index, UploadError> {
        while self.pack(draft)? {}
        let index = self.index.take().ok_or_else(|| self.invalid("it has no end"))?;
        let shape = archive::shape(self.file.chunks(), self.blocks, &index);
        draft.end_partition(self.file, &shape)?;
        Ok(index)
    }

    /// Makes the next frame; `false` behind the last one.
    fn pack(&mut self, draft: &mut Draft) -> Result<bool, UploadError> {
        let Some(packed) = self.packer.next_chunk().map_err(UploadError::Archive)? else {
            return match self.packer.input().len() {
                0 => Ok(false),
                _ => Err(self.invalid("more follows its end")),
            };
        };
        self.index.clone_from(&packed.context.index);
        self.blocks += packed.plain.runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
        let sealed = (self.sealer)(packed).map_err(UploadError::Compress)?;
        draft.push(&mut self.file, sealed)?;
        Ok(true)
    }

    fn invalid(&self, what: &str) -> UploadError {
        let offset = self.blocks * BLOCK_BYTES as u64;
        UploadError::Archive(TarError::Invalid { offset, member: None, what: what.to_owned() })
    }
}
