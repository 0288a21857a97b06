//! Deployments by hand: the stages of the shipped agent, one command after the other, on a disk file and without a
//! network. So a machine finds a system on its disk without an emulated deployment before.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::Shipped;
use crate::lab::Lab;
use crate::loopdev::LoopDisk;
use crate::process::run;
use crate::rig::{Artefacts, Rig};

/// What an operator has beside a disk: the agent, its boot loaders, and the controller's layouts.
#[derive(Debug)]
pub struct ByHand {
    shipped: Shipped,
    layouts: PathBuf,
}

impl ByHand {
    /// Takes the agent out of the RAM image and asks the controller for its layouts.
    ///
    /// # Errors
    /// When one of both cannot be had.
    pub fn new(lab: &Lab, artefacts: &Artefacts, rig: &Rig) -> Result<Self> {
        let layouts = lab.dir().join("layouts.toml");
        std::fs::write(&layouts, rig.shown_configuration()?).context("writing the layouts")?;
        Ok(Self { shipped: Shipped::of(artefacts, lab.dir())?, layouts })
    }

    /// Makes the first partition of an image directory the system of a slot, which the disk starts from then on. The
    /// file's name must be unlike that of every other loop device: it is the disk's serial number.
    ///
    /// # Errors
    /// When a stage fails, with what it said.
    pub fn deploy(&self, file: &Path, slot: u16, image: &Path, hostname: &str) -> Result<()> {
        let disk = LoopDisk::attach(file)?;
        let serial = file.file_name().context("the disk file has no name")?;
        let bytes = file.metadata().context("sizing the disk file")?.len().to_string();
        let slot = slot.to_string();
        let of_slot = ["--slot", slot.as_str()];
        let of_image = ["--image", image.to_str().context("no text")?, "--partition", "sda1"];
        let loaders = self.shipped.loaders();
        let loaders = ["--loaders", loaders.to_str().context("no text")?];
        for (stage, options) in [
            ("partition", vec![]),
            ("format", vec![]),
            ("clear", [&of_slot[..], &of_image].concat()),
            ("fill", [&of_slot[..], &of_image].concat()),
            ("fix-up", [&of_slot[..], &["--hostname", hostname]].concat()),
            ("boot-code", [&of_slot[..], &loaders].concat()),
            ("activate", of_slot.to_vec()),
        ] {
            let mut command = Command::new(self.shipped.agent());
            command.arg(stage).arg("--serial").arg(serial).args(["--bytes", &bytes]);
            command.arg("--layout").arg(&self.layouts).args(options);
            run(&mut command).with_context(|| format!("{stage} on {}", disk.path().display()))?;
        }
        Ok(())
    }
}
