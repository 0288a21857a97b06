//! What we know to have put on the disks of a node.

#[cfg(doc)]
use metalcast_shared::disk::DiskSelector;
use metalcast_shared::{id::Revision, layout::Layout, whole_disk::TableId};
use serde::{Deserialize, Serialize};

/// How far a slot's deployment came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotStage {
    /// Writing began: what was there is gone, what is there may be half a system.
    Writing,
    /// All was written and verified.
    Deployed,
    /// The system in it reported in.
    Confirmed,
}

/// What we put into a slot of a node's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotUse {
    /// The disk, as [`DiskSelector`] writes it.
    pub disk: String,
    /// The slot.
    pub slot: u16,
    /// The disk's layout at that time.
    pub layout: Layout,
    /// What was put there.
    pub image: Revision,
    /// How far it came.
    pub stage: SlotStage,
    /// When it came that far, milliseconds since 1970-01-01 UTC.
    pub at_unix_ms: i64,
}

/// What we made of a whole disk of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// The disk, as [`DiskSelector`] writes it.
    pub disk: String,
    /// By what its table is known again.
    pub table: TableId,
    /// What was put there.
    pub image: Revision,
    /// How far it came.
    pub stage: SlotStage,
    /// When it came that far, milliseconds since 1970-01-01 UTC.
    pub at_unix_ms: i64,
}

/// What we put into a partition of a node's disk that is no slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionUse {
    /// The disk, as [`DiskSelector`] writes it.
    pub disk: String,
    /// Number of the partition.
    pub number: u16,
    /// What was put there.
    pub image: Revision,
    /// Which partition of that.
    pub partition: String,
    /// How far it came.
    pub stage: SlotStage,
    /// When it came that far, milliseconds since 1970-01-01 UTC.
    pub at_unix_ms: i64,
}

/// What we put on the disks of a node.
#[derive(Clone, Copy, Debug)]
pub struct Ours<'a> {
    /// In slots.
    pub slots: &'a [SlotUse],
    /// On whole disks.
    pub disks: &'a [DiskUse],
    /// Into partitions that are no slots.
    pub partitions: &'a [PartitionUse],
}

impl SlotUse {
    /// As something that will be lost.
    pub(super) fn lost(&self) -> String {
        format!("slot {} of layout {}: {}", self.slot, self.layout.name, self.image)
    }
}

impl PartitionUse {
    /// As something that will be lost.
    pub(super) fn lost(&self) -> String {
        format!("partition {}: {} of {}", self.number, self.partition, self.image)
    }
}
