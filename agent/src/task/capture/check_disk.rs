//! Step `check-disk` of a capture: finds the disk by its identity and holds it, so that it stays as it is
//! until all is read.

use crate::{capture, disk::Device, task::StepLog};
use anyhow::{Context, bail, ensure};
use metalcast_formats::{
    capture::{Part, Source},
    clonezilla::DiskTable,
    layout::{self, Role, SECTOR_BYTES},
};
use metalcast_shared::{
    layout::Layout,
    to_agent::{Capture, CaptureSource},
};

/// The name under which the disk of a slot is opened; it is not in the image.
const SLOT_DISK: &str = "sda";

/// What is saved of the disk, held.
pub(in crate::task) fn run(
    order: &Capture,
    log: &StepLog<'_>,
) -> anyhow::Result<Source<Device<'static>>> {
    let machine = log.machine();
    let disks = (machine.disks)().context("looking at the disks")?;
    let disk = order.disk.select(&disks)?;
    log.note(disk.to_string());
    // The name comes from sysfs; it is one component of a path there.
    let path = machine.dev.join(&disk.name);
    let name = match order.source {
        CaptureSource::Slot { .. } => SLOT_DISK,
        CaptureSource::Disk | CaptureSource::Partitions(_) => &order.name,
    };
    let source = capture::open(&path, Some(name), order.force)?;
    // What is open stays the disk that it is: names under /dev may have changed hands before.
    let disks = (machine.disks)().context("looking at the disks again")?;
    let again = order.disk.select(&disks)?;
    ensure!(
        again.name == disk.name && source.bytes == disk.bytes,
        "the disk with {} was {} and is {} now; start the job again",
        order.disk,
        disk.name,
        again.name
    );
    match &order.source {
        CaptureSource::Disk => {
            ensure!(source.disk.is_some(), "the disk has no partition table that is known here");
            Ok(source)
        }
        CaptureSource::Slot { layout, slot } => slot_of(source, layout, *slot, &order.name),
        CaptureSource::Partitions(numbers) => partitions_of(source, numbers),
    }
}

/// A slot and nothing else of a disk that has the layout.
fn slot_of(
    source: Source<Device<'static>>,
    layout: &Layout,
    slot: u16,
    name: &str,
) -> anyhow::Result<Source<Device<'static>>> {
    let plan = layout::compute(layout, source.bytes, source.medium.sector_bytes())?;
    let partition = *plan
        .partition(slot)
        .filter(|partition| partition.role == Role::Slot)
        .with_context(|| format!("layout {} has no slot {slot}", layout.name))?;
    let table = source.disk.as_ref().map(|disk| &disk.table);
    let Some(DiskTable::Mbr(table)) = table else {
        bail!("the disk does not have layout {}: it has no MBR partition table", layout.name);
    };
    let differences = plan.differences(table);
    if !plan.matches(table) {
        let first = differences.first().map(ToString::to_string).unwrap_or_default();
        bail!(
            "the disk does not have layout {}: {first} ({} differences)",
            layout.name,
            differences.len()
        );
    }
    let part = Part {
        number: slot,
        name: name.to_owned(),
        start: partition.start_lba * SECTOR_BYTES,
        bytes: partition.sectors * SECTOR_BYTES,
        is_extended: false,
    };
    Ok(Source { disk: None, partitions: vec![part], ..source })
}

/// Some partitions; the table is not part of the image.
fn partitions_of(
    source: Source<Device<'static>>,
    numbers: &[u16],
) -> anyhow::Result<Source<Device<'static>>> {
    let there = || source.partitions.iter().map(|part| part.number);
    if let Some(missing) = numbers.iter().find(|number| !there().any(|one| one == **number)) {
        let list: Vec<String> = there().map(|number| number.to_string()).collect();
        let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
        bail!("the disk has no partition {missing}; it has {list}");
    }
    let partitions: Vec<Part> =
        source.partitions.iter().filter(|part| numbers.contains(&part.number)).cloned().collect();
    if let Some(extended) = partitions.iter().find(|part| part.is_extended) {
        bail!("partition {} only holds other partitions: name those", extended.number);
    }
    Ok(Source { disk: None, partitions, ..source })
}
