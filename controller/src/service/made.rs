//! What a deployment makes of a node's disk, as it is kept.

use super::Service;
use crate::{
    jobs::plan::{DiskUse, PartitionUse, SlotStage, SlotUse},
    store::{Change, StoreError, TaskRecord, Work},
};
use metalcast_shared::{id::NodeId, to_agent::Placed};

/// What a task has put, or puts, on a disk.
pub(super) enum Made {
    /// A system in a slot.
    Slot(SlotUse),
    /// All of it.
    Disk(DiskUse),
    /// Something in each of some partitions.
    Partitions(Vec<PartitionUse>),
}

impl Made {
    /// What a task does; `None` if that is no deployment.
    pub(super) fn by(record: &TaskRecord, stage: SlotStage, now: i64) -> Option<Self> {
        match &record.work {
            Work::Deploy { image, disk, layout, slot, .. } => Some(Self::Slot(SlotUse {
                disk: disk.to_string(),
                slot: *slot,
                layout: layout.clone(),
                image: image.clone(),
                stage,
                at_unix_ms: now,
            })),
            Work::DeployDisk { image, disk, table, .. } => Some(Self::Disk(DiskUse {
                disk: disk.to_string(),
                table: *table,
                image: image.clone(),
                stage,
                at_unix_ms: now,
            })),
            Work::DeployPartitions { image, partitions, disk, .. } => {
                let used = |placed: &Placed| PartitionUse {
                    disk: disk.to_string(),
                    number: placed.number,
                    image: image.clone(),
                    partition: placed.partition.clone(),
                    stage,
                    at_unix_ms: now,
                };
                Some(Self::Partitions(partitions.iter().map(used).collect()))
            }
            Work::SelectSlot { .. }
            | Work::Capture { .. }
            | Work::Compare { .. }
            | Work::Golden { .. } => None,
        }
    }

    /// The change that keeps it.
    pub(super) fn kept(self, node: NodeId) -> Change {
        match self {
            Self::Slot(used) => Change::Slot { node, used },
            Self::Disk(used) => Change::WholeDisk { node, used },
            Self::Partitions(used) => Change::Partitions { node, used },
        }
    }
}

/// What is known as soon as a task begins to partition its disk: what cannot be there any more.
pub(super) fn partitioned(record: &TaskRecord, node: NodeId, now: i64) -> Option<Change> {
    match &record.work {
        Work::Deploy { disk, layout, .. } => {
            let (disk, layout) = (disk.to_string(), layout.clone());
            Some(Change::ForgetOtherLayouts { node, disk, layout })
        }
        Work::DeployDisk { .. } => {
            Made::by(record, SlotStage::Writing, now).map(|made| made.kept(node))
        }
        Work::DeployPartitions { .. }
        | Work::SelectSlot { .. }
        | Work::Capture { .. }
        | Work::Compare { .. }
        | Work::Golden { .. } => None,
    }
}

impl Service {
    /// How far what is now in the same place came.
    pub(super) async fn stage_of(
        &self,
        node: NodeId,
        made: &Made,
    ) -> Result<Option<SlotStage>, StoreError> {
        Ok(match made {
            Made::Slot(used) => {
                let slots = self.store().slots(node).await?;
                let known = slots.iter().find(|s| s.disk == used.disk && s.slot == used.slot);
                known.map(|known| known.stage)
            }
            Made::Disk(used) => {
                let disks = self.store().whole_disks(node).await?;
                disks.iter().find(|known| known.disk == used.disk).map(|known| known.stage)
            }
            Made::Partitions(used) => {
                let known = self.store().partitions(node).await?;
                let same = |known: &PartitionUse, used: &PartitionUse| {
                    (&known.disk, known.number) == (&used.disk, used.number)
                };
                let stage = |used| known.iter().find(|known| same(known, used)).map(|it| it.stage);
                used.iter().filter_map(stage).min()
            }
        })
    }
}
