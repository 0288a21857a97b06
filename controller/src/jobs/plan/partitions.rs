//! What the deployment into partitions that a disk has will do, and what would be lost.

use super::{Ours, PlanError, list, named};
use metalcast_formats::{
    layout::{self, Role as LayoutRole},
    whole_disk::{self as tables, Role},
};
use metalcast_shared::{
    disk::{Content, Disk, DiskSelector},
    inventory::Inventory,
    layout::Layout,
    table::{FoundPartition, FoundTable},
    to_agent::Overwrite,
};

/// What goes into a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Number of the partition on the disk.
    pub number: u16,
    /// What it is called in the image.
    pub name: String,
    /// Its filesystem by partclone's name, or `swap`.
    pub filesystem: String,
    /// Bytes that the partition must have at least.
    pub needed_bytes: u64,
}

/// What is asked for on one node.
#[derive(Clone, Copy, Debug)]
pub struct PartitionsAsk<'a> {
    /// What the node is made of.
    pub inventory: &'a Inventory,
    /// What we put on it.
    pub ours: Ours<'a>,
    /// Schemes that a disk of ours may have.
    pub layouts: &'a [Layout],
    /// What goes where, each into another partition.
    pub incoming: &'a [Incoming],
    /// The logical sector of the disk that was saved, in bytes, if that is known.
    pub sector_bytes: Option<u32>,
    /// Serial or WWN of the disk, if one was named.
    pub disk: Option<&'a str>,
    /// Whether the operator agreed to lose what is there.
    pub yes: bool,
}

/// What will be done to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionsPlan {
    /// The disk as the agent last saw it.
    pub disk: Disk,
    /// By what the agent will find it.
    pub selector: DiskSelector,
    /// The table that it must still have then.
    pub table: FoundTable,
    /// What is in the partitions, and will be lost.
    pub lost: Vec<String>,
    /// What an operator should know beyond that.
    pub warnings: Vec<String>,
    /// What the agent is allowed to lose.
    pub overwrite: Overwrite,
}

/// Why a partition of a disk cannot be deployed into.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// Nobody can say where its partitions are.
    #[error(
        "it has no partition table that its agent could read when it last looked; netboot the node once if \
         it has one since"
    )]
    NoTable,
    /// The table has no such number.
    #[error("it has no partition {number}; it has {found}")]
    NoSuch {
        /// What was asked for.
        number: u16,
        /// What there is.
        found: String,
    },
    /// It is the frame of the logical ones.
    #[error("partition {number} only holds other partitions: name one of those")]
    Extended {
        /// Which.
        number: u16,
    },
    /// The image's partition is larger.
    #[error("{name} needs {needed_bytes} bytes, partition {number} has {had_bytes}")]
    TooSmall {
        /// Which.
        number: u16,
        /// What the image's is called.
        name: String,
        /// What it needs.
        needed_bytes: u64,
        /// What there is.
        had_bytes: u64,
    },
    /// Its loader and records are Metalcast's.
    #[error("partition {number} is a slot of layout {layout}: deploy to it with --slot {number}")]
    Slot {
        /// Which.
        number: u16,
        /// The layout's name.
        layout: String,
    },
    /// The slots could not be started without it, or all use it.
    #[error("partition {number} belongs to layout {layout}, all slots of the disk need it")]
    LayoutsOwn {
        /// Which.
        number: u16,
        /// The layout's name.
        layout: String,
    },
    /// Others have it.
    #[error("partition {number} cannot be overwritten: {why}; take it out of that first")]
    InUse {
        /// Which.
        number: u16,
        /// Who.
        why: String,
    },
}

