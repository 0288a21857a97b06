//! Making a whole disk that of an image: table, boot code and all partitions.
//!
//! ```text
//! old tables zeroed, new table, boot code blank -> swap -> chunks -> read back -> first MiB of each
//!   partition (-> ids) -> grow -> adapt the systems -> first MiB of the ESP (-> its id) -> gap ->
//!   the MBR's code -> what was left is remembered
//! ```
//!
//! Wherever it ends before the last two, neither BIOS nor UEFI firmware finds anything to start.

mod boot;
mod check;
mod fresh_ids;
mod names;
mod ntfs;
mod record;
mod systems;
mod table;

use super::{
    Context, DiskSource, StepLog, Stopped, first_blocks,
    grow::{self, Place},
    note_memory,
    plan::{NamedDisk, manifest_of},
    restore::Restore,
    step, swap, transfer, verify,
};
use crate::disk::{Device, Window};
use anyhow::Context as _;
use fresh_ids::Renewal;
use metalcast_formats::whole_disk::{Extent, Role, WholePlan};
use metalcast_shared::{
    event::{Step, TaskEvent},
    manifest::{Manifest, Partition},
    to_agent::DeployDisk,
    whole_disk::WholeDisk,
};
use uuid::Uuid;

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
    step(context, Step::Format, |log| make_swap(&image, &target, log))?;
    let everything = |_: &Extent| true;
    step(context, Step::Transfer, |log| {
        image.restore(&target, source, everything, log, transfer::run)
    })?;
    step(context, Step::Verify, |log| {
        image.restore(&target, source, everything, log, verify::run)
    })?;
    step(context, Step::FirstBlocks, |log| {
        let others = |extent: &Extent| extent.role != Role::Esp;
        image.restore(&target, source, others, log, first_blocks::run)
    })?;
    if let Some(renewal) = &renewal {
        step(context, Step::FreshIds, |log| renewal.run(&target, log))?;
    }
    if let Some(number) = order.grow {
        step(context, Step::Grow, |log| grow::run(&target.place(number)?, log))?;
    }
    let reports = step(context, Step::FixUp, |log| {
        ntfs::fit(&image, &target, log)?;
        systems::adapt(&image, &target, log)
    })?;
    step(context, Step::BootCode, |log| {
        let esp = |extent: &Extent| extent.role == Role::Esp;
        image.restore(&target, source, esp, log, first_blocks::run)?;
        if let Some(renewal) = &renewal {
            renewal.run_on_esp(&target, log)?;
        }
        boot::run(&image, &target, source, log)
    })?;
    step(context, Step::Record, |log| {
        record::run(&image, &target, source, log)?;
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
struct DiskTarget {
    disk: NamedDisk,
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

    /// The image's partitions with the numbers that they get.
    fn partitions(&self) -> impl Iterator<Item = anyhow::Result<(u16, &Partition)>> {
        self.order.partitions.iter().map(|placed| {
            let name = &placed.partition;
            let partition = self
                .manifest
                .partition(name)
                .with_context(|| format!("{} has no partition {name}", self.order.image))?;
            Ok((placed.number, partition))
        })
    }

    /// Takes a step with the partitions for which `which` holds.
    fn restore(
        &self,
        target: &DiskTarget,
        source: &dyn DiskSource,
        which: impl Fn(&Extent) -> bool,
        log: &StepLog<'_>,
        run: impl FnOnce(&[Restore<'_>], &Device<'_>, &StepLog<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let device = target.disk.open(log)?;
        let mut chosen = Vec::new();
        for partition in self.partitions() {
            let (number, partition) = partition?;
            let extent = target.extent(number)?;
            if which(extent) {
                chosen.push((extent, partition, source.partition(&partition.name)));
            }
        }
        let restores: anyhow::Result<Vec<Restore<'_>>> = chosen
            .iter()
            .map(|(extent, partition, source)| {
                Ok(Restore {
                    partition,
                    source: source.as_ref(),
                    place: window(&device, extent)?,
                    name: format!("partition {}", extent.number),
                    without_code: None,
                })
            })
            .collect();
        match &restores?[..] {
            [] => Ok(()),
            restores => run(restores, &device, log),
        }
    }
}

impl DiskTarget {
    fn extent(&self, number: u16) -> anyhow::Result<&Extent> {
        let found = self.plan.partitions.iter().find(|extent| extent.number == number);
        found.with_context(|| format!("the image's table has no partition {number}"))
    }

    fn place(&self, number: u16) -> anyhow::Result<Place<'_>> {
        let Extent { start_bytes, bytes, .. } = *self.extent(number)?;
        let name = format!("partition {number}");
        Ok(Place { disk: &self.disk, number, start_bytes, bytes, name })
    }
}

fn window<'w>(device: &'w Device<'_>, extent: &Extent) -> anyhow::Result<Window<'w>> {
    device.window(extent.start_bytes, extent.bytes)
}

/// Step `format`: swap under the names that the image's systems know it by.
fn make_swap(image: &DiskImage<'_>, target: &DiskTarget, log: &StepLog<'_>) -> anyhow::Result<()> {
    let device = target.disk.open(log)?;
    for one in &image.whole.swaps {
        let extent = target.extent(one.number)?;
        let id = one.uuid.unwrap_or_else(Uuid::new_v4);
        swap::make(&device, &window(&device, extent)?, id, &one.label)
            .with_context(|| format!("making swap of partition {}", one.number))?;
        let is_theirs = one.uuid.is_some() && image.order.fresh_ids.is_none();
        let known = if is_theirs { "as in the image" } else { "a new one" };
        log.note(format!("swap partition {} formatted, UUID {id} ({known})", one.number));
    }
    Ok(())
}
