//! Step `check-disk`: finds the disk by its identity, sees that everything fits on it, and refuses what
//! the task may not overwrite. Nothing is written.

use super::{DiskImage, DiskTarget};
use crate::{
    disk::Device,
    task::{StepLog, check_disk, plan::NamedDisk, spread::Spread},
};
use anyhow::{Context, bail, ensure};
use metalcast_formats::{
    layout::SECTOR_BYTES,
    probe::Contents,
    whole_disk::{self, Grown, Role, WholePlan},
};
use metalcast_shared::{
    disk::Disk,
    to_agent::Overwrite,
    whole_disk::{BootCode, EXTENDED_CODE_BYTES, MAX_GAP_BYTES, MBR_CODE_BYTES, WholeDisk},
};

pub(super) fn run<'i>(
    image: &'i DiskImage<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<DiskTarget<'i>> {
    let order = image.order;
    let (disk, path) = check_disk::find(&order.disk, log)?;
    let device = log.machine().open(&path)?;
    check_disk::same_size(&disk, &device)?;
    let grown = grown(image, device.bytes(), log)?;
    let whole = grown.as_ref().unwrap_or(&image.whole);
    let plan = whole_disk::plan(whole, device.bytes(), device.sector_bytes())
        .with_context(|| format!("{disk} cannot become that of {}", order.image))?;
    let placed = (&order.partitions[..], &image.whole.swaps[..]);
    let named = NamedDisk { path, selector: order.disk.clone() };
    let spread = Spread::of(named, &image.manifest, placed, &plan.partitions)?;
    check_boot(&image.whole.boot, &plan)?;
    may_overwrite(image, &disk, &device, log)?;
    Ok(DiskTarget { spread, plan })
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
    let there = whole_disk::found(&mut device.file(), device.bytes(), device.sector_bytes())
        .context("reading the partition table")?;
    if there.is_some_and(|table| Some(table.id) == image.order.own) {
        log.note(format!("the disk holds what was deployed to it as a whole: {found}"));
        return Ok(());
    }
    bail!(
        "{} is not blank and holds what Metalcast did not put there as a whole disk: {found}; \
         nothing was written, and nothing will be without leave to overwrite anything",
        disk.name
    );
}
