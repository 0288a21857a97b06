//! Step `clear`: from here on neither the slot's old system nor the half-written new one can start.

use super::{
    StepLog,
    plan::{Image, Target},
    swap,
};
use crate::disk::{Access, MIB, SlotRecord};
use metalcast_formats::layout::SECTOR_BYTES;

pub(super) fn run(image: &Image<'_>, target: &Target, log: &StepLog<'_>) -> anyhow::Result<()> {
    let number = target.slot.number;
    swap::forget_suspended(target, log)?;
    let boot = target.open_boot(Access::Write, log)?;
    boot.mark_writing(number)?;
    let record = SlotRecord {
        image: image.deploy.image.to_string(),
        partition: image.deploy.partition.clone(),
    };
    boot.set_record(number, &record)?;
    boot.close()?;

    let device = target.open(log)?;
    let slot = target.slot(&device)?;
    slot.zero_at(0, slot.bytes().min(MIB))?;
    // A system that uses its own first sector has its boot sector in the gap.
    if let Some(gap) = target.slot.gap() {
        device.whole().zero_at(gap.first_lba * SECTOR_BYTES, SECTOR_BYTES)?;
    }
    device.flush()?;
    device.drop_caches()?;
    log.note(format!("slot {number} marked as being written, its first MiB zeroed"));
    Ok(())
}
