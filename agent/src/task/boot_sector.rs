//! Boot sectors of partitions: those of NTFS and FAT say where on the disk the volume is, and have copies
//! in the volume, or behind it where no image has one.

use super::spread::window;
use crate::{
    disk::{Device, Window},
    task::StepLog,
};
use anyhow::ensure;
use metalcast_formats::{
    fat::Labelled,
    ntfs::{self, Fitted, SECTOR_BYTES},
    whole_disk::Extent,
};

/// A boot sector.
pub(super) type Sector = [u8; SECTOR_BYTES];

/// The one that a partition has.
pub(super) fn read(extent: &Extent, device: &Device<'_>) -> anyhow::Result<Sector> {
    let mut sector = [0; SECTOR_BYTES];
    window(device, extent)?.read_at(&mut sector, 0)?;
    Ok(sector)
}

/// Makes `sector` that of a partition, told where that is, and is sure that it is on the disk. It is
/// written last, so that there is always one that is whole.
pub(super) fn put(
    sector: &Sector,
    extent: &Extent,
    device: &Device<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let place = window(device, extent)?;
    let number = extent.number;
    let sector = match (ntfs::fitted(sector, extent.start_bytes), Labelled::of(sector)) {
        (Some(fitted), _) => {
            let has_copy = put_copies(&fitted, &place)?;
            log.note(format!(
                "partition {number}: NTFS begins at sector {} (was {}), {}",
                fitted.is,
                fitted.was,
                if has_copy { "copy of the boot sector written" } else { "no room for a copy" }
            ));
            fitted.sector
        }
        (None, Some(fat)) => {
            let (fat, [was, is]) = fat.placed_at(extent.start_bytes);
            let has_room = |at: &u64| at.saturating_add(SECTOR_BYTES as u64) <= place.bytes();
            if let Some(at) = fat.copy_at.filter(has_room) {
                place.write_at(&fat.sector, at)?;
            }
            log.note(format!("partition {number}: FAT begins at sector {is} (was {was})"));
            fat.sector
        }
        (None, None) => *sector,
    };
    device.flush()?;
    if read(extent, device)? != sector {
        place.write_at(&sector, 0)?;
        device.flush()?;
    }
    device.drop_caches()?;
    let is_there = read(extent, device)? == sector;
    ensure!(is_there, "the boot sector of partition {number} reads back differently");
    Ok(())
}

/// Whether there was room for the copy behind the volume. Where the partition is larger, Windows and
/// ntfsfix(8) look for it in its last sector; there it is too after a resize, be there whole clusters up to
/// that or not.
fn put_copies(fitted: &Fitted, place: &Window<'_>) -> anyhow::Result<bool> {
    let copy_end = fitted.copy_at.saturating_add(SECTOR_BYTES as u64);
    let has_room = copy_end <= place.bytes();
    if has_room {
        place.write_at(&fitted.sector, fitted.copy_at)?;
    }
    let Some(last) = place.bytes().checked_sub(SECTOR_BYTES as u64) else { return Ok(has_room) };
    let mut there = [0; SECTOR_BYTES];
    place.read_at(&mut there, last)?;
    let belongs_there = last > fitted.copy_at || ntfs::fitted(&there, 0).is_some();
    if belongs_there && there != fitted.sector {
        place.write_at(&fitted.sector, last)?;
    }
    Ok(has_room)
}
