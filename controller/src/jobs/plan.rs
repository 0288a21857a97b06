//! What a deployment will do to a disk, and what would be lost: computed before anything is written.
//!
//! It goes by what the node's agent last saw and by what we know to have deployed; the agent looks
//! again before it writes and has the last word.

use metalcast_formats::{
    layout::{LayoutError, compute},
    whole_disk,
};
use metalcast_shared::{
    disk::{Disk, DiskSelector},
    id::Revision,
    inventory::Inventory,
    layout::Layout,
    to_agent::Overwrite,
};
use serde::{Deserialize, Serialize};

mod capture;
mod disk;
mod partitions;
#[cfg(test)]
mod tests;
mod used;

pub use capture::{CaptureAsk, CapturePlan, Wanted, capture};
pub use disk::{DiskAsk, WholeDiskPlan, deployed_disk, whole_disk};
pub use partitions::{Incoming, PartitionError, PartitionsAsk, PartitionsPlan, partitions};
pub use used::{DiskUse, Ours, PartitionUse, SlotStage, SlotUse};

/// What is asked for on one node.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What the node is made of.
    pub inventory: &'a Inventory,
    /// What we put on it.
    pub ours: Ours<'a>,
    /// The scheme that the disk must have or get.
    pub layout: &'a Layout,
    /// The slot.
    pub slot: u16,
    /// Serial or WWN of the disk, if one was named.
    pub disk: Option<&'a str>,
    /// Bytes that the slot must have at least.
    pub needed_bytes: u64,
    /// Whether the operator agreed to lose what is there.
    pub yes: bool,
}

/// What becomes of the partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayoutAction {
    /// The disk is blank and gets it.
    Write,
    /// The disk has it from us, other slots stay.
    Keep,
    /// Something else is on the disk: it is replaced unless it is this very scheme.
    Replace,
}

/// What will be done to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// The disk as the agent last saw it.
    pub disk: Disk,
    /// By what the agent will find it.
    pub selector: DiskSelector,
    /// What becomes of its partition table.
    pub layout: LayoutAction,
    /// What we know to be in the slot.
    pub present: Option<SlotUse>,
    /// What will be lost that we did not put there.
    pub foreign: Vec<String>,
    /// What the agent is allowed to lose.
    pub overwrite: Overwrite,
}

/// Why there is no plan.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The layout has no such slot.
    #[error("layout {layout} has slots {first} to {last}, not {slot}")]
    NoSlot {
        /// The layout's name.
        layout: String,
        /// What was asked for.
        slot: u16,
        /// First slot.
        first: u16,
        /// Last slot.
        last: u16,
    },
    /// The image is larger than a slot.
    #[error("the image needs {needed_bytes} bytes, a slot of layout {layout} has {slot_bytes}")]
    SlotTooSmall {
        /// The layout's name.
        layout: String,
        /// What the image needs.
        needed_bytes: u64,
        /// What there is.
        slot_bytes: u64,
    },
    /// No disk is called so.
    #[error("no disk has serial or WWN {wanted}; the node has {found}")]
    NoSuchDisk {
        /// What was asked for.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// No disk will do.
    #[error(
        "no disk is large enough for layout {layout} and has a serial or WWN; the node has {found}"
    )]
    NoDisk {
        /// The layout's name.
        layout: String,
        /// What is there.
        found: String,
    },
    /// Several disks will do.
    #[error("several disks will do, choose one with --disk SERIAL: {found}")]
    SeveralDisks {
        /// Those that will do.
        found: String,
    },
    /// The disk that was named will not do.
    #[error("disk {disk} cannot be used")]
    Unusable {
        /// Which.
        disk: String,
        /// Why.
        source: LayoutError,
    },
    /// The disk that was named cannot be told from others.
    #[error("several disks have serial or WWN {wanted}: {found}; refusing to choose between them")]
    NotUnique {
        /// What was asked for.
        wanted: String,
        /// Those that have it.
        found: String,
    },
    /// What is in the slot is not complete.
    #[error(
        "slot {slot} holds a deployment of {image} that was not completed; it can be saved with --force"
    )]
    Incomplete {
        /// The slot.
        slot: u16,
        /// What was to be there.
        image: Revision,
    },
    /// The disk that was named is too small, or has other sectors.
    #[error("disk {disk} cannot be used")]
    WillNotDo {
        /// Which.
        disk: String,
        /// Why.
        source: whole_disk::PlanError,
    },
    /// No disk will do for the image of a whole one.
    #[error(
        "no disk of {sector_bytes}-byte sectors has {needed_bytes} bytes, as the image needs them, and a \
         serial or WWN; the node has {found}"
    )]
    NoWholeDisk {
        /// What the image needs.
        needed_bytes: u64,
        /// The sectors that it needs.
        sector_bytes: u32,
        /// What is there.
        found: String,
    },
    /// No disk is one that we deployed as a whole.
    #[error("no whole disk was deployed completely; deploy one first (there: {found})")]
    NothingWhole {
        /// What was looked at.
        found: String,
    },
    /// There is one disk at most, and it cannot be named.
    #[error("the node has no disk with a serial or WWN; it has {found}")]
    NoIdentity {
        /// What is there.
        found: String,
    },
    /// One of its partitions will not do.
    #[error("disk {disk} cannot be used")]
    Partition {
        /// Which.
        disk: String,
        /// Why.
        source: PartitionError,
    },
    /// Nothing of ours is there.
    #[error("slot {slot} has no system that was deployed completely; deploy one first")]
    NothingThere {
        /// The slot.
        slot: u16,
    },
}

