//! What `--grow` comes to: which partition of a whole disk, and from how much to how much on each node.

use super::{
    Refusal,
    view::{GrowRequest, GrowView},
};
use crate::images::DiskImage;
use metalcast_formats::whole_disk::{self, Grown};
use metalcast_shared::{
    id::Revision, layout::Layout, manifest::Partition, whole_disk::GROWN_FILESYSTEMS,
};

/// Of a slot, whose filesystem takes all of it.
pub(super) fn of_slot(layout: &Layout, (slot, partition): (u16, &Partition)) -> GrowView {
    in_place(partition, slot, u64::from(layout.slot_mib) << 20)
}

/// Of a filesystem that takes all of a place.
pub(super) fn in_place(partition: &Partition, number: u16, bytes: u64) -> GrowView {
    GrowView {
        number,
        filesystem: partition.filesystem.clone(),
        filesystem_grows: does_grow(partition),
        from_bytes: partition.device_bytes,
        to_bytes: bytes,
        moved: Vec::new(),
    }
}

/// Numbers of the partitions of a disk that their filesystems are to fill: the one that was named, or all
/// that can.
pub(super) fn of_partitions(
    request: &GrowRequest,
    partitions: &[(u16, &Partition)],
) -> Result<Vec<u16>, Refusal> {
    let is_asked = |number: u16| request.partition.is_none_or(|wanted| wanted == number);
    let grown = partitions.iter().filter(|(number, part)| is_asked(*number) && does_grow(part));
    let grown: Vec<u16> = grown.map(|(number, _)| *number).collect();
    if grown.is_empty() {
        let what = match request.partition {
            Some(number) => format!("partition {number} gets no filesystem that can grow"),
            None => "no partition gets a filesystem that can grow".into(),
        };
        let message = format!("{what}: those are {}", GROWN_FILESYSTEMS.join(", "));
        return Err(Refusal::Invalid(message));
    }
    Ok(grown)
}

/// That nobody names a partition where there is only the slot.
pub(super) fn check_slot(request: Option<&GrowRequest>) -> Result<(), Refusal> {
    match request.and_then(|request| request.partition) {
        Some(_) => Err(Refusal::Invalid(
            "--grow=NUMBER is about partitions of a whole disk; for a slot --grow alone will do"
                .into(),
        )),
        None => Ok(()),
    }
}

/// The number of the partition of a whole disk that grows: the one that was named, or the last on the
/// disk with a filesystem that can.
pub(super) fn of_disk(
    request: &GrowRequest,
    revision: &Revision,
    image: &DiskImage,
    partitions: &[(u16, &Partition)],
) -> Result<u16, Refusal> {
    let can =
        |number: u16| partitions.iter().any(|(placed, part)| *placed == number && does_grow(part));
    let found = request.partition.or_else(|| whole_disk::last_growable(&image.whole, can));
    let number = found.ok_or_else(|| {
        Refusal::Invalid(format!(
            "{revision} has no partition with {}; name one with --grow=NUMBER to make it larger all the \
             same",
            GROWN_FILESYSTEMS.join(", ")
        ))
    })?;
    on_disk(number, image, 0, partitions).map(|_| number)
}

/// What that comes to on a disk.
pub(super) fn on_disk(
    number: u16,
    image: &DiskImage,
    disk_bytes: u64,
    partitions: &[(u16, &Partition)],
) -> Result<GrowView, Refusal> {
    let Grown { was_bytes, bytes, moved, .. } = whole_disk::grown(&image.whole, number, disk_bytes)
        .map_err(|error| Refusal::Invalid(error.to_string()))?;
    let saved = partitions.iter().find(|(placed, _)| *placed == number).map(|(_, part)| *part);
    Ok(GrowView {
        number,
        filesystem: saved.map_or("nothing".into(), |part| part.filesystem.clone()),
        filesystem_grows: saved.is_some_and(does_grow),
        from_bytes: was_bytes,
        to_bytes: bytes,
        moved,
    })
}

fn does_grow(partition: &Partition) -> bool {
    GROWN_FILESYSTEMS.contains(&partition.filesystem.as_str())
}
