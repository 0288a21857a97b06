//! The last of step `boot-code`: what lies between MBR and first partition, and when that is on the disk
//! the code that starts it.

use super::{DiskImage, DiskTarget};
use crate::{
    disk::Device,
    task::{DiskSource, StepLog},
};
use anyhow::{Context, ensure};
use metalcast_formats::{layout::SECTOR_BYTES, whole_disk::Role};
use metalcast_shared::{hash::Hash, whole_disk::SideFile};

pub(super) fn run(
    image: &DiskImage<'_>,
    target: &DiskTarget<'_>,
    source: &dyn DiskSource,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let boot = &image.whole.boot;
    let gap = boot.gap.as_ref().map(|file| fetch(file, source)).transpose()?;
    let device = target.spread.disk.open(log)?;
    if let Some(gap) = &gap {
        put(&device, gap, SECTOR_BYTES)?;
        log.note(format!("{} bytes behind the MBR written", gap.len()));
    }
    let frame = target.plan.partitions.iter().find(|extent| extent.role == Role::Extended);
    if let Some(frame) = frame.filter(|_| !boot.extended.is_empty()) {
        put(&device, &boot.extended, frame.start_bytes)?;
        log.note(format!("boot code of extended partition {} written", frame.number));
    }
    match &boot.mbr[..] {
        [] => log.note("the image has no boot code in its MBR; only UEFI can start it"),
        code => {
            put(&device, code, 0)?;
            log.note("the disk can be started");
        }
    }
    Ok(())
}

fn fetch(file: &SideFile, source: &dyn DiskSource) -> anyhow::Result<Vec<u8>> {
    let SideFile { name, bytes, hash } = file;
    let content = source.side_file(file).with_context(|| format!("fetching {name}"))?;
    ensure!(
        content.len() == *bytes as usize && Hash::of(&content) == *hash,
        "{name} is not what the controller said it is"
    );
    Ok(content)
}

/// Writes and reads back, on stable storage.
fn put(device: &Device<'_>, bytes: &[u8], offset: u64) -> anyhow::Result<()> {
    let whole = device.whole();
    whole.write_at(bytes, offset)?;
    device.flush()?;
    device.drop_caches()?;
    let mut back = vec![0; bytes.len()];
    whole.read_at(&mut back, offset)?;
    ensure!(back == bytes, "{} bytes at {offset} read back differently", bytes.len());
    Ok(())
}
