//! What a capture reads of a disk. Nothing is written, so nothing has to be agreed to.

use super::{Ask, Ours, PlanError, SlotStage, SlotUse, check_slot, choose_for_layout, list, named};
use metalcast_formats::layout::compute;
use metalcast_shared::{
    disk::{Disk, DiskSelector},
    inventory::Inventory,
    layout::Layout,
    to_agent::CaptureSource,
};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct CaptureAsk<'a> {
    /// What the node is made of.
    pub inventory: &'a Inventory,
    /// What we put on it.
    pub slots: &'a [SlotUse],
    /// The scheme of a disk of which we do not know better.
    pub layout: &'a Layout,
    /// Serial or WWN of the disk, if one was named.
    pub disk: Option<&'a str>,
    /// What of it.
    pub what: Wanted<'a>,
    /// Whether the operator wants what is not complete too.
    pub force: bool,
}

/// What of a disk is wanted.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// A slot.
    Slot(u16),
    /// All of it.
    Disk,
    /// Partitions, by their numbers.
    Partitions(&'a [u16]),
}

/// What will be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturePlan {
    /// The disk as the agent last saw it.
    pub disk: Disk,
    /// By what the agent will find it.
    pub selector: DiskSelector,
    /// What of it.
    pub source: CaptureSource,
    /// What we know to be in the slot.
    pub present: Option<SlotUse>,
}

/// Chooses the disk.
///
/// # Errors
/// When there is no such disk or slot, several will do, or the slot is not complete.
pub fn capture(ask: &CaptureAsk<'_>) -> Result<CapturePlan, PlanError> {
    let slot = match ask.what {
        Wanted::Slot(slot) => slot,
        Wanted::Disk | Wanted::Partitions(_) => return whole(ask),
    };
    let (disk, selector, present) = slot_disk(ask, slot)?;
    let layout = present.map_or(ask.layout, |used| &used.layout);
    let asked = deploy_ask(ask, layout, slot);
    check_slot(&asked)?;
    compute(layout, disk.bytes, disk.logical_sector)
        .map_err(|source| PlanError::Unusable { disk: disk.to_string(), source })?;
    match present {
        Some(used) if used.stage == SlotStage::Writing && !ask.force => {
            Err(PlanError::Incomplete { slot, image: used.image.clone() })
        }
        Some(_) | None => Ok(CapturePlan {
            disk: disk.clone(),
            selector,
            source: CaptureSource::Slot { layout: layout.clone(), slot },
            present: present.cloned(),
        }),
    }
}

fn whole(ask: &CaptureAsk<'_>) -> Result<CapturePlan, PlanError> {
    let disks = &ask.inventory.disks;
    let (disk, selector) = match ask.disk {
        Some(wanted) => named(disks, wanted)?,
        None => return Err(PlanError::SeveralDisks { found: list(disks) }),
    };
    let source = match ask.what {
        Wanted::Partitions(numbers) => CaptureSource::Partitions(numbers.to_vec()),
        Wanted::Disk | Wanted::Slot(_) => CaptureSource::Disk,
    };
    Ok(CapturePlan { disk: disk.clone(), selector, source, present: None })
}

/// The disk of a slot: the one that was named, or on which we put something there, or that has room for
/// the layout; and what we put there.
fn slot_disk<'a>(
    ask: &CaptureAsk<'a>,
    slot: u16,
) -> Result<(&'a Disk, DiskSelector, Option<&'a SlotUse>), PlanError> {
    let known = |selector: &DiskSelector| {
        let name = selector.to_string();
        ask.slots.iter().find(|used| used.disk == name && used.slot == slot)
    };
    if let Some(wanted) = ask.disk {
        let (disk, selector) = named(&ask.inventory.disks, wanted)?;
        let present = known(&selector);
        return Ok((disk, selector, present));
    }
    let ours: Vec<_> = ask
        .inventory
        .disks
        .iter()
        .filter_map(|disk| DiskSelector::of(disk).map(|selector| (disk, selector)))
        .filter(|(_, selector)| known(selector).is_some())
        .collect();
    let (disk, selector) = match &ours[..] {
        [] => choose_for_layout(&deploy_ask(ask, ask.layout, slot))?,
        [(disk, selector)] => (*disk, selector.clone()),
        several => {
            return Err(PlanError::SeveralDisks { found: list(several.iter().map(|one| one.0)) });
        }
    };
    let present = known(&selector);
    Ok((disk, selector, present))
}

fn deploy_ask<'a>(ask: &CaptureAsk<'a>, layout: &'a Layout, slot: u16) -> Ask<'a> {
    let CaptureAsk { inventory, slots, disk, .. } = *ask;
    let ours = Ours { slots, disks: &[], partitions: &[] };
    Ask { inventory, ours, layout, slot, disk, needed_bytes: 0, yes: false }
}
