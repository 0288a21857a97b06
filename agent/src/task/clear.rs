//! Step `clear`: from here on neither the slot's old system nor the half-written new one can start.

use super::{StepLog, plan::Target, swap};
use crate::disk::{Access, MIB, SlotRecord};
use metalcast_formats::grub;

pub(super) fn run(content: &SlotRecord, target: &Target, log: &StepLog<'_>) -> anyhow::Result<()> {
    let number = target.slot.number;
    swap::forget_suspended(target, log)?;
    let boot = target.open_boot(Access::Write, log)?;
    boot.mark_writing(number)?;
    boot.set_record(number, content)?;
    boot.close()?;

    let device = target.open(log)?;
    for blank in grub::slot_blank_writes(&target.slot)? {
        device.whole().write_at(&blank.bytes, blank.byte_offset)?;
    }
    device.flush()?;
    let slot = target.slot(&device)?;
    slot.zero_at(0, slot.bytes().min(MIB))?;
    device.flush()?;
    device.drop_caches()?;
    log.note(format!("slot {number} marked as being written, its first MiB zeroed"));
    Ok(())
}
