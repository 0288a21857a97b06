//! What is saved: a disk with its partition table, or one partition, held so that nobody writes to it.

use crate::disk::{self, Device};
use anyhow::{Context, bail, ensure};
use metalcast_formats::{
    clonezilla::{DiskFacts, DiskTable},
    gpt,
    layout::SECTOR_BYTES,
    mbr,
    probe::Kind,
};
use metalcast_sys::block::partition_path;
use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

/// The opened source.
pub(super) struct Source {
    pub(super) device: Device<'static>,
    /// If it is a whole disk.
    pub(super) disk: Option<DiskFacts>,
    /// All of its partitions, or itself.
    pub(super) partitions: Vec<Part>,
}

/// A partition of the source.
pub(super) struct Part {
    pub(super) number: u16,
    /// What it is called in the image.
    pub(super) name: String,
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) is_extended: bool,
}

impl Source {
    /// Opens a device or file; unless forced, it fails while something of it is in use.
    pub(super) fn open(path: &Path, name: Option<&str>, is_forced: bool) -> anyhow::Result<Self> {
        let device = if is_forced { Device::open_to_read(path) } else { hold(path) }?;
        let own_name =
            path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let name = name.map(str::to_owned).or(own_name).context("it has no name; give it one")?;
        ensure!(
            is_device_name(&name),
            "{name:?} cannot be the name of a disk or partition; choose one with --name, such as sda"
        );
        let Some(table) = table(&device, path)? else {
            let part =
                Part { number: 0, name, start: 0, bytes: device.bytes(), is_extended: false };
            return Ok(Self { device, disk: None, partitions: vec![part] });
        };
        let sector_bytes = device.sector_bytes();
        let disk = DiskFacts {
            model: model(path),
            sectors: device.bytes() / u64::from(sector_bytes),
            sector_bytes,
            table,
            name,
        };
        let partitions = parts(&disk);
        Ok(Self { device, disk: Some(disk), partitions })
    }

    /// A partition as a file, through the page cache: for the many small reads of its metadata.
    pub(super) fn cached(&self, part: &Part) -> Cached<'_> {
        Cached { source: self, start: part.start, bytes: part.bytes, at: 0 }
    }
}

/// Letters and digits, as kernel names are; what is not would lead out of the image or be misread.
fn is_device_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

fn hold(path: &Path) -> anyhow::Result<Device<'static>> {
    let device = Device::hold_to_read(path).context(
        "it must not change while it is saved: unmount it, or save what may be half written with --force",
    )?;
    if device.block().is_none()
        && let Some(user) = disk::loop_device_of(path)?
    {
        bail!("{} is in use by {user}; detach that first, or save it with --force", path.display());
    }
    Ok(device)
}

/// The partition table, if it is a disk with one. A partition has none, whatever its first sector
/// resembles.
fn table(device: &Device<'_>, path: &Path) -> anyhow::Result<Option<DiskTable>> {
    let node = path.canonicalize().context("looking at its node")?;
    let sysfs = Path::new("/sys/class/block").join(node.file_name().unwrap_or_default());
    if device.block().is_some() && sysfs.join("partition").exists() {
        return Ok(None);
    }
    let found = device.whole().look()?;
    let (sector, mut file) = (device.sector_bytes(), device.file());
    let sectors = device.bytes() / u64::from(sector);
    if found.find(Kind::Gpt).is_some() {
        return Ok(Some(DiskTable::Gpt(gpt::read(&mut file, sectors, sector)?)));
    }
    if found.find(Kind::Mbr).is_none() {
        return Ok(None);
    }
    ensure!(
        u64::from(sector) == SECTOR_BYTES,
        "MBR tables on sectors of {sector} bytes are not supported"
    );
    let table = mbr::read(&mut file, sectors).context("reading the partition table")?;
    ensure!(!table.is_gpt_protective(), "its GUID partition table is gone, only its guard is left");
    Ok(Some(DiskTable::Mbr(table)))
}

fn parts(disk: &DiskFacts) -> Vec<Part> {
    let part = |number: u16, start: u64, sectors: u64, is_extended| Part {
        number,
        name: partition_path(Path::new(&disk.name), u32::from(number)).display().to_string(),
        start: start * u64::from(disk.sector_bytes),
        bytes: sectors * u64::from(disk.sector_bytes),
        is_extended,
    };
    match &disk.table {
        DiskTable::Mbr(table) => table
            .entries
            .iter()
            .map(|entry| part(entry.number, entry.start_lba, entry.sectors, entry.is_extended()))
            .collect(),
        DiskTable::Gpt(table) => table
            .entries
            .iter()
            .map(|entry| part(entry.number, entry.start_lba, entry.sectors, false))
            .collect(),
    }
}

fn model(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    let file = Path::new("/sys/class/block").join(name).join("device/model");
    fs::read_to_string(file).map_or_else(|_| "Unknown".to_owned(), |text| text.trim().to_owned())
}

/// A partition as a file.
pub(super) struct Cached<'s> {
    source: &'s Source,
    start: u64,
    bytes: u64,
    at: u64,
}

impl Read for Cached<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.saturating_sub(self.at);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let file = self.source.device.file();
        let read = file.read_at(&mut buffer[..length], self.start + self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Cached<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
