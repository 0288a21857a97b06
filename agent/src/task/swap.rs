//! The disk's swap partition, which all of its systems share.

use super::{
    StepLog,
    plan::{Target, window},
};
use crate::disk::{Device, Window};
use metalcast_formats::{
    layout::{DiskPlan, PlannedPartition, Role},
    probe::{Contents, Kind},
    swap,
};
use uuid::Uuid;

/// The plan's swap partition, if it has one.
pub(super) fn of(plan: &DiskPlan) -> Option<&PlannedPartition> {
    plan.partitions.iter().find(|partition| partition.role == Role::Swap)
}

/// Whether this is swap space.
pub(super) fn is_swap(found: &Contents) -> bool {
    found.find(Kind::Swap).or(found.find(Kind::Hibernated)).is_some()
}

/// Makes a partition empty swap space.
pub(super) fn make(
    device: &Device<'_>,
    place: &Window<'_>,
    id: Uuid,
    label: &str,
) -> anyhow::Result<()> {
    place.write_at(&swap::header(place.bytes(), id, label)?, 0)?;
    device.flush()?;
    device.drop_caches()
}

/// Takes the memory of a suspended system out of the swap: the next system to start would wake up as
/// that one, with what it remembers of disks that have changed since.
pub(super) fn forget_suspended(target: &Target, log: &StepLog<'_>) -> anyhow::Result<()> {
    let Some(partition) = of(&target.plan) else { return Ok(()) };
    let device = target.open(log)?;
    let place = window(&device, partition)?;
    let found = place.look()?;
    let Some(suspended) = found.find(Kind::Hibernated) else { return Ok(()) };
    // Systems know the partition by its UUID.
    let id = suspended.uuid.as_deref().and_then(|id| id.parse().ok()).unwrap_or_else(Uuid::new_v4);
    let fits = |label: &&str| label.len() <= swap::MAX_LABEL_BYTES;
    let label = suspended.label.as_deref().filter(fits).unwrap_or("");
    make(&device, &place, id, label)?;
    log.note(format!("a system was suspended in swap partition {}; it is gone", partition.number));
    Ok(())
}
