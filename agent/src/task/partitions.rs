//! Putting partitions of an image into partitions that a disk has. Its table, its boot code and all other
//! partitions stay as they are, byte for byte.
//!
//! ```text
//! first and last MiB zeroed -> swap -> chunks -> read back -> first MiB of each, boot sector left out
//!   -> grow -> adapt the systems -> boot sectors
//! ```
//!
//! Wherever it ends before the last, the disk's boot code finds no boot sector in them.

mod check;

use super::{
    Context, DiskSource, StepLog, Stopped, boot_sector,
    first_blocks::{self, Withheld},
    grow, note_memory,
    plan::manifest_of,
    spread::{Part, Spread, announce_all, blank_edges},
    step, systems, transfer, verify,
};
use metalcast_formats::{grub, whole_disk};
use metalcast_shared::{
    event::{Step, TaskEvent},
    to_agent::DeployPartitions,
    whole_disk::Swap,
};

/// Puts partitions of an image into partitions of a disk. `manifest_key` is the Ed25519 key that the
/// manifest must be signed with.
pub fn deploy_partitions(
    order: &DeployPartitions,
    manifest_key: &[u8],
    source: &dyn DiskSource,
    context: &Context<'_>,
) -> Result<(), Stopped> {
    let manifest =
        context.before_steps(|| manifest_of(&order.image, &order.manifest, manifest_key))?;
    let spread = &step(context, Step::CheckDisk, |log| check::run(order, &manifest, source, log))?;
    step(context, Step::Clear, |log| clear(order, spread, log))?;
    if !order.swaps.is_empty() {
        let is_theirs = |swap: &Swap| swap.uuid.is_some();
        step(context, Step::Format, |log| spread.make_swap(is_theirs, log))?;
    }
    let all = |_: &Part<'_>| true;
    step(context, Step::Transfer, |log| spread.restore(source, all, log, transfer::run))?;
    step(context, Step::Verify, |log| spread.restore(source, all, log, verify::run))?;
    step(context, Step::FirstBlocks, |log| spread.restore(source, all, log, first_blocks::run))?;
    if !order.grow.is_empty() {
        step(context, Step::Grow, |log| {
            order.grow.iter().try_for_each(|number| grow::run(&spread.place(*number)?, log))
        })?;
    }
    let reports = step(context, Step::FixUp, |log| systems::adapt(spread, &order.fix_up, log))?;
    step(context, Step::BootCode, |log| {
        put_boot_sectors(spread, source, log)?;
        note_memory(log);
        Ok(())
    })?;
    context.event(TaskEvent::Done { reports });
    Ok(())
}

/// Step `clear`: from here on neither what was in the partitions nor what will be can be started.
fn clear(order: &DeployPartitions, spread: &Spread<'_>, log: &StepLog<'_>) -> anyhow::Result<()> {
    let device = spread.disk.open(log)?;
    announce_all(&device, &whole_disk::places(&order.table))?;
    for extent in spread.extents() {
        blank_edges(&device, extent)?;
        log.note(format!("first and last MiB of partition {} zeroed", extent.number));
    }
    device.flush()?;
    device.drop_caches()
}

/// The last of step `boot-code`. Tools may have written into what was not withheld: that counts.
fn put_boot_sectors(
    spread: &Spread<'_>,
    source: &dyn DiskSource,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let withheld = |part: &Part<'_>| part.withheld != Withheld::Nothing;
    let parts = || spread.parts.iter().filter(|part| withheld(part));
    let mut heads = Vec::new();
    spread.restore(source, withheld, log, |restores, _, log| {
        for restore in restores {
            heads.push(first_blocks::head(restore, log)?);
        }
        Ok(())
    })?;
    let device = spread.disk.open(log)?;
    for (Part { extent, withheld, .. }, head) in parts().zip(&heads) {
        let Some(image) = head.first_chunk() else { continue };
        let sector = match withheld {
            Withheld::Code => grub::with_boot_code(&boot_sector::read(extent, &device)?, image),
            Withheld::Sector | Withheld::Nothing => *image,
        };
        boot_sector::put(&sector, extent, &device, log)?;
        log.note(format!("partition {} has its boot sector", extent.number));
    }
    Ok(())
}
