//! Step `record`: what was left on the disk, in its partitions and outside of them.

use super::{DiskImage, DiskTarget};
use crate::task::{
    ChunkSource, DiskSource, StepLog,
    compare::{self, LeftPart},
};
use metalcast_formats::whole_disk::Extent;
use metalcast_shared::{manifest::Partition, whole_disk::MAX_GAP_BYTES};

pub(super) fn run(
    image: &DiskImage<'_>,
    target: &DiskTarget,
    source: &dyn DiskSource,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let device = target.disk.open(log)?;
    let mut filled: Vec<(&Extent, &Partition, Box<dyn ChunkSource + '_>)> = Vec::new();
    for partition in image.partitions() {
        let (number, partition) = partition?;
        filled.push((target.extent(number)?, partition, source.partition(&partition.name)));
    }
    let parts: Vec<LeftPart<'_>> = filled
        .iter()
        .map(|(extent, partition, source)| LeftPart {
            number: extent.number,
            partition,
            start: extent.start_bytes,
            bytes: extent.bytes,
            source: source.as_ref(),
        })
        .collect();
    compare::record_disk(&device, &areas(target, device.bytes()), &parts, log)
}

/// What the deploy wrote outside of partitions: everything in front of the first, and the tables behind it.
fn areas(target: &DiskTarget, disk_bytes: u64) -> Vec<(u64, u32)> {
    let plan = &target.plan;
    let first = plan.partitions.iter().map(|extent| extent.start_bytes).min();
    let head = first.unwrap_or(disk_bytes).min(MAX_GAP_BYTES.into());
    let behind = plan.writes.iter().filter(|write| write.byte_offset >= head);
    let behind = behind.map(|write| (write.byte_offset, write.bytes.len()));
    std::iter::once((0, head as usize))
        .chain(behind)
        .map(|(start, bytes)| (start, u32::try_from(bytes).unwrap_or(u32::MAX)))
        .collect()
}
