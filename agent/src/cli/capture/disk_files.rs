//! The small files beside the partitions' data: what Clonezilla restores table, boot code and swap from.

use super::{directory::Directory, facts, plan::Planned, source::Source};
use anyhow::Context;
use jiff::Timestamp;
use metalcast_formats::{
    clonezilla::{DiskFacts, DiskTable},
    gpt, mbr,
};

const SECTOR: usize = metalcast_formats::layout::SECTOR_BYTES as usize;

/// Most of the gap behind the MBR that is saved: boot loaders use less than a MiB of it, and what a disk
/// of another time has there is no boot loader.
const MAX_GAP_BYTES: u64 = 16 << 20;

/// The tables that `sgdisk --backup` writes: headers of one sector, 128 entries.
const GPT_SLOTS: u32 = 128;
const GPT_ENTRIES_BYTES: usize = 32 * SECTOR;

/// What stands before the list of filesystems; Clonezilla skips two lines.
const DEV_FS_HEAD: &str = "# <Device name>   <File system>   <Size>\n\
     # File system is what Metalcast recognised. It might be different from that of blkid or parted.\n";

/// Writes all that the checksums list, in Clonezilla's order.
pub(super) fn write(
    source: &Source,
    planned: &[Planned],
    directory: &mut Directory,
) -> anyhow::Result<()> {
    directory.file("dev-fs.list", dev_fs(planned).as_bytes())?;
    directory.file("blkid.list", blkid(source, planned).as_bytes())?;
    if let Some(disk) = &source.disk {
        write_disk(source, disk, planned, directory)?;
    }
    let parts: Vec<&str> = planned
        .iter()
        .filter(|planned| planned.map().is_some())
        .map(|planned| planned.facts.name.as_str())
        .collect();
    directory.file("parts", format!("{}\n", parts.join(" ")).as_bytes())?;
    for swap in planned.iter().filter(|planned| planned.is_swap()) {
        directory.file(&format!("swappt-{}.info", swap.facts.name), swap_ids(swap).as_bytes())?;
    }
    Ok(())
}

fn write_disk(
    source: &Source,
    disk: &DiskFacts,
    planned: &[Planned],
    directory: &mut Directory,
) -> anyhow::Result<()> {
    let (name, facts) = (&disk.name, facts(planned));
    directory.file(&format!("{name}-pt.sf"), disk.sfdisk(&facts).as_bytes())?;
    directory.file(&format!("{name}-chs.sf"), disk.geometry().as_bytes())?;
    directory.file(&format!("{name}-pt.parted"), disk.parted(&facts).as_bytes())?;
    directory.file(&format!("{name}-mbr"), &read(source, 0, SECTOR)?)?;
    match &disk.table {
        DiskTable::Mbr(table) => write_gap(source, name, table, directory)?,
        DiskTable::Gpt(table) => write_gpt(source, disk, table, directory)?,
    }
    for extended in planned.iter().filter(|planned| planned.is_extended()) {
        let record = read(source, extended.start, SECTOR)?;
        directory.file(&format!("{}-ebr", extended.facts.name), &record)?;
    }
    directory.file("disk", format!("{name}\n").as_bytes())
}

/// What lies between the MBR and the first partition: the core of GRUB, among others.
fn write_gap(
    source: &Source,
    name: &str,
    table: &mbr::Table,
    directory: &mut Directory,
) -> anyhow::Result<()> {
    let first = table.entries.iter().map(|entry| entry.start_lba).min().unwrap_or(1);
    let end = first.saturating_mul(SECTOR as u64).min(MAX_GAP_BYTES);
    match usize::try_from(end.saturating_sub(SECTOR as u64)) {
        Ok(bytes @ 1..) => {
            let gap = read(source, SECTOR as u64, bytes)?;
            directory.file(&format!("{name}-hidden-data-after-mbr"), &gap)
        }
        _ => Ok(()),
    }
}

