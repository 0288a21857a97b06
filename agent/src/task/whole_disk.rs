//! Making a whole disk that of an image: table, boot code and all partitions.
//!
//! ```text
//! old tables zeroed, new table, boot code blank -> swap -> chunks -> read back -> first MiB of each
//!   partition (-> ids) -> grow -> adapt the systems -> first MiB of the ESP (-> its id) -> gap ->
//!   the MBR's code -> what was left is remembered
//! ```
//!
//! Wherever it ends before the first MiB of the ESP, neither BIOS nor UEFI firmware finds anything to start.

mod boot;
mod check;
mod fresh_ids;
mod names;
mod record;
mod table;

use super::{
    Context, DiskSource, StepLog, Stopped, boot_sector, first_blocks,
    grow::{self, Place},
    note_memory,
    plan::manifest_of,
    spread::{Part, Spread},
    step, systems, transfer, verify,
};
use anyhow::Context as _;
use fresh_ids::Renewal;
use metalcast_formats::{
    ntfs,
    whole_disk::{Extent, Role, WholePlan},
};
use metalcast_shared::{
    event::{Step, TaskEvent},
    manifest::Manifest,
    to_agent::DeployDisk,
    whole_disk::{Swap, WholeDisk},
};

/// partclone's name of the filesystem.
const NTFS: &str = "ntfs";

/// Puts an image onto a whole disk. `manifest_key` is the Ed25519 key that the manifest must be signed
/// with.
pub fn deploy_disk(
    order: &DeployDisk,
    manifest_key: &[u8],
    source: &dyn DiskSource,
    context: &Context<'_>,
) -> Result<(), Stopped> {
    let image = context.before_steps(|| DiskImage::of(order, manifest_key))?;
    let (target, renewal) = step(context, Step::CheckDisk, |log| {
        let target = check::run(&image, log)?;
        let renewal = Renewal::of(&image, &target, source, log)?;
        Ok((target, renewal))
    })?;
    step(context, Step::Partition, |log| table::run(&image, &target, log))?;
    let spread = &target.spread;
    let is_theirs = |swap: &Swap| swap.uuid.is_some() && order.fresh_ids.is_none();
    step(context, Step::Format, |log| spread.make_swap(is_theirs, log))?;
    let everything = |_: &Part<'_>| true;
    step(context, Step::Transfer, |log| spread.restore(source, everything, log, transfer::run))?;
    step(context, Step::Verify, |log| spread.restore(source, everything, log, verify::run))?;
    let is_esp = |part: &Part<'_>| part.extent.role == Role::Esp;
    step(context, Step::FirstBlocks, |log| {
        spread.restore(source, |part| !is_esp(part), log, first_blocks::run)
    })?;
    if let Some(renewal) = &renewal {
        step(context, Step::FreshIds, |log| renewal.run(&target, log))?;
    }
    if let Some(number) = order.grow {
        step(context, Step::Grow, |log| grow::run(&target.place(number)?, log))?;
    }
    let reports = step(context, Step::FixUp, |log| {
        fit_ntfs(spread, log)?;
        systems::adapt(spread, &order.fix_up, log)
    })?;
    step(context, Step::BootCode, |log| {
        spread.restore(source, is_esp, log, first_blocks::run)?;
        if let Some(renewal) = &renewal {
            renewal.run_on_esp(&target, log)?;
        }
        boot::run(&image, &target, source, log)
    })?;
    step(context, Step::Record, |log| {
        record::run(&target, source, log)?;
        note_memory(log);
        Ok(())
    })?;
    context.event(TaskEvent::Done { reports });
    Ok(())
}

/// An order whose manifest is the controller's.
struct DiskImage<'d> {
    order: &'d DeployDisk,
    /// What the disk becomes: as in the order, or with other ids.
    whole: WholeDisk,
    manifest: Manifest,
}

/// The disk that is written to, and where on it everything goes.
struct DiskTarget<'i> {
    spread: Spread<'i>,
    plan: WholePlan,
}

impl<'d> DiskImage<'d> {
    fn of(order: &'d DeployDisk, manifest_key: &[u8]) -> anyhow::Result<Self> {
        let manifest = manifest_of(&order.image, &order.manifest, manifest_key)?;
        let whole = match order.fresh_ids {
            Some(seed) => seed.renew(&order.whole),
            None => order.whole.clone(),
        };
        Ok(Self { order, whole, manifest })
    }
}

impl DiskTarget<'_> {
    fn extent(&self, number: u16) -> anyhow::Result<&Extent> {
        let found = self.plan.partitions.iter().find(|extent| extent.number == number);
        found.with_context(|| format!("the image's table has no partition {number}"))
    }

    /// Of any partition of the table, whatever is in it.
    fn place(&self, number: u16) -> anyhow::Result<Place<'_>> {
        Ok(Place::of(&self.spread.disk, self.extent(number)?))
    }
}

/// Part of step `fix-up`: the boot sectors of NTFS volumes.
fn fit_ntfs(spread: &Spread<'_>, log: &StepLog<'_>) -> anyhow::Result<()> {
    let device = spread.disk.open(log)?;
    for Part { extent, .. } in spread.parts.iter().filter(|part| part.partition.filesystem == NTFS)
    {
        let sector = boot_sector::read(extent, &device)?;
        match ntfs::fitted(&sector, 0) {
            Some(_) => boot_sector::put(&sector, extent, &device, log)?,
            None => log.note(format!(
                "partition {} has no boot sector of an NTFS, it is left alone",
                extent.number
            )),
        }
    }
    Ok(())
}
