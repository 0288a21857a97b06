//! Whether a partition or file holds what an image has in it.

use super::{image::ImageArgs, print};
use crate::disk::Device;
use anyhow::{bail, ensure};
use clap::Args;
use metalcast_shared::hash::Hash;
use std::path::PathBuf;

/// Differing ranges that are named; more are only counted.
const NAMED: usize = 8;

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    image: ImageArgs,
    /// The partition or file that is compared; it is only read
    #[arg(long, value_name = "PATH")]
    with: PathBuf,
}

impl Verify {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let image = self.image.open()?;
        let with = self.with.display();
        let device = Device::open_to_read(&self.with)?;
        ensure!(
            device.bytes() >= image.device_bytes,
            "{with} has {} bytes, the image needs {}",
            device.bytes(),
            image.device_bytes
        );
        let (name, partition) = (image.name.clone(), &self.image.partition);
        let (mut bytes, mut ranges, mut wrong) = (0, 0u64, Vec::new());
        image.each(|piece| {
            ranges += 1;
            bytes += piece.data.len() as u64;
            if device.whole().hash(piece.extents())? != Hash::of(&piece.data) {
                wrong.push(piece.start);
            }
            Ok(())
        })?;
        if wrong.is_empty() {
            print(&format!("{with} holds all {bytes} bytes of {partition} of {name}"));
            return Ok(());
        }
        let first: Vec<String> = wrong.iter().take(NAMED).map(u64::to_string).collect();
        bail!(
            "{} of {ranges} ranges of {with} differ from {partition} of {name}, from bytes {}{} on",
            wrong.len(),
            first.join(", "),
            if wrong.len() > NAMED { ", ..." } else { "" }
        );
    }
}
