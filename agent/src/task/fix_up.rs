//! Step `fix-up`: adapts the deployed system to its node and slot.
//!
//! Each sub-step is a file here; it tells in a note what it changed. The text work is pure; all files
//! are reached through [`crate::disk::Root`], since the image may be hostile.

mod boot_config;
mod fs_id;
mod fstab;
mod grub_pc;
mod identity;
mod post_install;
mod ssh;
mod system;

pub(super) use boot_config::{is_kernel, is_resume};
pub(super) use fs_id::{Unique, others, restamp};

use super::{
    StepLog,
    plan::{Family, System, Target, window},
    swap,
};
use crate::{
    disk::{Mounted, Root, uuid_of},
    report,
};
use anyhow::Context;
use metalcast_formats::{layout::SECTOR_BYTES, mbr};
use metalcast_shared::{fix_up::FixUpStep, fresh::FreshKind, to_agent::FixUp};
use std::path::Path;

/// By what the deployed system can name its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ids {
    /// UUID of the root filesystem.
    root_uuid: String,
    /// The one it had in the image, if it was given another.
    image_uuid: Option<String>,
    /// PARTUUID of the slot.
    root_partuuid: String,
    /// UUID of this disk's swap partition.
    swap_uuid: Option<String>,
    /// UUIDs of all filesystems and swaps on the node's disks.
    known: Vec<String>,
    /// What the root filesystem was made as, whatever the system says of it.
    fresh: Option<FreshKind>,
}

impl Ids {
    /// How fstab and the kernel's command line name the root.
    fn root(&self) -> String {
        format!("UUID={}", self.root_uuid)
    }
}

/// Sub-step `unique-fs-id`, for a step that comes before this one.
pub(super) fn make_unique(
    system: &System<'_>,
    target: &Target,
    log: &StepLog<'_>,
) -> anyhow::Result<Unique> {
    fs_id::make_unique(system, target, log).context("fix-up unique-fs-id")
}

/// Returns whether the system will report that it is up. `unique` is there if the filesystem has its
/// UUID already.
pub(super) fn run(
    system: &System<'_>,
    target: &Target,
    unique: Option<Unique>,
    log: &StepLog<'_>,
) -> anyhow::Result<bool> {
    let unique = unique.map_or_else(|| make_unique(system, target, log), Ok)?;
    let ids = ids(system, unique, target, log)?;
    let number = target.slot.number;
    let mounted = system::mount(system.family, &target.node(number, log)?, log)
        .with_context(|| format!("mounting slot {number}"))?;
    let reports = adapt_mounted(system.fix_up, mounted, Some(&ids), log)?;
    target.open(log)?.drop_caches()?;
    Ok(reports)
}

/// Adapts the system on a partition of a disk that is deployed as a whole; `None` if it has none. The
/// ids of its filesystems are those of the image, so what names them stays.
pub(super) fn on_whole_disk(
    (family, fix_up): (Family, &FixUp),
    node: &Path,
    log: &StepLog<'_>,
) -> anyhow::Result<Option<bool>> {
    let Some(mounted) = system::mount_if_there(family, node, log)? else { return Ok(None) };
    adapt_mounted(fix_up, mounted, None, log).map(Some)
}

fn adapt_mounted(
    fix_up: &FixUp,
    mounted: Mounted,
    ids: Option<&Ids>,
    log: &StepLog<'_>,
) -> anyhow::Result<bool> {
    let outcome = mounted.root().and_then(|root| adapt(fix_up, &root, ids, log));
    // Also after a failure: what was changed is written, and nothing stays mounted.
    let closed = mounted.close();
    let reports = outcome?;
    closed?;
    Ok(reports)
}

fn adapt(
    fix_up: &FixUp,
    root: &Root,
    ids: Option<&Ids>,
    log: &StepLog<'_>,
) -> anyhow::Result<bool> {
    let (hostname, adaptation) = (fix_up.hostname.as_str(), &fix_up.adaptation);
    let packed = post_install::fetch(adaptation, log)?;
    let added = post_install::content(&packed)?;
    for step in FixUpStep::ALL {
        if adaptation.without.contains(&step) {
            log.note(format!("{step}: left out, as asked for"));
            continue;
        }
        sub_step(step.name(), log, || match (step, ids) {
            // It was taken before the filesystem was mounted.
            (FixUpStep::UniqueFsId, _) => Ok(Vec::new()),
            (FixUpStep::Fstab, Some(ids)) => fstab::run(root, ids),
            (FixUpStep::BootConfig, Some(ids)) => {
                boot_config::run(root, ids, &adaptation.kernel_args)
            }
            (FixUpStep::BootConfig, None) => boot_config::add(root, &adaptation.kernel_args),
            (FixUpStep::GrubPc, Some(_)) => grub_pc::run(root),
            // The disk is as the system in it knows it, and its boot code is its own.
            (FixUpStep::Fstab | FixUpStep::GrubPc, None) => Ok(Vec::new()),
            (FixUpStep::MachineId, _) => identity::machine_id(root),
            (FixUpStep::Hostname, _) => identity::hostname(root, hostname),
            (FixUpStep::SshHostKeys, _) => ssh::host_keys(root, hostname),
            (FixUpStep::AuthorizedKeys, _) => {
                ssh::authorized_keys(root, &adaptation.authorized_keys)
            }
            (FixUpStep::ProjectFiles, _) => post_install::files(root, &added),
            (FixUpStep::ProjectScript, _) => post_install::script(root, &added, hostname, log),
        })?;
    }
    let report = fix_up.report.as_ref();
    sub_step("report-unit", log, || match report {
        Some(config) => report::install(root, config),
        None => report::remove(root),
    })?;
    Ok(report.is_some() && report::can_report(root))
}

/// Runs a sub-step and notes what it changed; it fails under its name.
fn sub_step(
    name: &str,
    log: &StepLog<'_>,
    run: impl FnOnce() -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<()> {
    log.check_cancel()?;
    let changes = run().with_context(|| format!("fix-up {name}"))?;
    for change in changes {
        log.note(format!("{name}: {change}"));
    }
    Ok(())
}

fn ids(
    system: &System<'_>,
    unique: Unique,
    target: &Target,
    log: &StepLog<'_>,
) -> anyhow::Result<Ids> {
    let device = target.open(log)?;
    let table = mbr::read(&mut device.file(), device.bytes() / SECTOR_BYTES)?;
    let swap_uuid = match swap::of(&target.plan) {
        Some(partition) => {
            let found = window(&device, partition)?.look()?;
            uuid_of(&found).filter(|_| swap::is_swap(&found))
        }
        None => None,
    };
    Ok(Ids {
        root_uuid: unique.uuid,
        image_uuid: unique.image_uuid,
        root_partuuid: table.partuuid(target.slot.number),
        swap_uuid,
        known: unique.known,
        fresh: system.fresh,
    })
}
