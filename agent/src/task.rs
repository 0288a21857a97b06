//! Carrying out a task as named steps, each of which can be taken again.
//!
//! A deploy writes in an order that leaves no half-made system startable, wherever it ends:
//!
//! ```text
//! table -> boot filesystem -> slot's first MiB zeroed, slot marked -> chunks -> read back
//!   -> first MiB, boot code blank -> grow -> adapt the system -> loaders -> slot's boot sector -> mark gone
//!   -> what was left is remembered
//! ```
//!
//! A whole disk is made by [`deploy_disk`], partitions that a disk has are filled by
//! [`deploy_partitions`], with the same steps where they are the same.
//!
//! Everything here is blocking; the network is behind [`ChunkSource`]. One file per step; [`by_hand`]
//! takes single ones.

mod activate;
mod archive;
mod boot_code;
mod boot_sector;
mod bundles;
pub mod by_hand;
mod capture;
mod check_disk;
mod clear;
mod compare;
mod context;
mod driver;
mod first_blocks;
mod fix_up;
mod format;
mod golden;
mod grow;
mod partition;
mod partitions;
mod plan;
mod pump;
mod readers;
mod restore;
mod source;
mod spread;
mod swap;
mod systems;
#[cfg(test)]
pub(crate) mod tests;
mod tools;
mod transfer;
mod verify;
mod whole_disk;

pub use capture::{Begun, Fault, Sending, Uploader};
pub use compare::FetchLeft;
pub use context::{Cancel, Context, FetchPacked, Keep, Machine, PackedFile, Report, StepLog};
pub use partitions::deploy_partitions;
pub use plan::SlotAddress;
pub use pump::workers;
pub use source::{ChunkSource, Closed, Delivery, DiskSource, Loss, Request, Sink, Wanted};
pub use whole_disk::deploy_disk;

use crate::{
    disk::{Device, MIB},
    memory,
};
use archive::Archive;
use metalcast_shared::{
    event::{Step, TaskEvent},
    to_agent::{Capture, Compare, Deploy, SelectSlot},
};
use plan::{Image, Target};
use restore::Restore;
use std::time::Instant;

