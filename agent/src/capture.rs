//! Saving a disk or partition: what is opened and how, and read from the disk itself.
//!
//! What is saved of it and in what form is `metalcast_formats::capture`'s business; where it goes, that of
//! its users.

use crate::{disk::Device, task::Cancel};
use anyhow::{Context, bail};
use metalcast_formats::{
    capture::{self, Blocks, CaptureError, Planned, Source, SourceFacts},
    chunk::Sealed,
};
use metalcast_sys::{block::BlockDevice, loopdev::device_of};
use std::{fs, path::Path};

/// Threads that compress: with the one that reads they keep two processors busy, and each costs a few
/// MiB of memory.
pub const SEALERS: usize = 2;

/// Opens a disk, partition or file, called `name` in the image or else by its own name. Nobody may use it
/// meanwhile, unless that is forced.
pub fn open(
    path: &Path,
    name: Option<&str>,
    is_forced: bool,
) -> anyhow::Result<Source<Device<'static>>> {
    let device = if is_forced { Device::open_to_read(path) } else { hold(path) }?;
    let node = path.canonicalize().context("looking at its node")?;
    let own_name = node.file_name().and_then(|name| name.to_str());
    let name = name.or(own_name).context("it has no name; give it one with --name")?.to_owned();
    let facts = SourceFacts {
        name,
        model: model(path),
        bytes: device.bytes(),
        sector_bytes: device.sector_bytes(),
        is_partition: device.block().is_some_and(BlockDevice::is_partition),
    };
    Source::read(device, facts).map_err(|error| match error {
        CaptureError::Name(_) => anyhow::anyhow!("{error}; choose one with --name"),
        error => error.into(),
    })
}

/// What is saved of each partition: every block if `is_raw`; of what was not unmounted properly too, if
/// that `is_forced`.
pub fn plan(
    source: &Source<Device<'_>>,
    is_raw: bool,
    is_forced: bool,
) -> anyhow::Result<Vec<Planned>> {
    let blocks = match (is_raw, is_forced) {
        (true, _) => Blocks::Every,
        (false, true) => Blocks::UsedOrUnclean,
        (false, false) => Blocks::Used,
    };
    capture::plan(source, blocks).map_err(|error| match error {
        CaptureError::Unclean(_) => anyhow::anyhow!(
            "{error}. Unmount it properly and check it, or save every block of it with --force"
        ),
        CaptureError::Used { .. } => {
            anyhow::Error::from(error).context("with --raw every block is saved, whatever is in it")
        }
        error => error.into(),
    })
}

/// Reads the used blocks of a partition from the disk itself; see [`capture::seal`].
pub fn seal(
    source: &Source<Device<'_>>,
    planned: &Planned,
    cancel: &Cancel,
    take: impl FnMut(Sealed) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    seal_from(0, source, planned, cancel, take)
}

/// The same without the first `skipped` chunks, which are not read.
pub fn seal_from(
    skipped: u32,
    source: &Source<Device<'_>>,
    planned: &Planned,
    cancel: &Cancel,
    take: impl FnMut(Sealed) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let window = source.medium.window(planned.start, planned.bytes_of_partition)?;
    capture::seal_from(skipped, window.reader(), planned, SEALERS, || cancel.check(), take)
        .map_err(|error: anyhow::Error| match error.downcast_ref() {
            Some(CaptureError::Unreadable { .. }) => error.context(
                "the disk is failing; nothing was put in place of what is lost, and no image is left",
            ),
            _ => error,
        })
}

fn hold(path: &Path) -> anyhow::Result<Device<'static>> {
    let device = Device::hold_to_read(path).context(
        "it must not change while it is saved: unmount it, or save what may be half written with --force",
    )?;
    if device.block().is_none()
        && let Some(user) = device_of(path)?
    {
        bail!("{} is in use by {user}; detach that first, or save it with --force", path.display());
    }
    Ok(device)
}

fn model(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    let file = Path::new("/sys/class/block").join(name).join("device/model");
    fs::read_to_string(file).map_or_else(|_| "Unknown".to_owned(), |text| text.trim().to_owned())
}
