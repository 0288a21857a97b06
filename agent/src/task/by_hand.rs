//! The steps of a deploy one at a time, for a person who sees to their order. Each looks first whether
//! those before it have left what it needs.
//!
//! ```text
//! partition -> format -> clear -> fill -> fix-up (-> grow) -> boot-code -> activate
//! ```
//!
//! The steps themselves are those of a task; only the image comes from a directory instead of a
//! controller, so [`fill`] leaves it to its caller to write it.

use super::{
    Context, StepLog, activate, attempt, boot_code, check_disk, clear, fix_up, format,
    grow::{self, Place},
    partition,
    plan::{BootState, Family, SlotAddress, System, TableState, Target},
    swap,
};
use crate::disk::{Device, SlotRecord, Window};
use anyhow::{Context as _, ensure};
use metalcast_shared::{
    event::Step,
    to_agent::{FixUp, Overwrite},
};

/// What can be asked for.
#[derive(Clone, Copy, Debug)]
pub enum Stage<'o> {
    /// The partition table.
    Partition,
    /// The boot partition's filesystem and the swap.
    Format,
    /// An end to what is in the slot, and room for something else.
    Clear {
        /// What it is going to be.
        content: &'o SlotRecord,
        /// How long that is.
        needed_bytes: u64,
    },
    /// A system in the slot that fits node and slot.
    FixUp(&'o FixUp),
    /// A filesystem that takes all of the slot.
    Grow,
    /// The loaders of disk and slot.
    BootCode,
    /// The slot as the one that starts.
    Activate,
}

impl Stage<'_> {
    fn step(&self) -> Step {
        match self {
            Self::Partition => Step::Partition,
            Self::Format => Step::Format,
            Self::Clear { .. } => Step::Clear,
            Self::FixUp(_) => Step::FixUp,
            Self::Grow => Step::Grow,
            Self::BootCode => Step::BootCode,
            Self::Activate => Step::Activate,
        }
    }
}

/// A stage that can be taken.
#[derive(Debug)]
pub struct Ready<'o> {
    stage: Stage<'o>,
    target: Target,
}

/// Looks whether a stage can be taken and may be: what `overwrite` does not cover is not destroyed.
pub fn check<'o>(
    stage: Stage<'o>,
    address: SlotAddress<'_>,
    overwrite: Overwrite,
    context: &Context<'_>,
) -> anyhow::Result<Ready<'o>> {
    let target = attempt(context, Step::CheckDisk, |log| match stage {
        Stage::Partition => check_disk::table(address, overwrite, log),
        Stage::Format => {
            let target = check_disk::disk(address, overwrite, log)?;
            ensure!(
                target.table != TableState::ToBeWritten,
                "the disk does not have layout {} yet: take the stage `partition` first",
                address.layout.name
            );
            Ok(target)
        }
        Stage::Clear { content, needed_bytes } => {
            let target = check_disk::overwritable(address, overwrite, log)?;
            let what = format!("{} of {}", content.partition, content.image);
            check_disk::fits(&what, needed_bytes, &target.slot)?;
            Ok(target)
        }
        Stage::FixUp(_) | Stage::Grow | Stage::BootCode => {
            let target = check_disk::installed(address, log)?;
            family(&target, log)?;
            Ok(target)
        }
        Stage::Activate => {
            check_disk::startable(address, log).context("take the stages up to `boot-code` first")
        }
    })?;
    Ok(Ready { stage, target })
}

impl Ready<'_> {
    /// What will be done, in a sentence.
    pub fn plan(&self) -> String {
        let number = self.target.slot.number;
        match self.stage {
            Stage::Partition => match self.target.table {
                TableState::AsPlanned(_) => "the disk has this partition table already".into(),
                TableState::ToBeWritten => {
                    "the partition table is written anew; all that is on the disk is lost".into()
                }
            },
            Stage::Format => {
                let boot = match self.target.boot {
                    BootState::Ours => "the boot partition is kept",
                    BootState::ToBeFormatted => "the boot partition is formatted",
                };
                let swap = if self.target.make_swap { "formatted" } else { "left as it is" };
                format!("{boot}, the swap is {swap}")
            }
            Stage::Clear { content, .. } => {
                format!("slot {number} is emptied for {}; what it holds is lost", content.image)
            }
            Stage::FixUp(fix_up) => {
                format!("the system in slot {number} becomes that of {}", fix_up.hostname)
            }
            Stage::Grow => format!("the filesystem in slot {number} takes all of it"),
            Stage::BootCode => format!("the loaders of the disk and of slot {number} are written"),
            Stage::Activate => format!("slot {number} becomes the one that starts"),
        }
    }

    /// Whether what lies in a partition of the disk, or on the disk itself, will be lost.
    pub fn loses(&self, partition: Option<u32>) -> bool {
        let is = |number: u16| partition == Some(u32::from(number));
        match self.stage {
            Stage::Partition => self.target.table == TableState::ToBeWritten,
            Stage::Format => {
                let boot = self.target.boot == BootState::ToBeFormatted;
                let swap = swap::of(&self.target.plan).filter(|_| self.target.make_swap);
                boot && is(self.target.plan.boot().number) || swap.is_some_and(|it| is(it.number))
            }
            Stage::Clear { .. } => is(self.target.slot.number),
            Stage::FixUp(_) | Stage::Grow | Stage::BootCode | Stage::Activate => false,
        }
    }

    /// Takes the stage.
    pub fn take(&self, context: &Context<'_>) -> anyhow::Result<()> {
        let target = &self.target;
        attempt(context, self.stage.step(), |log| match self.stage {
            Stage::Partition => partition::run(target, log),
            Stage::Format => format::run(target, log),
            Stage::Clear { content, .. } => clear::run(content, target, log),
            Stage::FixUp(fix_up) => {
                let system = System { family: family(target, log)?, fix_up, fresh: None };
                fix_up::run(&system, target, None, log).map(drop)
            }
            Stage::Grow => grow::run(&Place::slot(target), log),
            Stage::BootCode => boot_code::run(family(target, log)?, target, log),
            Stage::Activate => activate::run(target, log),
        })
    }
}

/// Opens a slot that was cleared and has `write` put a filesystem of `needed_bytes` into it. `write` is
/// given the disk, the slot, and what has to be done to the image's first bytes so that the slot still
/// cannot be started.
pub fn fill(
    address: SlotAddress<'_>,
    filesystem: &str,
    needed_bytes: u64,
    context: &Context<'_>,
    write: impl FnOnce(&Device<'_>, Window<'_>, &dyn Fn(&mut [u8])) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let family = Family::of(filesystem).with_context(|| {
        format!("the image is of {filesystem}; systems on ext2/3/4, btrfs and xfs can be started")
    })?;
    let target = attempt(context, Step::CheckDisk, |log| {
        let target = check_disk::cleared(address, log).context("take the stage `clear` first")?;
        check_disk::fits("the image", needed_bytes, &target.slot)?;
        Ok(target)
    })?;
    attempt(context, Step::Transfer, |log| {
        let device = target.open(log)?;
        write(&device, target.slot(&device)?, &|first| family.boot_code().take_out(first))
    })
}

fn family(target: &Target, log: &StepLog<'_>) -> anyhow::Result<Family> {
    let found = check_disk::content(target, log)?;
    Family::in_slot(&found).with_context(|| {
        format!(
            "slot {} has no system on ext2/3/4, btrfs or xfs but holds: {found}; \
             take the stage `fill` first",
            target.slot.number
        )
    })
}
