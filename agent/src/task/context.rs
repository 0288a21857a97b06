//! What every step has at hand: the machine, a way to report and a way to be stopped.

use super::Stopped;
use crate::disk::{Device, Tap};
use anyhow::{Context as _, bail};
use metalcast_shared::{
    disk::Disk,
    event::{Progress, Step, TaskEvent},
    hash::Hash,
};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// The machine that tasks work on.
pub struct Machine {
    /// Looks at the disks anew.
    pub disks: Box<dyn Fn() -> anyhow::Result<Vec<Disk>> + Send + Sync>,
    /// Directory of the device nodes, `/dev`.
    pub dev: PathBuf,
    /// Directory with `boot.img`, `mbr-core.img` and `slot-core.img`.
    pub grub: PathBuf,
    /// Directory for mount points and other passing things, in memory.
    pub run_dir: PathBuf,
    /// Sees every write to a disk first.
    pub tap: Option<Box<Tap>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("dev", &self.dev).field("grub", &self.grub).finish()
    }
}

impl Machine {
    /// The machine that this runs on.
    pub fn this(grub: &Path) -> Self {
        Self {
            disks: Box::new(|| Ok(crate::inventory::disks())),
            dev: PathBuf::from("/dev"),
            grub: grub.to_owned(),
            run_dir: PathBuf::from("/run/metalcast"),
            tap: None,
        }
    }

    /// Opens a disk of this machine for writing.
    pub(super) fn open(&self, path: &Path) -> anyhow::Result<Device<'_>> {
        Device::open(path, self.tap.as_deref())
    }
}

/// What a task tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// To be kept.
    Event(TaskEvent),
    /// Only the latest counts.
    Progress(Progress),
}

/// A request to stop, which is heard between steps and between chunks.
#[derive(Debug, Default)]
pub struct Cancel {
    reason: OnceLock<String>,
}

impl Cancel {
    /// Asks the task to stop. The first reason stays.
    pub fn cancel(&self, reason: &str) {
        let _ = self.reason.set(reason.to_owned());
    }

    /// An error if the task is to stop.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.reason.get() {
            Some(reason) => bail!("cancelled: {reason}"),
            None => Ok(()),
        }
    }
}

/// What a task runs with.
pub struct Context<'c> {
    /// The machine.
    pub machine: &'c Machine,
    /// Where reports go. It is called from the task's own thread.
    pub report: &'c (dyn Fn(Report) + Sync),
    /// How the task is stopped.
    pub cancel: &'c Cancel,
    /// How packed files come from the controller, where there is one.
    pub fetch: Option<&'c FetchPacked<'c>>,
    /// How the controller, where there is one, is told what a deploy left.
    pub keep: Option<&'c Keep<'c>>,
}

/// A file that the controller gives out by its hash.
#[derive(Clone, Copy, Debug)]
pub struct PackedFile<'f> {
    /// What it is, for people.
    pub what: &'f str,
    /// Its length, which bounds the memory taken for it.
    pub bytes: u32,
    /// BLAKE3 of it.
    pub hash: Hash,
}

/// Gets a packed file of the length and hash that are wanted.
pub type FetchPacked<'c> = dyn Fn(PackedFile<'_>) -> anyhow::Result<Vec<u8>> + Sync + 'c;

/// Hands over an encoded [`metalcast_shared::as_left::AsLeft`], and waits until it is kept.
pub type Keep<'c> = dyn Fn(&[u8]) -> anyhow::Result<()> + Sync + 'c;

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl Context<'_> {
    pub(super) fn event(&self, event: TaskEvent) {
        (self.report)(Report::Event(event));
    }

    /// What has to be right before the first step.
    pub(super) fn before_steps<T>(
        &self,
        check: impl FnOnce() -> anyhow::Result<T>,
    ) -> Result<T, Stopped> {
        check().map_err(|error| {
            self.event(TaskEvent::Failed { step: None, cause: format!("{error:#}") });
            Stopped
        })
    }
}

/// A step's way to report.
#[derive(Debug)]
pub struct StepLog<'c> {
    context: &'c Context<'c>,
    step: Step,
}

impl<'c> StepLog<'c> {
    pub(super) fn new(context: &'c Context<'c>, step: Step) -> Self {
        Self { context, step }
    }

    /// The machine.
    pub fn machine(&self) -> &'c Machine {
        self.context.machine
    }

    /// Tells what was changed or found, in one line.
    pub fn note(&self, text: impl Into<String>) {
        self.context.event(TaskEvent::StepNote { step: self.step, text: text.into() });
    }

    /// Tells how far the step is.
    pub fn progress(&self, done_bytes: u64, total_bytes: u64, wire_bytes: u64) {
        let progress = Progress { step: self.step, done_bytes, total_bytes, wire_bytes };
        (self.context.report)(Report::Progress(progress));
    }

    /// An error if the task is to stop.
    pub fn check_cancel(&self) -> anyhow::Result<()> {
        self.context.cancel.check()
    }

    /// How the task is stopped.
    pub(super) fn cancel(&self) -> &'c Cancel {
        self.context.cancel
    }

    /// How the controller is told what a deploy left.
    pub(super) fn keep(&self) -> Option<&'c Keep<'c>> {
        self.context.keep
    }

    /// Gets a packed file from the controller.
    pub(super) fn fetch(&self, file: PackedFile<'_>) -> anyhow::Result<Vec<u8>> {
        let fetch = self.context.fetch.context("without a controller there is nobody to ask")?;
        fetch(file)
    }
}
