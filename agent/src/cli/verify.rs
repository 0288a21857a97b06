//! Whether a partition or file holds what an image has in it.

use super::{
    image::{ImageArgs, Piece},
    print,
};
use crate::disk::Device;
use anyhow::{bail, ensure};
use clap::Args;
use metalcast_shared::hash::Hash;
use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

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

/// What came of it so far.
#[derive(Default)]
struct Compared {
    bytes: usize,
    ranges: u64,
    /// First bytes of the ranges that differ.
    wrong: Vec<u64>,
}

impl Compared {
    fn add(&mut self, piece: &Piece, is_same: bool) {
        self.bytes += piece.data.len();
        self.ranges += 1;
        if !is_same {
            self.wrong.push(piece.start);
        }
    }
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
        let compared = Mutex::new(Compared::default());
        image.each(|piece| {
            let is_same = device.whole().hash(piece.extents())? == Hash::of(&piece.data);
            compared.lock().unwrap_or_else(PoisonError::into_inner).add(&piece, is_same);
            Ok(())
        })?;
        let compared = compared.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Compared { bytes, ranges, mut wrong } = compared;
        wrong.sort_unstable();
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