/// Both copies of the table as they are, and the file of `sgdisk`, for tables of the usual form. The
/// second copy begins a sector late in Clonezilla's own images, and so here.
fn write_gpt(
    source: &Source,
    disk: &DiskFacts,
    table: &gpt::Table,
    directory: &mut Directory,
) -> anyhow::Result<()> {
    let is_usual = table.slots == GPT_SLOTS && disk.sector_bytes as usize == SECTOR;
    if !is_usual {
        return Ok(());
    }
    let (name, sector) = (&disk.name, SECTOR as u64);
    let first = read(source, 0, 2 * SECTOR + GPT_ENTRIES_BYTES)?;
    let second = read(source, (disk.sectors - 32) * sector, GPT_ENTRIES_BYTES)?;
    let backup_header = &second[second.len() - SECTOR..];
    let (headers, entries) = first.split_at(2 * SECTOR);
    directory.file(&format!("{name}-gpt-1st"), &first)?;
    directory.file(&format!("{name}-gpt-2nd"), &second)?;
    directory.file(&format!("{name}-gpt.gdisk"), &[headers, backup_header, entries].concat())
}

/// What comes after the checksums: Clonezilla shows and does not verify it.
pub(super) fn write_log(
    source: &Source,
    planned: &[Planned],
    directory: &mut Directory,
) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let what: String = planned.iter().map(|planned| format!("{planned}\n")).collect();
    let log = format!(
        "This image was saved by Metalcast {} at {} UTC from {}.\n{what}### End of log ###\n\
         ### Image created time: {}\n",
        env!("CARGO_PKG_VERSION"),
        now.strftime("%Y-%m-%d %H:%M:%S"),
        source.device.path().display(),
        now.strftime("%Y-%m%d-%H%M"),
    );
    directory.file("clonezilla-img", log.as_bytes())
}

fn read(source: &Source, offset: u64, bytes: usize) -> anyhow::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    source.device.whole().read_at(&mut buffer, offset).context("reading the partition table")?;
    Ok(buffer)
}

fn dev_fs(planned: &[Planned]) -> String {
    let row = |planned: &Planned| {
        let filesystem = match planned.map() {
            Some(map) if map.program != "dd" => map.program,
            _ => planned.found.as_ref().map_or("", |found| found.kind.name()),
        };
        let size = size(planned.bytes_of_partition);
        format!("/dev/{} {filesystem} {size}\n", planned.facts.name)
    };
    let data = planned.iter().filter(|planned| planned.map().is_some()).map(row);
    let swap = planned.iter().filter(|planned| planned.is_swap()).map(row);
    data.chain(swap).fold(DEV_FS_HEAD.to_owned(), |text, row| text + &row)
}

fn blkid(source: &Source, planned: &[Planned]) -> String {
    let mut text = String::new();
    for planned in planned {
        let mut words = Vec::new();
        if let Some(found) = &planned.found {
            let label = found.label.as_ref().map(|label| ("LABEL", label.clone()));
            let uuid = found.uuid.as_ref().map(|uuid| ("UUID", uuid.clone()));
            words.extend(label.into_iter().chain(uuid));
            words.push(("TYPE", found.kind.name().to_owned()));
        }
        words.extend(partuuid(source, planned.facts.number).map(|uuid| ("PARTUUID", uuid)));
        let words: String = words.iter().map(|(key, value)| format!(" {key}={value:?}")).collect();
        text.push_str(&format!("/dev/{}:{words}\n", planned.facts.name));
    }
    text
}

fn partuuid(source: &Source, number: u16) -> Option<String> {
    match &source.disk.as_ref()?.table {
        DiskTable::Mbr(table) => Some(table.partuuid(number)),
        DiskTable::Gpt(table) => {
            Some(table.entries.iter().find(|entry| entry.number == number)?.guid.to_string())
        }
    }
}

/// What `mkswap` is given again.
fn swap_ids(swap: &Planned) -> String {
    let Some(found) = &swap.found else { return String::new() };
    let line = |key: &str, value: &Option<String>| {
        value.as_ref().map_or(String::new(), |value| format!("{key}=\"{value}\"\n"))
    };
    line("UUID", &found.uuid) + &line("LABEL", &found.label)
}

/// A size as `lsblk` prints it.
fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit < 5 {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.1}");
    format!("{}{}", text.strip_suffix(".0").unwrap_or(&text), ["B", "K", "M", "G", "T", "P"][unit])
}
