//! Step `fix-up`: adapts every Linux system on the disk to its node.

use super::{DiskImage, DiskTarget};
use crate::task::{StepLog, fix_up, plan::Family};
use anyhow::{Context, ensure};

/// Whether one of the systems will report that it is up.
pub(super) fn adapt(
    image: &DiskImage<'_>,
    target: &DiskTarget,
    log: &StepLog<'_>,
) -> anyhow::Result<bool> {
    let order = &image.order.fix_up;
    let (mut systems, mut reports) = (0, false);
    for partition in image.partitions() {
        let (number, partition) = partition?;
        let Some(family) = Family::of(&partition.filesystem) else { continue };
        let node = target.disk.node(number, log)?;
        let adapted = fix_up::on_whole_disk((family, order), &node, log)
            .with_context(|| format!("the system on partition {number}"))?;
        match adapted {
            Some(will_report) => {
                log.note(format!("the system on partition {number} is that of {}", order.hostname));
                systems += 1;
                reports |= will_report;
            }
            None => log.note(format!("partition {number} has no system, it stays as it is")),
        }
    }
    target.disk.open(log)?.drop_caches()?;
    if systems == 0 {
        let adaptation = &order.adaptation;
        ensure!(
            adaptation.authorized_keys.is_empty() && adaptation.kernel_args.is_empty(),
            "there is no Linux system on ext2/3/4, btrfs or xfs in the image, so that keys or words for \
             its kernel have no place"
        );
        log.note("no Linux system in the image: nothing is adapted");
    }
    Ok(reports)
}
