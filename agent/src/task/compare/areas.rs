//! What of a disk is no partition's: tables, boot code, and what boot loaders have behind it.

use crate::{
    disk::{Device, MIB},
    task::StepLog,
};
use metalcast_shared::{
    as_left::{Area, Change, Comparison, MAX_RANGES, Place, Range},
    hash::Hash,
};

/// What lives there.
const PLACE: &str = "partition table and boot code";

/// The area, as it is now.
pub(super) fn look(device: &Device<'_>, start: u64, bytes: u32) -> anyhow::Result<Area> {
    Ok(Area { start, bytes, hash: hash(device, start, bytes)? })
}

/// Holds areas against what was left there.
pub(super) fn compare(
    areas: &[Area],
    device: &Device<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<Comparison> {
    let mut all = Comparison::default();
    for Area { start, bytes, hash: left } in areas.iter().copied() {
        log.check_cancel()?;
        let length = u64::from(bytes);
        let is_there = start.checked_add(length).is_some_and(|end| end <= device.bytes());
        if is_there && hash(device, start, bytes)? == left {
            all.left.bytes += length;
            continue;
        }
        all.drift.bytes += length;
        all.drift.count += 1;
        if all.drift.first.len() < MAX_RANGES {
            let (change, place) = (Change::Changed, PLACE.to_owned());
            all.drift.first.push(Range { start, bytes: length, change, place });
        }
    }
    if all.drift.bytes > 0 {
        all.places.push(Place { what: PLACE.to_owned(), bytes: all.drift.bytes });
    }
    Ok(all)
}

fn hash(device: &Device<'_>, start: u64, bytes: u32) -> anyhow::Result<Hash> {
    let pieces = (0..u64::from(bytes)).step_by(MIB as usize);
    let extents = pieces.map(|at| (start + at, (u64::from(bytes) - at).min(MIB) as usize));
    device.whole().hash(extents)
}
