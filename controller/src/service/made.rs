//! What a deployment makes of a node's disk, as it is kept.

use super::Service;
use crate::{
    jobs::plan::{DiskUse, SlotStage, SlotUse},
    store::{Change, StoreError, TaskRecord, Work},
};
use metalcast_shared::id::NodeId;

/// What a task has put, or puts, on a disk.
pub(super) enum Made {
    /// A system in a slot.
    Slot(SlotUse),
    /// All of it.
    Disk(DiskUse),
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
        Work::SelectSlot { .. }
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
        })
    }
}
