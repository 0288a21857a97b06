//! The frame with a partition's header and bitmap while it comes, and what is in it.

use crate::images::{
    DraftError, StoreError, UploadError,
    draft::{Draft, PartitionFile},
};
use metalcast_formats::partclone::{
    Bitmap, Checksums, HEAD_OVERHEAD_BYTES, Reader, Version, head_bytes,
};
use metalcast_shared::upload::SurveyPartition;
use std::{
    fs::File,
    io::{self, BufReader, Read},
};

/// The frame.
pub(super) struct OpenHead {
    pub(super) file: PartitionFile,
    /// Most bytes that it may have.
    limit: u64,
}

impl OpenHead {
    pub(super) fn begin(draft: &Draft, partition: &SurveyPartition) -> Result<Self, UploadError> {
        let file = draft.partition(&partition.name, &partition.filesystem)?;
        let plain = plain_bytes(partition);
        // What zstd makes of bits that cannot be compressed.
        let limit = plain + plain / 128 + (64 << 10);
        Ok(Self { file, limit })
    }

    /// Takes a piece.
    pub(super) fn write(&mut self, piece: &[u8]) -> Result<(), UploadError> {
        if self.file.bytes() + piece.len() as u64 > self.limit {
            return Err(UploadError::sent("a head that is longer than its bitmap"));
        }
        Ok(self.file.write(piece)?)
    }

    /// Forgets it.
    pub(super) fn discard(self) -> Result<(), UploadError> {
        Ok(self.file.discard()?)
    }

    /// Reads what has come: the bitmap of exactly that partition, and nothing else.
    pub(super) fn read(&mut self, partition: &SurveyPartition) -> Result<Bitmap, UploadError> {
        self.file.sync()?;
        let path = self.file.path().to_owned();
        let file = File::open(&path).map_err(StoreError::io("opening", &path));
        let file = BufReader::new(file.map_err(DraftError::from)?);
        let bad = |error: &dyn std::error::Error| UploadError::sent(format!("a head: {error}"));
        let frame = zstd::stream::read::Decoder::with_buffer(file).map_err(|error| bad(&error))?;
        // One byte more than there should be is enough to see that there is more.
        let mut frame = frame.single_frame().take(plain_bytes(partition) + 1);
        let reader = Reader::open(&mut frame).map_err(|error| bad(&error))?;
        let (header, bitmap) = reader.into_head();
        io::copy(&mut frame, &mut io::sink()).map_err(|error| bad(&error))?;
        let plain = plain_bytes(partition) + 1 - frame.limit();
        let mut rest = frame.into_inner().finish();
        let is_end = rest.read(&mut [0]).map_err(|error| bad(&error))? == 0;
        let found = (header.block_bytes, header.total_blocks, header.device_bytes);
        let told = (partition.block_bytes, partition.total_blocks, partition.device_bytes);
        let is_form = header.version == Version::V2 && header.checksums == Checksums::None;
        if !is_form || !is_end || plain != head_bytes(&bitmap) {
            return Err(UploadError::sent("a head that is not the one of a stored image"));
        }
        if found != told || bitmap.count_used() != partition.used_blocks {
            return Err(UploadError::sent("a head of another partition than was told of"));
        }
        Ok(bitmap)
    }
}

/// Bytes of header, bitmap and its CRC.
fn plain_bytes(partition: &SurveyPartition) -> u64 {
    HEAD_OVERHEAD_BYTES + partition.total_blocks.div_ceil(8)
}
