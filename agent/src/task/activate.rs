//! Step `activate`: the slot is what the disk's menu starts from now on.

use super::{StepLog, plan::Target, swap};
use crate::disk::Access;

pub(super) fn run(target: &Target, log: &StepLog<'_>) -> anyhow::Result<()> {
    let number = target.slot.number;
    swap::forget_suspended(target, log)?;
    let boot = target.open_boot(Access::Write, log)?;
    let before = boot.active()?;
    boot.activate(number)?;
    boot.close()?;
    // What is on the disk now must survive the loss of power in the next moment.
    target.open(log)?.drop_caches()?;
    log.note(match before {
        Some(before) => format!("slot {number} starts from now on (before: {before})"),
        None => format!("slot {number} starts from now on"),
    });
    Ok(())
}
