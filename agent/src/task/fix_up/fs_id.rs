//! `unique-fs-id`: the filesystem gets another UUID only where this node holds the same one already,
//! because that rewrites nearly half of ext4's metadata.
//!
//! Two of the same cannot stay: the kernel mounts no XFS whose UUID is mounted already, mixes up
//! btrfs of one UUID as soon as both were seen, and `UUID=` finds either. Each filesystem's own tool
//! gives the new one. XFS and btrfs keep the old one for their metadata in a second field of the
//! superblock (`META_UUID`, `METADATA_UUID`), so that little is written; Linux reads that since 4.3
//! and 5.0, GRUB since 2.02.

use super::super::{
    StepLog,
    plan::{Family, System, Target, window},
    tools,
};
use crate::disk::{Access, Mounted, look_at, uuid_of};
use anyhow::{Context, ensure};
use metalcast_shared::fix_up::FixUpStep;
use metalcast_sys::block::{self, BlockDevice, partition_path};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Other partitions that are looked at; a node with more has its first ones compared.
const MAX_OTHERS: usize = 4096;

/// What the slot's filesystem is called from now on.
pub(in crate::task) struct Unique {
    pub(super) uuid: String,
    /// The one it had in the image, if it was given another.
    pub(super) image_uuid: Option<String>,
    /// UUIDs of all that is on the node's disks, this slot included.
    pub(super) known: Vec<String>,
}

pub(super) fn make_unique(
    system: &System<'_>,
    target: &Target,
    log: &StepLog<'_>,
) -> anyhow::Result<Unique> {
    let own = target.node(target.slot.number, log)?;
    let mut known = others(&[own], log)?;
    let uuid = slot_uuid(target, log)?;
    let left_out = system.fix_up.adaptation.without.contains(&FixUpStep::UniqueFsId);
    if left_out || !known.contains(&uuid) {
        known.push(uuid.clone());
        return Ok(Unique { uuid, image_uuid: None, known });
    }
    let node = target.node(target.slot.number, log)?;
    restamp(system.family, &node, None, log)?;
    let new = slot_uuid(target, log)?;
    ensure!(!known.contains(&new), "the filesystem still has UUID {new}, as another on this node");
    log.note(format!("unique-fs-id: {uuid} is on this node already; it is {new} now"));
    known.push(new.clone());
    Ok(Unique { uuid: new, image_uuid: Some(uuid), known })
}

fn slot_uuid(target: &Target, log: &StepLog<'_>) -> anyhow::Result<String> {
    let device = target.open(log)?;
    let found = window(&device, &target.slot)?.look()?;
    let number = target.slot.number;
    uuid_of(&found).with_context(|| format!("slot {number} has no filesystem with a UUID"))
}

/// UUIDs on all partitions of all disks but those of one's own.
pub(in crate::task) fn others(own: &[PathBuf], log: &StepLog<'_>) -> anyhow::Result<Vec<String>> {
    let mut uuids = Vec::new();
    for disk in (log.machine().disks)()? {
        let path = log.machine().dev.join(&disk.name);
        let mut nodes = vec![path.clone()];
        if let Ok(block) = BlockDevice::open(&path, block::OpenMode::Read) {
            let partitions = block.partitions()?;
            nodes.extend(partitions.iter().map(|part| partition_path(&path, part.number)));
        }
        let left = MAX_OTHERS.saturating_sub(uuids.len());
        let found =
            nodes.iter().filter(|node| !own.contains(node)).filter_map(|node| uuid_on(node));
        uuids.extend(found.take(left));
    }
    Ok(uuids)
}

/// A partition that cannot be read has no name that could be confused.
fn uuid_on(node: &Path) -> Option<String> {
    uuid_of(&look_at(node).ok()?)
}

/// Gives a filesystem this UUID, or any other one. It must not be mounted.
pub(in crate::task) fn restamp(
    family: Family,
    node: &Path,
    uuid: Option<Uuid>,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let uuid = uuid.map(|uuid| uuid.to_string());
    match (family, uuid) {
        (Family::Ext, uuid) => restamp_ext(node, uuid.as_deref().unwrap_or("random"), log),
        (Family::Xfs, uuid) => restamp_xfs(node, uuid.as_deref().unwrap_or("generate"), log),
        // In the superblock only.
        (Family::Btrfs, None) => tools::run("btrfstune", &["-m"], node, log),
        (Family::Btrfs, Some(uuid)) => tools::run("btrfstune", &["-M", &uuid], node, log),
    }
}

fn restamp_ext(node: &Path, uuid: &str, log: &StepLog<'_>) -> anyhow::Result<()> {
    tools::repair_ext(node, log)?;
    tools::run("tune2fs", &["-U", uuid], node, log)
}

/// The log holds the UUID too and is emptied, so what is in it must be in its place: by a mount, which
/// needs `nouuid` where the other one is mounted.
fn restamp_xfs(node: &Path, uuid: &str, log: &StepLog<'_>) -> anyhow::Result<()> {
    let (driver, run_dir) = (Family::Xfs.driver(), &log.machine().run_dir);
    Mounted::open(node, driver, Some("nouuid"), Access::Write, run_dir)?.close()?;
    // What xfs_admin(8) -U does.
    tools::run("xfs_db", &["-x", "-c", &format!("uuid {uuid}")], node, log)
}
