//! The small files beside the partitions' data: what Clonezilla restores table, boot code and swap from.

use super::{CaptureError, Planned, Source, lists};
use crate::{
    clonezilla::{DiskFacts, DiskTable, PartitionFacts},
    gpt, mbr,
    region::ReadAt,
};

const SECTOR: usize = crate::layout::SECTOR_BYTES as usize;

/// Most of the gap behind the MBR that is saved: boot loaders use less than a MiB of it, and what a disk
/// of another time has there is no boot loader.
const MAX_GAP_BYTES: u64 = 16 << 20;

/// The tables that `sgdisk --backup` writes: headers of one sector, 128 entries.
const GPT_SLOTS: u32 = 128;
const GPT_ENTRIES_BYTES: usize = 32 * SECTOR;

/// Gives name and content of all that the checksums list, one after the other, in Clonezilla's order.
/// Memory: one of them, at most 16 MiB.
pub fn side_files<S: ReadAt, E: From<CaptureError>>(
    source: &Source<S>,
    planned: &[Planned],
    mut give: impl FnMut(&str, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    give("dev-fs.list", lists::dev_fs(planned).as_bytes())?;
    give("blkid.list", lists::blkid(source.disk.as_ref(), planned).as_bytes())?;
    if let Some(disk) = &source.disk {
        disk_files(source, disk, planned, &mut give)?;
    }
    let with_data = planned.iter().filter(|planned| planned.map().is_some());
    let parts: Vec<&str> = with_data.map(|planned| planned.facts.name.as_str()).collect();
    give("parts", format!("{}\n", parts.join(" ")).as_bytes())?;
    for swap in planned.iter().filter(|planned| planned.is_swap()) {
        give(&format!("swappt-{}.info", swap.facts.name), lists::swap_ids(swap).as_bytes())?;
    }
    Ok(())
}

fn disk_files<S: ReadAt, E: From<CaptureError>>(
    source: &Source<S>,
    disk: &DiskFacts,
    planned: &[Planned],
    give: &mut impl FnMut(&str, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let name = &disk.name;
    let facts: Vec<PartitionFacts> = planned.iter().map(|planned| planned.facts.clone()).collect();
    give(&format!("{name}-pt.sf"), disk.sfdisk(&facts).as_bytes())?;
    give(&format!("{name}-chs.sf"), disk.geometry().as_bytes())?;
    give(&format!("{name}-pt.parted"), disk.parted(&facts).as_bytes())?;
    give(&format!("{name}-mbr"), &read(source, 0, SECTOR)?)?;
    match &disk.table {
        DiskTable::Mbr(table) => gap(source, name, table, give)?,
        DiskTable::Gpt(table) => gpt_files(source, disk, table, give)?,
    }
    for extended in planned.iter().filter(|planned| planned.is_extended()) {
        let record = read(source, extended.start, SECTOR)?;
        give(&format!("{}-ebr", extended.facts.name), &record)?;
    }
    give("disk", format!("{name}\n").as_bytes())
}

/// What lies between the MBR and the first partition: the core of GRUB, among others.
fn gap<S: ReadAt, E: From<CaptureError>>(
    source: &Source<S>,
    name: &str,
    table: &mbr::Table,
    give: &mut impl FnMut(&str, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let first = table.entries.iter().map(|entry| entry.start_lba).min().unwrap_or(1);
    let end = first.saturating_mul(SECTOR as u64).min(MAX_GAP_BYTES);
    match usize::try_from(end.saturating_sub(SECTOR as u64)) {
        Ok(bytes @ 1..) => {
            let gap = read(source, SECTOR as u64, bytes)?;
            give(&format!("{name}-hidden-data-after-mbr"), &gap)
        }
        _ => Ok(()),
    }
}

/// Both copies of the table as they are, and the file of `sgdisk`, for tables of the usual form. The
/// second copy begins a sector late in Clonezilla's own images, and so here.
fn gpt_files<S: ReadAt, E: From<CaptureError>>(
    source: &Source<S>,
    disk: &DiskFacts,
    table: &gpt::Table,
    give: &mut impl FnMut(&str, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let is_usual = table.slots == GPT_SLOTS && disk.sector_bytes as usize == SECTOR;
    if !is_usual {
        return Ok(());
    }
    let (name, sector) = (&disk.name, SECTOR as u64);
    let first = read(source, 0, 2 * SECTOR + GPT_ENTRIES_BYTES)?;
    let second = read(source, disk.sectors.saturating_sub(32) * sector, GPT_ENTRIES_BYTES)?;
    let backup_header = &second[second.len() - SECTOR..];
    let (headers, entries) = first.split_at(2 * SECTOR);
    give(&format!("{name}-gpt-1st"), &first)?;
    give(&format!("{name}-gpt-2nd"), &second)?;
    give(&format!("{name}-gpt.gdisk"), &[headers, backup_header, entries].concat())
}

fn read<S: ReadAt>(source: &Source<S>, offset: u64, bytes: usize) -> Result<Vec<u8>, CaptureError> {
    let mut buffer = vec![0; bytes];
    let failed = |source| CaptureError::Read { what: "the partition table".to_owned(), source };
    source.medium.fill_at(&mut buffer, offset).map_err(failed)?;
    Ok(buffer)
}
