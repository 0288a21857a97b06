//! Step `check-disk`: finds the disk by its identity, sees that everything fits on it, and refuses what
//! the task may not overwrite. Nothing is written.

use super::{DiskImage, DiskTarget};
use crate::{
    disk::Device,
    task::{
        StepLog, check_disk, driver,
        plan::{Family, NamedDisk},
    },
};
use anyhow::{Context, bail, ensure};
use metalcast_formats::{
    layout::SECTOR_BYTES,
    probe::Contents,
    whole_disk::{self, Extent, Grown, Role, WholePlan},
};
use metalcast_shared::{
    disk::Disk,
    to_agent::Overwrite,
    whole_disk::{BootCode, EXTENDED_CODE_BYTES, MAX_GAP_BYTES, MBR_CODE_BYTES, WholeDisk},
};

pub(super) fn run(image: &DiskImage<'_>, log: &StepLog<'_>) -> anyhow::Result<DiskTarget> {
    let order = image.order;
    let (disk, path) = check_disk::find(&order.disk, log)?;
    let device = log.machine().open(&path)?;
    check_disk::same_size(&disk, &device)?;
    let grown = grown(image, device.bytes(), log)?;
    let whole = grown.as_ref().unwrap_or(&image.whole);
    let plan = whole_disk::plan(whole, device.bytes(), device.sector_bytes())
        .with_context(|| format!("{disk} cannot become that of {}", order.image))?;
    let target = DiskTarget { disk: NamedDisk { path, selector: order.disk.clone() }, plan };
    check_places(image, &target)?;
    check_boot(&image.whole.boot, &target.plan)?;
    for partition in image.partitions() {
        if let Some(family) = Family::of(&partition?.1.filesystem) {
            driver::require(family.driver())?;
        }
    }
    may_overwrite(image, &disk, &device, log)?;
    Ok(target)
}

/// The image's disk with one partition as large as this disk allows, if that was asked for.
fn grown(
    image: &DiskImage<'_>,
    disk_bytes: u64,
    log: &StepLog<'_>,
) -> anyhow::Result<Option<WholeDisk>> {
    let Some(number) = image.order.grow else { return Ok(None) };
    let grown = whole_disk::grown(&image.whole, number, disk_bytes)?;
    let Grown { whole, was_bytes, bytes, moved } = grown;
    log.note(match was_bytes == bytes {
        true => format!("partition {number} stays at {bytes} bytes, the disk has no more"),
        false => {
            format!("partition {number} will have {bytes} bytes, in the image it has {was_bytes}")
        }
    });
    for number in moved {
        log.note(format!("partition {number} moves to the end of the disk"));
    }
    Ok(Some(whole))
}

/// That each image has a partition of its own that it fits into.
fn check_places(image: &DiskImage<'_>, target: &DiskTarget) -> anyhow::Result<()> {
    let mut taken: Vec<u16> = Vec::new();
    let mut take = |number: u16| {
        ensure!(!taken.contains(&number), "two contents for partition {number}");
        taken.push(number);
        let extent = target.extent(number)?;
        ensure!(extent.role != Role::Extended, "partition {number} is an extended one");
        Ok(extent)
    };
    for partition in image.partitions() {
        let (number, partition) = partition?;
        let Extent { bytes, .. } = take(number)?;
        let (name, needed) = (&partition.name, partition.device_bytes);
        ensure!(needed <= *bytes, "{name} needs {needed} bytes, partition {number} has {bytes}");
    }
    for swap in &image.whole.swaps {
        take(swap.number)?;
    }
    Ok(())
}

fn check_boot(boot: &BootCode, plan: &WholePlan) -> anyhow::Result<()> {
    let BootCode { mbr, extended, gap } = boot;
    let is_whole = |code: &[u8], bytes: usize| code.is_empty() || code.len() == bytes;
    ensure!(is_whole(mbr, MBR_CODE_BYTES), "the boot code has {} bytes", mbr.len());
    let has_frame = plan.partitions.iter().any(|extent| extent.role == Role::Extended);
    ensure!(
        is_whole(extended, EXTENDED_CODE_BYTES) && (extended.is_empty() || has_frame),
        "there is no place for the extended partition's boot code"
    );
    if let Some(gap) = gap {
        let end = SECTOR_BYTES + u64::from(gap.bytes);
        let writes_end = plan.writes.iter().any(|write| {
            let start = write.byte_offset;
            start + write.bytes.len() as u64 > SECTOR_BYTES && start < end
        });
        let meets = plan.partitions.iter().any(|extent| extent.start_bytes < end) || writes_end;
        ensure!(
            gap.bytes <= MAX_GAP_BYTES && !meets,
            "{} bytes of boot loader do not fit between MBR and first partition",
            gap.bytes
        );
    }
    Ok(())
}

/// Whether what is on the disk may be given up.
fn may_overwrite(
    image: &DiskImage<'_>,
    disk: &Disk,
    device: &Device<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let found = device.whole().look()?;
    if found == Contents::Blank || check_disk::has_only_an_empty_table(device)? {
        return Ok(());
    }
    if image.order.overwrite == Overwrite::WholeDisk {
        log.note(format!("lost is what the disk holds: {found}"));
        return Ok(());
    }
    let there = whole_disk::table_id(&mut device.file(), device.bytes(), device.sector_bytes())
        .context("reading the partition table")?;
    if there.is_some() && there == image.order.own {
        log.note(format!("the disk holds what was deployed to it as a whole: {found}"));
        return Ok(());
    }
    bail!(
        "{} is not blank and holds what Metalcast did not put there as a whole disk: {found}; \
         nothing was written, and nothing will be without leave to overwrite anything",
        disk.name
    );
}
