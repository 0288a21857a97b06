//! Step `fix-up` beside slots: adapts every Linux system of the image to its node.

use super::{StepLog, fix_up, plan::Family, spread::Spread};
use anyhow::{Context, ensure};
use metalcast_shared::to_agent::FixUp;

/// Whether one of the systems will report that it is up.
pub(super) fn adapt(spread: &Spread<'_>, order: &FixUp, log: &StepLog<'_>) -> anyhow::Result<bool> {
    let (mut systems, mut reports) = (0, false);
    for part in &spread.parts {
        let number = part.extent.number;
        let Some(family) = Family::of(&part.partition.filesystem) else { continue };
        let node = spread.disk.node(number, log)?;
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
    spread.disk.open(log)?.drop_caches()?;
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