/// Chooses the disk and says what will be done to it.
///
/// # Errors
/// When the slot, the disk or their sizes will not do. That something would be lost is not an
/// error here: see [`DiskPlan::needs_yes`].
pub fn deployment(ask: &Ask<'_>) -> Result<DiskPlan, PlanError> {
    check_slot(ask)?;
    let (disk, selector) = choose_for_layout(ask)?;
    let name = selector.to_string();
    let ours: Vec<&SlotUse> = ask.ours.slots.iter().filter(|used| used.disk == name).collect();
    let whole = ask.ours.disks.iter().find(|used| used.disk == name);
    let present = ours.iter().find(|used| used.slot == ask.slot).map(|used| (*used).clone());
    let same_layout = ours.iter().all(|used| used.layout == *ask.layout);
    let in_slot = |partition: Option<u32>| partition == Some(u32::from(ask.slot));
    let (layout, foreign) = if disk.contents.is_empty() && ours.is_empty() && whole.is_none() {
        (LayoutAction::Write, Vec::new())
    } else if ours.is_empty() || !same_layout {
        let mut foreign: Vec<String> = disk.contents.iter().map(ToString::to_string).collect();
        foreign.extend(ours.iter().map(|used| used.lost()));
        foreign.extend(whole.map(|used| format!("the whole disk: {}", used.image)));
        (LayoutAction::Replace, foreign)
    } else if present.is_some() {
        (LayoutAction::Keep, Vec::new())
    } else {
        let foreign = disk.contents.iter().filter(|content| in_slot(content.partition));
        (LayoutAction::Keep, foreign.map(ToString::to_string).collect())
    };
    let overwrite = match (ask.yes, layout) {
        (true, LayoutAction::Write | LayoutAction::Replace) => Overwrite::WholeDisk,
        (true, LayoutAction::Keep) => Overwrite::AnySlot,
        (false, _) if present.is_some() => Overwrite::OwnSlot,
        (false, _) => Overwrite::BlankOnly,
    };
    Ok(DiskPlan { disk: disk.clone(), selector, layout, present, foreign, overwrite })
}

/// Finds the disk whose slot was deployed by us, to start it.
///
/// # Errors
/// When there is none, or more than one.
pub fn selection(
    inventory: &Inventory,
    slots: &[SlotUse],
    slot: u16,
) -> Result<(Disk, DiskSelector, SlotUse), PlanError> {
    let there: Vec<(&Disk, DiskSelector, &SlotUse)> = inventory
        .disks
        .iter()
        .filter_map(|disk| DiskSelector::of(disk).map(|selector| (disk, selector)))
        .filter_map(|(disk, selector)| {
            let name = selector.to_string();
            let is_it = |used: &&SlotUse| {
                used.disk == name && used.slot == slot && used.stage != SlotStage::Writing
            };
            slots.iter().find(is_it).map(|used| (disk, selector, used))
        })
        .collect();
    match &there[..] {
        [] => Err(PlanError::NothingThere { slot }),
        [(disk, selector, used)] => Ok(((*disk).clone(), selector.clone(), (*used).clone())),
        several => {
            Err(PlanError::SeveralDisks { found: list(several.iter().map(|(disk, _, _)| *disk)) })
        }
    }
}