/// Finds the disk and says what will be done to it.
///
/// # Errors
/// When the disk or one of its partitions will not do. That something would be lost is not an error here:
/// see [`PartitionsPlan::needs_yes`].
pub fn partitions(ask: &PartitionsAsk<'_>) -> Result<PartitionsPlan, PlanError> {
    let (disk, selector) = only_disk(ask)?;
    if let Some(wanted) = ask.sector_bytes.filter(|wanted| *wanted != disk.logical_sector) {
        let source = tables::PlanError::SectorSize { wanted, had: disk.logical_sector };
        return Err(PlanError::WillNotDo { disk: disk.to_string(), source });
    }
    let refused = |source| PlanError::Partition { disk: disk.to_string(), source };
    let table = disk.table.as_ref().ok_or_else(|| refused(PartitionError::NoTable))?;
    let (mut lost, mut warnings) = (Vec::new(), Vec::new());
    let owner = owner(ask, disk, &selector, table);
    for incoming in ask.incoming {
        let part = target(incoming, table, owner.as_ref()).map_err(refused)?;
        let is_it = |content: &&Content| content.partition == Some(u32::from(part.number));
        lost.extend(disk.contents.iter().filter(is_it).map(ToString::to_string));
        if !tables::goes_with(part.kind, &incoming.filesystem) {
            let Incoming { number, filesystem, .. } = incoming;
            warnings.push(format!(
                "partition {number} has type {}, which is not that of {filesystem}; it stays as it is",
                part.kind
            ));
        }
    }
    let overwrite = if ask.yes { Overwrite::AnySlot } else { Overwrite::BlankOnly };
    let (disk, table) = (disk.clone(), table.clone());
    Ok(PartitionsPlan { disk, selector, table, lost, warnings, overwrite })
}

impl PartitionsPlan {
    /// Whether the operator has to agree first.
    pub fn needs_yes(&self) -> bool {
        !self.lost.is_empty() && self.overwrite < Overwrite::AnySlot
    }
}

/// The disk that was named, or the node's only one: numbers of partitions do not tell disks apart.
fn only_disk<'a>(ask: &PartitionsAsk<'a>) -> Result<(&'a Disk, DiskSelector), PlanError> {
    let disks = &ask.inventory.disks;
    if let Some(wanted) = ask.disk {
        return named(disks, wanted);
    }
    match &disks[..] {
        [only] => match DiskSelector::of(only) {
            Some(selector) => Ok((only, selector)),
            None => Err(PlanError::NoIdentity { found: list(disks) }),
        },
        [] => Err(PlanError::NoIdentity { found: list(disks) }),
        _ => Err(PlanError::SeveralDisks { found: list(disks) }),
    }
}

/// The layout that the disk has: one of the configuration, or the one that we remember.
fn owner<'a>(
    ask: &PartitionsAsk<'a>,
    disk: &Disk,
    selector: &DiskSelector,
    table: &FoundTable,
) -> Option<(&'a Layout, layout::DiskPlan)> {
    let name = selector.to_string();
    let known = ask.ours.slots.iter().filter(|used| used.disk == name).map(|used| &used.layout);
    known.chain(ask.layouts).find_map(|layout| {
        let plan = layout::compute(layout, disk.bytes, disk.logical_sector).ok()?;
        let unit = layout::SECTOR_BYTES;
        let is_there = |planned: &layout::PlannedPartition| {
            table.partition(planned.number).is_some_and(|part| {
                part.start_bytes == planned.start_lba * unit && part.bytes == planned.sectors * unit
            })
        };
        let is_it =
            plan.partitions.len() == table.partitions.len() && plan.partitions.iter().all(is_there);
        is_it.then_some((layout, plan))
    })
}

/// The partition that something goes into.
fn target<'t>(
    incoming: &Incoming,
    table: &'t FoundTable,
    owner: Option<&(&Layout, layout::DiskPlan)>,
) -> Result<&'t FoundPartition, PartitionError> {
    let Incoming { number, name, needed_bytes, .. } = incoming;
    let number = *number;
    let part = table
        .partition(number)
        .ok_or_else(|| PartitionError::NoSuch { number, found: table.numbers() })?;
    if Role::of(part.kind) == Role::Extended {
        return Err(PartitionError::Extended { number });
    }
    if let Some((layout, plan)) = owner {
        let layout = layout.name.clone();
        match plan.partition(number).map(|planned| planned.role) {
            Some(LayoutRole::Slot) => return Err(PartitionError::Slot { number, layout }),
            Some(LayoutRole::Boot | LayoutRole::Swap | LayoutRole::Extended) => {
                return Err(PartitionError::LayoutsOwn { number, layout });
            }
            // The site's own.
            Some(LayoutRole::Reserve) | None => {}
        }
    }
    if let Some(why) = part.in_use.clone() {
        return Err(PartitionError::InUse { number, why });
    }
    let (needed_bytes, had_bytes) = (*needed_bytes, part.bytes);
    if needed_bytes > had_bytes {
        let name = name.clone();
        return Err(PartitionError::TooSmall { number, name, needed_bytes, had_bytes });
    }
    Ok(part)
}
