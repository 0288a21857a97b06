//! A partition, or a whole disk, into a Clonezilla image directory.
//!
//! ```text
//! source ─> plan (a map of used blocks each) ─> frames, one file each ─┐
//!        └─> side files (table, boot code, gap, swap) ─────────────────┴─> directory
//! ```
//!
//! Only used blocks are read. The frames are those of the controller's store; stock Clonezilla restores
//! the directory, and `metalcast image import` takes it. The directory gets its name when it is complete.

mod directory;
mod progress;

use super::print;
use crate::{
    capture::{open, plan, seal},
    disk::Device,
    task::Cancel,
};
use anyhow::Context;
use clap::Args;
use directory::Directory;
use jiff::Timestamp;
use metalcast_formats::capture::{Planned, Source, log, side_files};
use nix::sys::signal::{SigSet, Signal};
use progress::Progress;
use std::{io::Write, path::PathBuf, sync::Arc, thread};

/// Arguments of `capture`.
#[derive(Debug, Args)]
pub(super) struct Capture {
    /// The disk, partition or file that is saved; it is only read
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
    /// The image's directory, which must not exist yet
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// What disk or partition is called in the image, such as sda or sda1, instead of its own name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Save what is in use, or was not unmounted properly: every block of it, for its own records of
    /// what is used are not to be trusted. What is written to meanwhile may be saved half
    #[arg(long)]
    force: bool,
    /// Save every block as it is, whatever is in it
    #[arg(long)]
    raw: bool,
}

impl Capture {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let cancel = stopped_by_signals()?;
        self.capture(&cancel).with_context(|| format!("saving {}", self.from.display()))
    }

    fn capture(&self, cancel: &Cancel) -> anyhow::Result<()> {
        let source = open(&self.from, self.name.as_deref(), self.force)?;
        let planned = self.plan(&source)?;
        let bytes = planned.iter().map(Planned::bytes).sum();
        let mut directory = Directory::create(&self.to)?;
        let progress = Progress::new(bytes);
        let mut written = 0;
        for partition in &planned {
            written += write(&source, partition, &mut directory, &progress, cancel)
                .with_context(|| format!("saving {}", partition.facts.name))?;
        }
        side_files(&source, &planned, |name, content| directory.file(name, content))?;
        directory.write_sums()?;
        let from = source.medium.path().display().to_string();
        let log = log(&planned, &from, Timestamp::now());
        directory.file("clonezilla-img", log.as_bytes())?;
        cancel.check()?;
        directory.publish()?;
        print(&format!(
            "{} is complete: {bytes} bytes of used blocks in {written}, {}",
            self.to.display(),
            progress.rate()
        ));
        Ok(())
    }

    /// What is saved of each partition, shown before anything is written.
    fn plan(&self, source: &Source<Device<'_>>) -> anyhow::Result<Vec<Planned>> {
        let planned = plan(source, self.raw, self.force)?;
        for planned in &planned {
            if !planned.unclean().is_empty() {
                tracing::warn!("{} is saved as it is, with every block", planned.facts.name);
            }
            print(&planned.to_string());
        }
        Ok(planned)
    }
}

/// Saves the data of a partition. Returns the length of its file, 0 if it needs none.
fn write(
    source: &Source<Device<'_>>,
    planned: &Planned,
    directory: &mut Directory,
    progress: &Progress,
    cancel: &Cancel,
) -> anyhow::Result<u64> {
    let (Some(map), Some(file)) = (planned.map(), planned.file_name()) else { return Ok(0) };
    let mut output = directory.create_file(&file)?;
    planned.write_head(&mut output).context("writing the image's head")?;
    seal(source, planned, cancel, |sealed| {
        output.write_all(&sealed.frame).context("writing the image")?;
        let bytes = u64::from(sealed.chunk.blocks()) * u64::from(map.block_bytes);
        progress.add(&planned.facts.name, bytes);
        Ok(())
    })?;
    let bytes = output.bytes();
    directory.finish(output)?;
    Ok(bytes)
}

/// Turns the signals that end a program into a request to stop, so that what is unfinished is deleted.
fn stopped_by_signals() -> anyhow::Result<Arc<Cancel>> {
    let cancel = Arc::new(Cancel::default());
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    // Threads that are started from here on inherit this.
    signals.thread_block().context("holding back signals")?;
    let told = cancel.clone();
    thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            told.cancel(&format!("by {signal}"));
        }
    });
    Ok(cancel)
}
