//! What of a disk is no partition's: tables, boot code, and what boot loaders have behind it.

use crate::{disk::Device, task::StepLog};
use metalcast_shared::{
    as_left::{Area, Change, Comparison, MAX_AREA_BYTES, MAX_RANGES, Place, Range},
    hash::Hash,
};

/// What lives there.
const PLACE: &str = "partition table and boot code";

/// What is in some ranges of a disk now (first byte and length).
pub(super) fn look(device: &Device<'_>, ranges: &[(u64, u32)]) -> anyhow::Result<Vec<Area>> {
    let pieces = ranges.iter().flat_map(|(start, bytes)| {
        (0..*bytes).step_by(MAX_AREA_BYTES as usize).map(move |at| {
            let (start, bytes) = (start + u64::from(at), (bytes - at).min(MAX_AREA_BYTES));
            Ok(Area { start, bytes, hash: hash(device, start, bytes)? })
        })
    });
    pieces.collect()
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
        let first = &mut all.drift.first;
        match first.last_mut() {
            Some(latest) if latest.start + latest.bytes == start => latest.bytes += length,
            _ => {
                all.drift.count += 1;
                if first.len() < MAX_RANGES {
                    let (change, place) = (Change::Changed, PLACE.to_owned());
                    first.push(Range { start, bytes: length, change, place });
                }
            }
        }
    }
    if all.drift.bytes > 0 {
        all.places.push(Place { what: PLACE.to_owned(), bytes: all.drift.bytes });
    }
    Ok(all)
}

fn hash(device: &Device<'_>, start: u64, bytes: u32) -> anyhow::Result<Hash> {
    device.whole().hash(std::iter::once((start, bytes as usize)))
}
