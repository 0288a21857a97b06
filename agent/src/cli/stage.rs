//! The stages of a deploy that change a disk with slots. The disk is named by what it is, never by a
//! name under `/dev`.

use super::{
    Leave,
    image::ImageArgs,
    layout, loss, print,
    writer::{self, ReadBack},
};
use crate::{
    console::StepConsole,
    disk::SlotRecord,
    task::{
        Cancel, Context, Machine, SlotAddress,
        by_hand::{self, Stage},
    },
};
use anyhow::{Context as _, anyhow, ensure};
use clap::Args;
use metalcast_shared::{
    disk::DiskSelector,
    fix_up::{Adaptation, AuthorizedKey, FixUpStep, KernelArg},
    layout::Layout,
    to_agent::{FixUp, Overwrite},
};
use std::path::PathBuf;

/// Which disk, and how it is divided.
#[derive(Debug, Args)]
pub(super) struct DiskArgs {
    /// Serial number of the disk, as `scan` shows it
    #[arg(long, required_unless_present = "wwn")]
    serial: Option<String>,
    /// World wide name of the disk, instead of its serial number or beside it
    #[arg(long)]
    wwn: Option<String>,
    /// Size of the disk in bytes, as `scan` shows it
    #[arg(long)]
    bytes: u64,
    /// Layout of the disk: the controller's configuration, or a file with its `[[layouts]]`
    #[arg(long, value_name = "FILE")]
    layout: PathBuf,
    /// Which of the layouts in the file, if there are several
    #[arg(long, value_name = "NAME")]
    layout_name: Option<String>,
}

/// Which slot of which disk.
#[derive(Debug, Args)]
pub(super) struct SlotArgs {
    #[command(flatten)]
    disk: DiskArgs,
    /// Number of the slot, which is its partition number; the first is 5
    #[arg(long, value_name = "NUMBER")]
    slot: u16,
}

/// How the system in a slot is adapted.
#[derive(Debug, Args)]
pub(super) struct FixUpArgs {
    /// Host name that the system gets
    #[arg(long, value_name = "NAME")]
    hostname: String,
    /// Steps to leave out, such as hostname,ssh-host-keys
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    without: Vec<FixUpStep>,
    /// File with public keys that may log in as root
    #[arg(long, value_name = "FILE")]
    authorized_keys: Option<PathBuf>,
    /// Word to add to the kernel's command line, such as console=ttyS0,115200
    #[arg(long = "kernel-arg", value_name = "WORD")]
    kernel_args: Vec<KernelArg>,
}

impl FixUpArgs {
    fn wanted(&self) -> anyhow::Result<FixUp> {
        let authorized_keys = match &self.authorized_keys {
            None => Vec::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(anyhow::Error::from)
                .and_then(|text| Ok(AuthorizedKey::all_of(&text)?))
                .with_context(|| format!("reading {}", path.display()))?,
        };
        let (without, kernel_args) = (self.without.clone(), self.kernel_args.clone());
        let adaptation = Adaptation { without, authorized_keys, kernel_args, post_install: None };
        Ok(FixUp { hostname: self.hostname.clone(), report: None, adaptation })
    }
}

/// A disk or slot that was asked for.
struct Wanted {
    disk: DiskSelector,
    layout: Layout,
    slot: u16,
}

impl DiskArgs {
    fn wanted(&self, slot: u16) -> anyhow::Result<Wanted> {
        let layout = layout::read(&self.layout, self.layout_name.as_deref())?;
        let (serial, wwn) = (self.serial.clone(), self.wwn.clone());
        Ok(Wanted { disk: DiskSelector { serial, wwn, bytes: self.bytes }, layout, slot })
    }

    /// Some slot, for stages that concern none: this one is in every layout.
    fn any_slot(&self) -> anyhow::Result<Wanted> {
        self.wanted(Layout::FIRST_SLOT)
    }
}

impl Wanted {
    fn address(&self) -> SlotAddress<'_> {
        SlotAddress { disk: &self.disk, layout: &self.layout, slot: self.slot }
    }
}

