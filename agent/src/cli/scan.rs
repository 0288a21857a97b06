//! Looking, without touching.

use super::print;
use crate::{disk, inventory};
use anyhow::Context;
use metalcast_formats::{layout::SECTOR_BYTES, mbr, probe};
use std::{
    fs::File,
    io::{Seek, SeekFrom},
    path::Path,
};

pub(super) fn scan() -> anyhow::Result<()> {
    let inventory = inventory::collect(|_| true);
    print(&serde_json::to_string_pretty(&inventory).context("writing the inventory")?);
    Ok(())
}

/// Also what is in the partitions, from the table itself: a file has no device nodes for them.
pub(super) fn probe(device: &Path) -> anyhow::Result<()> {
    print(&disk::look_at(device)?.to_string());
    let mut file = File::open(device)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    let Ok(table) = mbr::read(&mut file, bytes / SECTOR_BYTES) else { return Ok(()) };
    for entry in table.entries.iter().filter(|entry| !entry.is_extended()) {
        let (start, bytes) = (entry.start_lba * SECTOR_BYTES, entry.sectors * SECTOR_BYTES);
        let found = probe::probe(&mut file, start, bytes)?;
        print(&format!("partition {} ({bytes} bytes at {start}): {found}", entry.number));
    }
    Ok(())
}
