//! Step `partition`: an end to what was on the disk, and the table with blank boot code.

use super::{DiskImage, DiskTarget};
use crate::{
    disk::MIB,
    task::{
        StepLog,
        spread::{announce_all, blank_edges},
    },
};
use metalcast_formats::whole_disk::Role;
use metalcast_shared::whole_disk::MAX_GAP_BYTES;

pub(super) fn run(
    image: &DiskImage<'_>,
    target: &DiskTarget,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let device = target.spread.disk.open(log)?;
    let whole = device.whole();
    let partitions = &target.plan.partitions;
    // First of all what starts the old system, and all tables of it.
    let first = partitions.iter().map(|extent| extent.start_bytes).min().unwrap_or(MIB);
    let head = first.clamp(MIB, u64::from(MAX_GAP_BYTES)).min(whole.bytes());
    whole.zero_at(0, head)?;
    let unit = u64::from(device.sector_bytes());
    let end = whole.bytes() / unit * unit;
    let tail = MIB.min(end);
    whole.zero_at(end - tail, tail)?;
    device.flush()?;
    // Filesystems that happen to start or end where partitions will must not shine through.
    for extent in partitions.iter().filter(|extent| extent.role != Role::Extended) {
        blank_edges(&device, extent)?;
        if let Some(ebr) = extent.ebr_bytes {
            whole.zero_at(ebr, (extent.start_bytes - ebr).min(MIB))?;
        }
    }
    device.flush()?;
    if let Some((last, others)) = target.plan.writes.split_last() {
        for write in others {
            whole.write_at(&write.bytes, write.byte_offset)?;
        }
        device.flush()?;
        whole.write_at(&last.bytes, last.byte_offset)?;
    }
    device.flush()?;
    device.drop_caches()?;
    let (id, count) = (image.whole.table.id(), partitions.len());
    log.note(format!("table written: {count} partitions, {id}, boot code blank"));
    announce_all(&device, partitions)
}
