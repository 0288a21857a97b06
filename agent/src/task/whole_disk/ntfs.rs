//! Part of step `fix-up`: the boot sectors of NTFS volumes say where on the disk they are, and have their
//! copies behind the volume, which images lack.

use super::{DiskImage, DiskTarget, window};
use crate::{disk::Window, task::StepLog};
use anyhow::Context;
use metalcast_formats::ntfs::{self, Fitted, SECTOR_BYTES};

/// partclone's name of the filesystem.
const NTFS: &str = "ntfs";

pub(super) fn fit(
    image: &DiskImage<'_>,
    target: &DiskTarget,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let device = target.disk.open(log)?;
    for partition in image.partitions() {
        let (number, partition) = partition?;
        if partition.filesystem != NTFS {
            continue;
        }
        let extent = target.extent(number)?;
        let place = window(&device, extent)?;
        let mut sector = [0; SECTOR_BYTES];
        place.read_at(&mut sector, 0)?;
        let Some(fitted) = ntfs::fitted(&sector, extent.start_bytes) else {
            log.note(format!("partition {number} has no boot sector of an NTFS, it is left alone"));
            continue;
        };
        // The copy first, so that there is always one that is whole.
        let copy_end = fitted.copy_at.saturating_add(SECTOR_BYTES as u64);
        let has_room = copy_end <= place.bytes();
        if has_room {
            place.write_at(&fitted.sector, fitted.copy_at)?;
            device.flush()?;
        }
        copy_at_end(&fitted, &place)?;
        if fitted.sector != sector {
            place.write_at(&fitted.sector, 0).context("writing an NTFS boot sector")?;
        }
        log.note(format!(
            "partition {number}: NTFS begins at sector {} (was {}), {}",
            fitted.is,
            fitted.was,
            if has_room { "copy of the boot sector written" } else { "no room for a copy" }
        ));
    }
    device.flush()?;
    device.drop_caches()
}

/// A volume that was resized has its copy in the partition's last sector, be there whole clusters up to
/// that or not.
fn copy_at_end(fitted: &Fitted, place: &Window<'_>) -> anyhow::Result<()> {
    let Some(last) = place.bytes().checked_sub(SECTOR_BYTES as u64) else { return Ok(()) };
    let mut there = [0; SECTOR_BYTES];
    place.read_at(&mut there, last)?;
    match ntfs::fitted(&there, 0).is_some_and(|_| there != fitted.sector) {
        true => place.write_at(&fitted.sector, last),
        false => Ok(()),
    }
}