pub(super) fn partition(disk: &DiskArgs, leave: &Leave, machine: &Machine) -> anyhow::Result<()> {
    destroy(Stage::Partition, &disk.any_slot()?, Overwrite::WholeDisk, leave, machine)
}

pub(super) fn format(disk: &DiskArgs, leave: &Leave, machine: &Machine) -> anyhow::Result<()> {
    destroy(Stage::Format, &disk.any_slot()?, Overwrite::WholeDisk, leave, machine)
}

pub(super) fn clear(
    slot: &SlotArgs,
    image: &ImageArgs,
    leave: &Leave,
    machine: &Machine,
) -> anyhow::Result<()> {
    let opened = image.open()?;
    let content = SlotRecord { image: opened.name, partition: image.partition.clone() };
    let stage = Stage::Clear { content: &content, needed_bytes: opened.device_bytes };
    destroy(stage, &slot.disk.wanted(slot.slot)?, Overwrite::AnySlot, leave, machine)
}

pub(super) fn fill(slot: &SlotArgs, image: &ImageArgs, machine: &Machine) -> anyhow::Result<()> {
    let image = image.open()?;
    let wanted = slot.disk.wanted(slot.slot)?;
    let (filesystem, needed) = (image.filesystem.clone(), image.device_bytes);
    with_context(machine, |context| {
        by_hand::fill(wanted.address(), &filesystem, needed, context, |device, slot, blank| {
            let bytes = writer::write(image, device, slot, ReadBack::Compare, blank)?;
            tracing::info!("{bytes} bytes written and read back, boot code left blank");
            Ok(())
        })
    })
}

pub(super) fn fix_up(slot: &SlotArgs, args: &FixUpArgs, machine: &Machine) -> anyhow::Result<()> {
    change(Stage::FixUp(&args.wanted()?), slot, machine)
}

pub(super) fn grow(slot: &SlotArgs, machine: &Machine) -> anyhow::Result<()> {
    change(Stage::Grow, slot, machine)
}

pub(super) fn boot_code(slot: &SlotArgs, machine: &Machine) -> anyhow::Result<()> {
    change(Stage::BootCode, slot, machine)
}

pub(super) fn activate(slot: &SlotArgs, machine: &Machine) -> anyhow::Result<()> {
    change(Stage::Activate, slot, machine)
}

/// A stage that loses nothing.
fn change(stage: Stage<'_>, slot: &SlotArgs, machine: &Machine) -> anyhow::Result<()> {
    let wanted = slot.disk.wanted(slot.slot)?;
    with_context(machine, |context| {
        let ready = by_hand::check(stage, wanted.address(), Overwrite::BlankOnly, context)?;
        print(&ready.plan());
        ready.take(context)
    })
}

/// A stage that may lose something: what, is shown first, and without leave it is not done.
fn destroy(
    stage: Stage<'_>,
    wanted: &Wanted,
    with_leave: Overwrite,
    leave: &Leave,
    machine: &Machine,
) -> anyhow::Result<()> {
    let check = |overwrite, context: &Context<'_>| {
        by_hand::check(stage, wanted.address(), overwrite, context)
    };
    with_context(machine, |context| {
        let ready = check(with_leave, context)?;
        let disks = (machine.disks)()?;
        let disk = wanted.disk.select(&disks)?;
        print(&format!("{disk}: {}", ready.plan()));
        let contents = loss::contents(&disk.name);
        for content in contents.iter().filter(|content| ready.loses(content.partition)) {
            print(&format!("lost: {content}"));
        }
        if leave.dry_run {
            return Ok(());
        }
        if leave.yes {
            return ready.take(context);
        }
        let quiet = Context { report: &|_| (), ..*context };
        let ready = check(Overwrite::BlankOnly, &quiet)
            .map_err(|error| anyhow!("{error:#}; with --yes it is done all the same"))?;
        ready.take(context)
    })
}

fn with_context(
    machine: &Machine,
    run: impl FnOnce(&Context<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "this needs the rights of root");
    let (console, cancel) = (StepConsole::default(), Cancel::default());
    let report = |report| console.report(&report);
    run(&Context { machine, report: &report, cancel: &cancel, fetch: None, keep: None })
}
