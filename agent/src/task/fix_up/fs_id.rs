//! `unique-fs-id`: the filesystem gets another UUID only where this node holds the same one already,
//! because that rewrites nearly half of ext4's metadata.

use super::super::{
    StepLog,
    plan::{Family, Image, Target, window},
    tools,
};
use crate::disk::{look_at, uuid_of};
use anyhow::{Context, ensure};
use metalcast_sys::{
    block::{Access, BlockDevice, partition_path},
    child::ChildError,
};
use std::path::Path;

/// Other partitions that are looked at; a node with more has its first ones compared.
const MAX_OTHERS: usize = 4096;

/// What the slot's filesystem is called from now on.
pub(super) struct Unique {
    pub(super) uuid: String,
    /// The one it had in the image, if it was given another.
    pub(super) image_uuid: Option<String>,
    /// Whether it still shares its UUID with another partition.
    pub(super) ambiguous: bool,
    /// UUIDs of all that is on the node's disks, this slot included.
    pub(super) known: Vec<String>,
}

pub(super) fn make_unique(
    image: &Image<'_>,
    target: &Target,
    log: &StepLog<'_>,
) -> anyhow::Result<Unique> {
    let mut known = others(target, log)?;
    let uuid = slot_uuid(target, log)?;
    let (uuid, image_uuid, ambiguous) = match (known.contains(&uuid), image.family) {
        (false, _) => (uuid, None, false),
        (true, Family::Ext) => {
            restamp(&target.node(target.slot.number))?;
            let new = slot_uuid(target, log)?;
            ensure!(new != uuid, "tune2fs left the UUID as it was");
            log.note(format!("unique-fs-id: {uuid} is on this node already; it is {new} now"));
            (new, Some(uuid), false)
        }
        (true, Family::Btrfs | Family::Xfs) => {
            log.note(format!("unique-fs-id: {uuid} is on this node already; PARTUUID is used"));
            (uuid, None, true)
        }
    };
    known.push(uuid.clone());
    Ok(Unique { uuid, image_uuid, ambiguous, known })
}

fn slot_uuid(target: &Target, log: &StepLog<'_>) -> anyhow::Result<String> {
    let device = target.open(log)?;
    let found = window(&device, &target.slot)?.look()?;
    let number = target.slot.number;
    uuid_of(&found).with_context(|| format!("slot {number} has no filesystem with a UUID"))
}

/// UUIDs on all partitions of all disks but the slot itself.
fn others(target: &Target, log: &StepLog<'_>) -> anyhow::Result<Vec<String>> {
    let own = target.node(target.slot.number);
    let mut uuids = Vec::new();
    for disk in (log.machine().disks)()? {
        let path = log.machine().dev.join(&disk.name);
        let mut nodes = vec![path.clone()];
        if let Ok(block) = BlockDevice::open(&path, Access::Read) {
            let partitions = block.partitions()?;
            nodes.extend(partitions.iter().map(|part| partition_path(&path, part.number)));
        }
        let left = MAX_OTHERS.saturating_sub(uuids.len());
        let found = nodes.iter().filter(|node| **node != own).filter_map(|node| uuid_on(node));
        uuids.extend(found.take(left));
    }
    Ok(uuids)
}

/// A partition that cannot be read has no name that could be confused.
fn uuid_on(node: &Path) -> Option<String> {
    uuid_of(&look_at(node).ok()?)
}

fn restamp(node: &Path) -> anyhow::Result<()> {
    match tools::run("e2fsck", &["-f", "-y"], node) {
        Ok(()) => {}
        // e2fsck(8): 1 says that errors were corrected, and is what an image of a running system gives.
        Err(error @ ChildError::Failed { .. }) if error.code() == Some(1) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(tools::run("tune2fs", &["-U", "random"], node)?)
}
