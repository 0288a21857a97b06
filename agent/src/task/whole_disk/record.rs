//! Step `record`: what was left on the disk, in its partitions and outside of them.

use super::DiskTarget;
use crate::task::{
    DiskSource, StepLog,
    compare::{self, LeftPart},
};
use metalcast_shared::whole_disk::MAX_GAP_BYTES;

pub(super) fn run(
    target: &DiskTarget<'_>,
    source: &dyn DiskSource,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let parts = &target.spread.parts;
    let sources: Vec<_> = parts.iter().map(|part| source.partition(&part.partition.name)).collect();
    let filled: Vec<LeftPart<'_>> = parts
        .iter()
        .zip(&sources)
        .map(|(part, source)| LeftPart {
            number: part.extent.number,
            partition: part.partition,
            start: part.extent.start_bytes,
            bytes: part.extent.bytes,
            source: source.as_ref(),
        })
        .collect();
    compare::record(
        || {
            let device = target.spread.disk.open(log)?;
            let areas = areas(target, device.bytes());
            Ok((device, areas))
        },
        &filled,
        log,
    )
}

/// What the deploy wrote outside of partitions: what lies in front of the first, 16 MiB at most, and the tables
/// behind that. First bytes and lengths.
fn areas(target: &DiskTarget<'_>, disk_bytes: u64) -> Vec<(u64, u32)> {
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
