//! What the deployment of a whole disk will do, and what would be lost.

use super::{DiskUse, Ours, PartitionUse, PlanError, SlotStage, SlotUse, choose};
use metalcast_formats::whole_disk as tables;
use metalcast_shared::{
    disk::{Disk, DiskSelector},
    inventory::Inventory,
    to_agent::Overwrite,
    whole_disk::WholeDisk,
};

/// What is asked for on one node.
#[derive(Clone, Copy, Debug)]
pub struct DiskAsk<'a> {
    /// What the node is made of.
    pub inventory: &'a Inventory,
    /// What we put on it.
    pub ours: Ours<'a>,
    /// What the disk is to become.
    pub whole: &'a WholeDisk,
    /// Serial or WWN of the disk, if one was named.
    pub disk: Option<&'a str>,
    /// Whether the operator agreed to lose what is there.
    pub yes: bool,
}

/// What will be done to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeDiskPlan {
    /// The disk as the agent last saw it.
    pub disk: Disk,
    /// By what the agent will find it.
    pub selector: DiskSelector,
    /// What we made of the disk before.
    pub present: Option<DiskUse>,
    /// What will be lost that we did not make of it as a whole.
    pub foreign: Vec<String>,
    /// What the agent is allowed to lose.
    pub overwrite: Overwrite,
}

/// Chooses the disk and says what will be done to it.
///
/// # Errors
/// When no disk, or more than one, will do. That something would be lost is not an error here: see
/// [`WholeDiskPlan::needs_yes`].
pub fn whole_disk(ask: &DiskAsk<'_>) -> Result<WholeDiskPlan, PlanError> {
    let fits = |disk: &Disk| {
        tables::plan(ask.whole, disk.bytes, disk.logical_sector)
            .map(drop)
            .map_err(|source| PlanError::WillNotDo { disk: disk.to_string(), source })
    };
    let none = |found| PlanError::NoWholeDisk {
        needed_bytes: tables::needed_bytes(ask.whole).unwrap_or(u64::MAX),
        sector_bytes: ask.whole.sector_bytes,
        found,
    };
    let (disk, selector) = choose(&ask.inventory.disks, ask.disk, fits, none)?;
    let name = selector.to_string();
    let slots: Vec<String> =
        ask.ours.slots.iter().filter(|used| used.disk == name).map(SlotUse::lost).collect();
    let present = ask.ours.disks.iter().find(|used| used.disk == name).cloned();
    let on_it = ask.ours.partitions.iter().filter(|used| used.disk == name);
    let foreign = match &present {
        // What was put into its partitions since.
        Some(_) => slots.into_iter().chain(on_it.map(PartitionUse::lost)).collect(),
        None => disk.contents.iter().map(ToString::to_string).chain(slots).collect(),
    };
    let overwrite = if ask.yes { Overwrite::WholeDisk } else { Overwrite::BlankOnly };
    Ok(WholeDiskPlan { disk: disk.clone(), selector, present, foreign, overwrite })
}

/// Finds the disk that we deployed as a whole, to compare it.
///
/// # Errors
/// When there is none, or more than one.
pub fn deployed_disk(
    inventory: &Inventory,
    disks: &[DiskUse],
    wanted: Option<&str>,
) -> Result<(Disk, DiskSelector, DiskUse), PlanError> {
    let none = |found| PlanError::NothingWhole { found };
    let used = |disk: &Disk| {
        let name = DiskSelector::of(disk).map(|selector| selector.to_string());
        let is_it =
            |used: &&DiskUse| Some(&used.disk) == name.as_ref() && used.stage != SlotStage::Writing;
        disks.iter().find(is_it).ok_or_else(|| none(disk.to_string()))
    };
    let (disk, selector) = choose(&inventory.disks, wanted, |disk| used(disk).map(drop), none)?;
    Ok((disk.clone(), selector, used(disk)?.clone()))
}

impl WholeDiskPlan {
    /// Whether the operator has to agree first.
    pub fn needs_yes(&self) -> bool {
        !self.foreign.is_empty() && self.overwrite < Overwrite::WholeDisk
    }
}
