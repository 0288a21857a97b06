//! A capture's way into the store: what an agent sends on the stream that it opened with
//! [`crate::to_controller::Open::Upload`], and what the controller answers.
//!
//! ```text
//! agent       Open::Upload{task, survey}   Head* Chunk* (each partition)   File*   Finish
//! controller                            From(position)                             Saved
//! ```
//!
//! The files of a slot, as a tar archive, are one partition ([`crate::manifest::ARCHIVE`]) without a head:
//! its chunks are consecutive bytes of the archive, wherever that is cut, and it ends with `Finish`.
//!
//! Everything comes in one order. Nothing is acknowledged on the way: an agent that has lost its
//! connection opens another stream, is told how far the controller has come and reads its disk again
//! from there. A system that runs cannot be read twice alike: it is sent on one stream or not at all. The
//! controller trusts no length, hash or run that it is told.

use crate::{
    id::Revision,
    manifest::{Chunk, Partition},
};
use serde::{Deserialize, Serialize};

/// Most partitions of a capture: as many as the usual GUID table has.
pub const MAX_PARTITIONS: usize = 128;

/// Most remarks of a survey, and most bytes of each.
pub const MAX_REMARKS: usize = 64;
/// See [`MAX_REMARKS`].
pub const MAX_REMARK_BYTES: usize = 512;

/// Most bytes of an encoded [`UploadPart`], without what follows it: a chunk of 1 MiB in blocks of 512
/// bytes has at most 1024 runs.
pub const MAX_PART_BYTES: usize = 64 << 10;

/// Most bytes of a piece of a head.
pub const MAX_HEAD_PIECE_BYTES: u32 = 256 << 10;

/// Most files beside the partitions' data: some for the disk, one or two for a partition.
pub const MAX_FILES: usize = 4 * MAX_PARTITIONS;

/// Most bytes of such a file, of which the largest is what lies behind the MBR, and of all.
pub const MAX_FILE_BYTES: u32 = 17 << 20;
/// See [`MAX_FILE_BYTES`].
pub const MAX_FILES_BYTES: u64 = 32 << 20;

/// What will be sent, as far as it is known before it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Version text of the agent.
    pub agent: String,
    /// The partitions with data, in their order.
    pub partitions: Vec<SurveyPartition>,
    /// Bytes of files whose content is left out.
    pub left_out_bytes: u64,
    /// What else is to be remembered of the image, such as which files those are; a line each.
    pub remarks: Vec<String>,
}

/// A partition of a survey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurveyPartition {
    /// Its name in the image, such as `sda5`.
    pub name: String,
    /// Kind of filesystem, as partclone's program suffix; `dd` for every block, without a head; `tar` for
    /// an archive, whose numbers are estimates.
    pub filesystem: String,
    /// Size of a block in bytes.
    pub block_bytes: u32,
    /// Blocks of the filesystem.
    pub total_blocks: u64,
    /// Blocks that will be sent.
    pub used_blocks: u64,
    /// Bytes that a target must have at least.
    pub device_bytes: u64,
}

/// How far an upload has come: what is sent next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPosition {
    /// Partitions that are complete.
    pub partitions: u32,
    /// Whether the head of the next one is complete.
    pub head: bool,
    /// Chunks of the next one.
    pub chunks: u32,
    /// Files beside the partitions' data.
    pub files: u32,
}

/// Something on an upload's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UploadPart {
    /// A piece of the frame with a partition's header and bitmap.
    Head {
        /// So many bytes of it follow, at most [`MAX_HEAD_PIECE_BYTES`].
        bytes: u32,
        /// Whether it is complete then.
        is_last: bool,
    },
    /// The next chunk of the partition; its frame follows. The offset is 0.
    Chunk(Chunk),
    /// A file beside the partitions' data.
    File {
        /// Its name.
        name: String,
        /// Its content follows, at most [`MAX_FILE_BYTES`].
        bytes: u32,
    },
    /// That was all: publish it.
    Finish,
}

/// Answer on an upload's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UploadReply {
    /// Send what comes from here on.
    From(UploadPosition),
    /// It is in the store.
    Saved {
        /// As this.
        revision: Revision,
    },
    /// It goes no further.
    Refused {
        /// Why.
        reason: String,
        /// Whether another stream may go on with it.
        may_retry: bool,
    },
}

impl SurveyPartition {
    /// Bytes of all blocks that will be sent.
    pub fn used_bytes(&self) -> u64 {
        self.used_blocks.saturating_mul(self.block_bytes.into())
    }

    /// Blocks that a chunk covers.
    pub fn chunk_blocks(&self) -> u32 {
        Partition::chunk_blocks_for(self.block_bytes)
    }
}

impl Survey {
    /// Bytes of all blocks that will be sent.
    pub fn used_bytes(&self) -> u64 {
        self.partitions.iter().fold(0, |sum, one| one.used_bytes().saturating_add(sum))
    }
}
