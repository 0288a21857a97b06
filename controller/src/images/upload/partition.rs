//! The chunks of a partition while they come. Which ones there are follows from its bitmap.

use super::{facts, head::OpenHead};
use crate::{
    causes::with_causes,
    images::{
        UploadError,
        draft::{Draft, PartitionFile, Shape},
    },
};
use metalcast_formats::{
    chunk::{Opener, Ranges, Sealed},
    partclone::Bitmap,
};
use metalcast_shared::{
    manifest::{Chunk, Partition, Run},
    upload::SurveyPartition,
};

/// Written between flushes: bounds what waits to be written when the partition ends.
const SYNC_BYTES: u64 = 256 << 20;

/// The partition.
pub(super) struct OpenPartition {
    file: PartitionFile,
    shape: Shape,
    /// What an opener has to know of a partition.
    facts: Partition,
    bitmap: Bitmap,
    ranges: Ranges,
    /// The chunk that comes next: its number, and the blocks in it.
    next: Option<(u32, Vec<Run>)>,
    opener: Opener,
    synced: u64,
}

impl OpenPartition {
    /// One whose head has come.
    pub(super) fn with_head(
        mut head: OpenHead,
        partition: &SurveyPartition,
    ) -> Result<Self, UploadError> {
        let read = head.read(partition).and_then(|bitmap| {
            let bytes = u32::try_from(head.file.bytes());
            let bytes = bytes.map_err(|_| UploadError::sent("a head beyond what one can have"))?;
            Ok((bitmap, bytes))
        });
        match read {
            Ok((bitmap, bytes)) => Self::new(head.file, partition, bitmap, bytes),
            Err(error) => {
                head.discard()?;
                Err(error)
            }
        }
    }

    /// One that has none.
    pub(super) fn raw(draft: &Draft, partition: &SurveyPartition) -> Result<Self, UploadError> {
        let file = draft.partition(&partition.name, &partition.filesystem)?;
        Self::new(file, partition, Bitmap::all_used(partition.total_blocks), 0)
    }

    fn new(
        file: PartitionFile,
        partition: &SurveyPartition,
        bitmap: Bitmap,
        head_bytes: u32,
    ) -> Result<Self, UploadError> {
        let SurveyPartition { block_bytes, total_blocks, used_blocks, device_bytes, .. } =
            *partition;
        let shape = Shape { block_bytes, total_blocks, used_blocks, device_bytes, head_bytes };
        let facts = facts(partition, head_bytes);
        let mut ranges = Ranges::new(block_bytes, total_blocks)
            .map_err(|error| UploadError::Survey(error.to_string()))?;
        let next = ranges.next(&bitmap);
        let opener = Opener::default();
        Ok(Self { file, shape, facts, bitmap, ranges, next, opener, synced: 0 })
    }

    /// How many chunks have come.
    pub(super) fn chunks(&self) -> u32 {
        self.file.chunks()
    }

    /// Whether all have.
    pub(super) fn is_complete(&self) -> bool {
        self.next.is_none()
    }

    /// Takes the next one. Whether it made all so far durable.
    pub(super) fn take(
        &mut self,
        draft: &mut Draft,
        mut chunk: Chunk,
        frame: Vec<u8>,
    ) -> Result<bool, UploadError> {
        let Some((index, runs)) = &self.next else {
            return Err(UploadError::sent("a chunk after the last one"));
        };
        if (chunk.index, &chunk.runs) != (*index, runs) {
            let (came, name) = (chunk.index, &self.facts.name);
            let what = format!("chunk {came} of {name} where chunk {index} was to come");
            return Err(UploadError::sent(what));
        }
        let opened = self.opener.open(&frame, &chunk, &self.facts);
        let data = opened.map_err(|error| UploadError::sent(with_causes(&error)))?;
        chunk.zero = data.iter().all(|byte| *byte == 0);
        draft.push(&mut self.file, Sealed { frame, chunk })?;
        self.next = self.ranges.next(&self.bitmap);
        let is_due = self.file.bytes() - self.synced >= SYNC_BYTES;
        if is_due {
            self.file.sync()?;
            self.synced = self.file.bytes();
        }
        Ok(is_due)
    }

    /// Makes it part of the draft.
    pub(super) fn end(self, draft: &mut Draft) -> Result<(), UploadError> {
        Ok(draft.end_partition(self.file, &self.shape)?)
    }
}