/// A step with partitions of an image on their way to this disk.
type RestoreStep = fn(&[Restore<'_>], &Device<'_>, &StepLog<'_>) -> anyhow::Result<()>;

/// The task ended early; why was reported as its last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// Puts an image into a slot. `manifest_key` is the Ed25519 key that the manifest must be signed
/// with.
pub fn deploy(
    deploy: &Deploy,
    manifest_key: &[u8],
    source: &dyn ChunkSource,
    context: &Context<'_>,
) -> Result<(), Stopped> {
    let image = context.before_steps(|| Image::of(deploy, manifest_key))?;
    let (target, archive) = step(context, Step::CheckDisk, |log| {
        let target = check_disk::deploy(&image, log)?;
        let open = |fresh| Archive::open(image.partition(), source, fresh, log);
        Ok((target, deploy.fresh.as_ref().map(open).transpose()?))
    })?;
    step(context, Step::Partition, |log| partition::run(&target, log))?;
    step(context, Step::Format, |log| format::run(&target, log))?;
    step(context, Step::Clear, |log| clear::run(&image.record(), &target, log))?;
    match &archive {
        Some(archive) => fill(archive, &target, context)?,
        None => restore(&image, &target, source, context)?,
    }
    let system = image.system();
    let unique = match deploy.grow {
        true => Some(step(context, Step::Grow, |log| grow::slot(&system, &target, log))?),
        false => None,
    };
    let reports = step(context, Step::FixUp, |log| fix_up::run(&system, &target, unique, log))?;
    step(context, Step::BootCode, |log| boot_code::run(image.family, &target, log))?;
    // Before it is active: what is cut off until then is simply done again.
    step(context, Step::Record, |log| compare::record_slot(&image, &target, source, log))?;
    step(context, Step::Activate, |log| {
        activate::run(&target, log)?;
        note_memory(log);
        Ok(())
    })?;
    context.event(TaskEvent::Done { reports });
    Ok(())
}

/// Puts the members of an archive into a new filesystem, which is whole at once.
fn fill(archive: &Archive<'_>, target: &Target, context: &Context<'_>) -> Result<(), Stopped> {
    step(context, Step::Transfer, |log| archive.transfer(target, log))?;
    step(context, Step::Verify, |log| archive::verify(archive, target, log))?;
    step(context, Step::FirstBlocks, |log| {
        log.note("the filesystem was made in its place");
        Ok(())
    })
}

/// Puts a partition of an image into the slot.
fn restore(
    image: &Image<'_>,
    target: &Target,
    source: &dyn ChunkSource,
    context: &Context<'_>,
) -> Result<(), Stopped> {
    let restore = |log: &StepLog<'_>, run: RestoreStep| {
        let device = target.open(log)?;
        run(&image.restores(target, &device, source)?, &device, log)
    };
    step(context, Step::Transfer, |log| restore(log, transfer::run))?;
    step(context, Step::Verify, |log| restore(log, verify::run))?;
    step(context, Step::FirstBlocks, |log| restore(log, first_blocks::run))
}

/// Says how small a machine would have been enough for the agent.
fn note_memory(log: &StepLog<'_>) {
    if let Some(bytes) = memory::peak_bytes() {
        log.note(format!("the agent used at most {} MiB of memory", bytes.div_ceil(MIB)));
    }
}

/// Makes another slot the one that starts.
pub fn select_slot(select: &SelectSlot, context: &Context<'_>) -> Result<(), Stopped> {
    let target = step(context, Step::CheckDisk, |log| check_disk::select(select, log))?;
    step(context, Step::Activate, |log| activate::run(&target, log))?;
    context.event(TaskEvent::Done { reports: false });
    Ok(())
}

/// Saves what is on a disk.
pub fn capture(
    order: &Capture,
    uploader: &dyn Uploader,
    context: &Context<'_>,
) -> Result<(), Stopped> {
    let source = step(context, Step::CheckDisk, |log| capture::check(order, log))?;
    let surveyed = step(context, Step::Survey, |log| capture::survey(order, &source, log))?;
    step(context, Step::Capture, |log| match order.tar {
        true => capture::send_archive(order, source, &surveyed, uploader, log),
        false => capture::send(&source, &surveyed, uploader, log),
    })?;
    context.event(TaskEvent::Done { reports: false });
    Ok(())
}

/// Sends the files of the system that runs here.
pub fn golden(uploader: &dyn Uploader, context: &Context<'_>) -> Result<(), Stopped> {
    let surveyed = step(context, Step::Survey, golden::survey)?;
    step(context, Step::Capture, |log| golden::send(surveyed, uploader, log))?;
    context.event(TaskEvent::Done { reports: false });
    Ok(())
}

/// Compares what is in a slot or on a disk with what a deploy put there. `fetch` gets what the deploy left.
pub fn compare(
    order: &Compare,
    manifest_key: &[u8],
    source: &dyn DiskSource,
    fetch: &FetchLeft<'_>,
    context: &Context<'_>,
) -> Result<(), Stopped> {
    let held = step(context, Step::CheckDisk, |log| compare::check(order, manifest_key, log))?;
    let surveyed = step(context, Step::Survey, |log| compare::survey(order, &held, fetch, log))?;
    let comparison =
        step(context, Step::Compare, |log| compare::run(order, &held, surveyed, source, log))?;
    context.event(TaskEvent::Compared { comparison: Box::new(comparison) });
    context.event(TaskEvent::Done { reports: false });
    Ok(())
}

/// Takes a step; its failure is the task's.
fn step<T>(
    context: &Context<'_>,
    step: Step,
    run: impl FnOnce(&StepLog<'_>) -> anyhow::Result<T>,
) -> Result<T, Stopped> {
    attempt(context, step, run).map_err(|error| {
        context.event(TaskEvent::Failed { step: Some(step), cause: format!("{error:#}") });
        Stopped
    })
}

fn attempt<T>(
    context: &Context<'_>,
    step: Step,
    run: impl FnOnce(&StepLog<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    context.event(TaskEvent::StepStarted { step });
    let log = StepLog::new(context, step);
    log.check_cancel()?;
    let value = run(&log)?;
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    context.event(TaskEvent::StepDone { step, millis });
    Ok(value)
}