impl DiskPlan {
    /// Whether the operator has to agree first.
    pub fn needs_yes(&self) -> bool {
        !self.foreign.is_empty() && self.overwrite < Overwrite::AnySlot
    }
}

fn check_slot(ask: &Ask<'_>) -> Result<(), PlanError> {
    let Layout { name, slots, slot_mib, .. } = ask.layout;
    if !ask.layout.has_slot(ask.slot) {
        let first = Layout::FIRST_SLOT;
        let last = first.saturating_add(*slots).saturating_sub(1);
        return Err(PlanError::NoSlot { layout: name.clone(), slot: ask.slot, first, last });
    }
    let slot_bytes = u64::from(*slot_mib) << 20;
    if ask.needed_bytes > slot_bytes {
        let needed_bytes = ask.needed_bytes;
        return Err(PlanError::SlotTooSmall { layout: name.clone(), needed_bytes, slot_bytes });
    }
    Ok(())
}

fn choose_for_layout<'a>(ask: &Ask<'a>) -> Result<(&'a Disk, DiskSelector), PlanError> {
    let fits = |disk: &Disk| {
        compute(ask.layout, disk.bytes, disk.logical_sector)
            .map(drop)
            .map_err(|source| PlanError::Unusable { disk: disk.to_string(), source })
    };
    let none = |found| PlanError::NoDisk { layout: ask.layout.name.clone(), found };
    choose(&ask.inventory.disks, ask.disk, fits, none)
}

/// The disk that was named, or the only one that will do. `fits` says why one will not; `none` is the
/// error where no disk does.
fn choose<'a>(
    disks: &'a [Disk],
    wanted: Option<&str>,
    fits: impl Fn(&Disk) -> Result<(), PlanError>,
    none: impl FnOnce(String) -> PlanError,
) -> Result<(&'a Disk, DiskSelector), PlanError> {
    if let Some(wanted) = wanted {
        let (disk, selector) = named(disks, wanted)?;
        fits(disk)?;
        return Ok((disk, selector));
    }
    let candidates: Vec<(&Disk, DiskSelector)> = disks
        .iter()
        .filter(|disk| fits(disk).is_ok())
        .filter_map(|disk| DiskSelector::of(disk).map(|selector| (disk, selector)))
        .collect();
    match &candidates[..] {
        [(disk, selector)] => Ok((disk, selector.clone())),
        [] => Err(none(list(disks))),
        several => {
            Err(PlanError::SeveralDisks { found: list(several.iter().map(|(disk, _)| *disk)) })
        }
    }
}

/// The disk that is called so.
fn named<'a>(disks: &'a [Disk], wanted: &str) -> Result<(&'a Disk, DiskSelector), PlanError> {
    let is_it = |disk: &&Disk| {
        disk.serial.as_deref() == Some(wanted) || disk.wwn.as_deref() == Some(wanted)
    };
    let named: Vec<&Disk> = disks.iter().filter(is_it).collect();
    let wanted = wanted.to_owned();
    match named[..] {
        [disk] => {
            let selector = DiskSelector::of(disk).expect("it was found by its serial or WWN");
            Ok((disk, selector))
        }
        [] => Err(PlanError::NoSuchDisk { wanted, found: list(disks) }),
        _ => Err(PlanError::NotUnique { wanted, found: list(named) }),
    }
}

fn list<'d>(disks: impl IntoIterator<Item = &'d Disk>) -> String {
    let names: Vec<String> = disks.into_iter().map(ToString::to_string).collect();
    if names.is_empty() { "no disks".into() } else { names.join(", ") }
}
