//! One partition of an image onto a partition or into a file, as it is.

use super::{
    Leave,
    image::ImageArgs,
    loss, print,
    writer::{self, ReadBack},
};
use crate::disk::{self, Device};
use anyhow::{Context, ensure};
use clap::Args;
use metalcast_formats::probe::Contents;
use metalcast_sys::loopdev;
use std::{
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub(super) struct Restore {
    #[command(flatten)]
    image: ImageArgs,
    /// The partition that is written over, or a file, which is made if there is none
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// Read everything back and compare
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    leave: Leave,
}

impl Restore {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let image = self.image.open()?;
        let needed = image.device_bytes;
        let to = self.to.display();
        let target = Existing::of(&self.to)?;
        loss::show_node(&self.to);
        let found = target.found()?;
        print(&format!("{to} is written over; it holds: {found}"));
        if self.leave.dry_run {
            return Ok(());
        }
        ensure!(
            found == Contents::Blank || self.leave.yes,
            "{to} is not blank but holds: {found}; with --yes it is written over"
        );
        let device = target.open(needed)?;
        ensure!(
            device.bytes() >= needed,
            "{to} has {} bytes, the image needs {needed}",
            device.bytes()
        );
        let read_back = if self.verify { ReadBack::Compare } else { ReadBack::Skip };
        let bytes = writer::write(image, &device, device.whole(), read_back, &|_| ())
            .with_context(|| format!("restoring to {to}"))?;
        tracing::info!("{bytes} bytes written to {to}");
        if self.verify {
            tracing::info!("read back and compared: as written");
        }
        Ok(())
    }
}

/// What is to be written over, as it is before anything is done to it.
enum Existing {
    /// Held, so that nobody begins to use it.
    Block(Device<'static>),
    File(PathBuf),
    Nothing(PathBuf),
}

impl Existing {
    /// Fails if it is in use.
    fn of(path: &Path) -> anyhow::Result<Self> {
        if !path.try_exists().with_context(|| format!("looking at {}", path.display()))? {
            return Ok(Self::Nothing(path.to_owned()));
        }
        if path.metadata()?.file_type().is_block_device() {
            return Ok(Self::Block(Device::open(path, None)?));
        }
        if let Some(user) = loopdev::device_of(path)? {
            anyhow::bail!("{} is in use by {user}; detach that first", path.display());
        }
        Ok(Self::File(path.to_owned()))
    }

    fn found(&self) -> anyhow::Result<Contents> {
        match self {
            Self::Block(device) => device.whole().look(),
            Self::File(path) => disk::look_at(path),
            Self::Nothing(_) => Ok(Contents::Blank),
        }
    }

    fn open(self, bytes: u64) -> anyhow::Result<Device<'static>> {
        match self {
            Self::Block(device) => Ok(device),
            Self::File(path) | Self::Nothing(path) => Device::open_file(&path, bytes),
        }
    }
}
