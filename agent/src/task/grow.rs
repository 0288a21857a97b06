//! Step `grow`: a filesystem takes all of its slot or partition, by its own tool. What no tool here can
//! make larger stays as it is, and the step says so.
//!
//! It comes when every block of the image was read back, and before the system is adapted, so that
//! there is room for that.

use super::{
    StepLog,
    fix_up::{self, Unique},
    plan::{Family, NamedDisk, System, Target},
    tools,
};
use crate::disk::{Access, MIB, Mounted};
use anyhow::Context;
use metalcast_formats::{
    layout::SECTOR_BYTES,
    probe::{Contents, Growable, Kind, growable},
    whole_disk::Extent,
};
use std::path::Path;

/// Less than this at the end of a partition is not worth the work: filesystems count in larger units.
const SLACK_BYTES: u64 = MIB;

/// Linux refuses to make a btrfs' device any smaller than this, or as small as this.
const BTRFS_LEAST_BYTES: u64 = 256 * MIB;

/// A slot, or a partition.
#[derive(Debug)]
pub(super) struct Place<'d> {
    pub(super) disk: &'d NamedDisk,
    pub(super) number: u16,
    pub(super) start_bytes: u64,
    pub(super) bytes: u64,
    /// What it is called: `slot 5`.
    pub(super) name: String,
}

impl<'d> Place<'d> {
    /// The task's slot.
    pub(super) fn slot(target: &'d Target) -> Self {
        let slot = &target.slot;
        Self {
            disk: &target.disk,
            number: slot.number,
            start_bytes: slot.start_lba * SECTOR_BYTES,
            bytes: slot.sectors * SECTOR_BYTES,
            name: format!("slot {}", slot.number),
        }
    }

    /// A partition of a disk.
    pub(super) fn of(disk: &'d NamedDisk, extent: &Extent) -> Self {
        let Extent { number, start_bytes, bytes, .. } = *extent;
        Self { disk, number, start_bytes, bytes, name: format!("partition {number}") }
    }

    fn look(&self, log: &StepLog<'_>) -> anyhow::Result<(Contents, Option<Growable>)> {
        let device = self.disk.open(log)?;
        // A tool wrote past this.
        device.drop_caches()?;
        let window = device.window(self.start_bytes, self.bytes)?;
        let contents = window.look()?;
        let found = growable(&mut window.reader(), &contents)
            .with_context(|| format!("reading how large the filesystem of {} is", self.name))?;
        Ok((contents, found))
    }
}

/// In a slot. The filesystem gets its own UUID first, if it has to have one: btrfs is mounted to grow,
/// and the kernel mixes up two of the same.
pub(super) fn slot(
    system: &System<'_>,
    target: &Target,
    log: &StepLog<'_>,
) -> anyhow::Result<Unique> {
    let unique = fix_up::make_unique(system, target, log)?;
    run(&Place::slot(target), log)?;
    Ok(unique)
}

pub(super) fn run(place: &Place<'_>, log: &StepLog<'_>) -> anyhow::Result<()> {
    let (contents, found) = place.look(log)?;
    let name = &place.name;
    let Some(found) = found else {
        log.note(format!(
            "{name} holds {contents}: nothing here makes that larger, it stays as it is"
        ));
        return Ok(());
    };
    let kind = found.kind.name();
    if found.bytes.saturating_add(SLACK_BYTES) > place.bytes {
        log.note(format!("{name}: {kind} of {} fills it already", mib(found.bytes)));
        return Ok(());
    }
    if found.kind == Kind::Btrfs && place.bytes < BTRFS_LEAST_BYTES {
        log.note(format!(
            "{name}: {kind} stays at {}, Linux resizes none of less than {}",
            mib(found.bytes),
            mib(BTRFS_LEAST_BYTES)
        ));
        return Ok(());
    }
    let node = place.disk.node(place.number, log)?;
    by_tool(&found, &node, log).with_context(|| format!("growing the {kind} of {name}"))?;
    let (contents, grown) = place.look(log)?;
    let grown = grown.with_context(|| format!("{name} holds {contents} after it has grown"))?;
    log.note(format!(
        "{name}: {kind} grew from {} to {}, the place has {}",
        mib(found.bytes),
        mib(grown.bytes),
        mib(place.bytes)
    ));
    Ok(())
}

/// Sizes as people compare them: tenths of MiB.
fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / MIB;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn by_tool(found: &Growable, node: &Path, log: &StepLog<'_>) -> anyhow::Result<()> {
    match found.kind {
        Kind::Xfs => {
            // Another of the same UUID may be mounted by the machine that this runs on.
            mounted(Family::Xfs, Some("nouuid"), node, log, |dir| {
                tools::run("xfs_growfs", &["-d"], dir, log)
            })
        }
        Kind::Btrfs => {
            let size = format!("{}:max", found.device_id);
            mounted(Family::Btrfs, None, node, log, |dir| {
                tools::run("btrfs", &["filesystem", "resize", &size], dir, log)
            })?;
            // Linux before 6.3 remembers what a mount found, and would refuse the image elsewhere.
            tools::run("btrfs", &["device", "scan", "--forget"], node, log)
        }
        // It marks the volume, so that Windows checks it at its next start. The question is answered.
        Kind::Ntfs => tools::run("ntfsresize", &["--force", "--no-progress-bar"], node, log),
        _ => {
            // It takes none that was not checked.
            tools::repair_ext(node, log)?;
            tools::run("resize2fs", &[], node, log)
        }
    }
}

fn mounted(
    family: Family,
    options: Option<&str>,
    node: &Path,
    log: &StepLog<'_>,
    grow: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let run_dir = &log.machine().run_dir;
    let mounted = Mounted::open(node, family.driver(), options, Access::Write, run_dir)?;
    let grown = grow(mounted.dir());
    // Also after a failure: nothing stays mounted.
    let closed = mounted.close();
    grown?;
    closed
}
