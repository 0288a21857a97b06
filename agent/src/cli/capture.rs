//! A partition, or a whole disk, into a Clonezilla image directory.
//!
//! ```text
//! source (device, table) ─> plan (a map of used blocks each) ─> frames, one file each ─┐
//!                        └─> disk files (table, boot code, gap, swap) ─────────────────┴─> directory
//! ```
//!
//! Only used blocks are read. The frames are those of the controller's store; stock Clonezilla restores
//! the directory, and `metalcast image import` takes it. The directory gets its name when it is complete.

mod directory;
mod disk_files;
mod frames;
mod plan;
mod progress;
mod source;

use super::print;
use crate::task::Cancel;
use anyhow::{Context, bail, ensure};
use clap::Args;
use directory::Directory;
use metalcast_formats::clonezilla::PartitionFacts;
use nix::sys::signal::{SigSet, Signal};
use plan::{Content, Planned};
use progress::Progress;
use source::Source;
use std::{path::PathBuf, sync::Arc, thread};

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
        let source = Source::open(&self.from, self.name.as_deref(), self.force)?;
        let planned = self.plan(&source)?;
        let bytes = planned.iter().map(Planned::bytes).sum();
        let mut directory = Directory::create(&self.to)?;
        let progress = Progress::new(bytes);
        let mut written = 0;
        for partition in &planned {
            written += frames::write(&source, partition, &mut directory, &progress, cancel)
                .with_context(|| format!("saving {}", partition.facts.name))?;
        }
        disk_files::write(&source, &planned, &mut directory)?;
        directory.write_sums()?;
        disk_files::write_log(&source, &planned, &mut directory)?;
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
    fn plan(&self, source: &Source) -> anyhow::Result<Vec<Planned>> {
        let mut planned = Vec::new();
        let mut refused = Vec::new();
        for partition in &source.partitions {
            let content = Content::of(source, partition, self.raw)
                .with_context(|| format!("looking at {}", partition.name))?;
            let planned_one = Planned::new(partition, content);
            for why in planned_one.unclean() {
                refused.push(format!("{}: {why}", partition.name));
            }
            planned.push(planned_one);
        }
        if !refused.is_empty() && !self.force {
            bail!(
                "{}; a restore would have to be repaired, or lack what was written last. Unmount it \
                 properly and check it, or save every block of it with --force",
                refused.join("; ")
            );
        }
        for planned in &mut planned {
            if !planned.unclean().is_empty() {
                tracing::warn!("{} is saved as it is, with every block", planned.facts.name);
                planned.take_every_block();
            }
            print(&planned.to_string());
        }
        let has_data = planned.iter().any(|planned| planned.map().is_some());
        ensure!(has_data, "there is nothing on it that has to be saved");
        Ok(planned)
    }
}

/// What the image's files say of all partitions, those without data included.
fn facts(planned: &[Planned]) -> Vec<PartitionFacts> {
    planned.iter().map(|planned| planned.facts.clone()).collect()
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
