//! Partitions that disks have as targets of those of an image.

use super::{
    DeployRequest, Planned, Refusal, Service, bytes_of, check_without_system, growth, is_adapted,
    node_view,
};
use crate::{
    images::DiskImage,
    jobs::plan::{self, Incoming, PartitionsAsk},
    service::{
        core::Core,
        deploy::{finish, usable, will_not_do},
        view::{GrowView, NodePlanView, PlacedView},
    },
    store::{NodeRecord, Work},
};
use metalcast_shared::{
    id::Revision,
    manifest::{Manifest, Partition},
    table::FoundTable,
    to_agent::Placed,
    upload::MAX_PARTITIONS,
    whole_disk::Swap,
};

/// What swap is called among filesystems.
const SWAP: &str = "swap";

/// What of an image goes where.
pub(super) struct Partitions<'m> {
    /// As it was asked for.
    pub(super) asked: Vec<Placed>,
    data: Vec<(u16, &'m Partition)>,
    /// With the numbers of the disk.
    swaps: Vec<Swap>,
    incoming: Vec<Incoming>,
    /// The logical sector of the disk that was saved, if the image has its table.
    sector_bytes: Option<u32>,
    /// Numbers of those that their filesystems are to fill.
    grow: Vec<u16>,
}

impl<'m> Partitions<'m> {
    /// `disk` is there if the image is of a whole one: only that knows of swap.
    pub(super) fn of(
        asked: &[Placed],
        disk: Option<&DiskImage>,
        manifest: &'m Manifest,
        request: &DeployRequest,
    ) -> Result<Self, Refusal> {
        if asked.len() > MAX_PARTITIONS {
            return Err(Refusal::Invalid(format!("name at most {MAX_PARTITIONS} partitions")));
        }
        let mut all = Self {
            asked: asked.to_vec(),
            data: Vec::new(),
            swaps: Vec::new(),
            incoming: Vec::new(),
            sector_bytes: disk.map(|disk| disk.whole.sector_bytes),
            grow: Vec::new(),
        };
        for placed in asked {
            all.add(placed, disk, manifest)?;
        }
        if !all.data.iter().any(|(_, part)| is_adapted(part)) {
            check_without_system(&manifest.revision, request)?;
        }
        if let Some(grow) = &request.grow {
            all.grow = growth::of_partitions(grow, &all.data)?;
        }
        Ok(all)
    }

    fn add(
        &mut self,
        placed: &Placed,
        disk: Option<&DiskImage>,
        manifest: &'m Manifest,
    ) -> Result<(), Refusal> {
        let Placed { number, partition: name } = placed;
        if let Some(other) = self.incoming.iter().find(|one| one.number == *number) {
            let message =
                format!("{} and {name} cannot both go into partition {number}", other.name);
            return Err(Refusal::Invalid(message));
        }
        let (filesystem, needed_bytes) = match (manifest.partition(name), swap(name, disk)) {
            (Some(partition), _) if partition.is_archive() => {
                let message = format!("{name} is a tar archive, which goes into a slot (--slot)");
                return Err(Refusal::Invalid(message));
            }
            (Some(partition), _) => {
                self.data.push((*number, partition));
                (partition.filesystem.clone(), partition.device_bytes)
            }
            (None, Some(swap)) => {
                self.swaps.push(Swap { number: *number, ..swap.clone() });
                (SWAP.to_owned(), LEAST_SWAP_BYTES)
            }
            (None, None) => {
                let revision = &manifest.revision;
                let has = names(manifest, disk);
                let message = format!("{revision} has no partition {name}; it has {has}");
                return Err(Refusal::NotFound(message));
            }
        };
        let (number, name) = (*number, name.clone());
        self.incoming.push(Incoming { number, name, filesystem, needed_bytes });
        Ok(())
    }

    pub(super) fn views(&self) -> Vec<PlacedView> {
        let view = |incoming: &Incoming| PlacedView {
            partition: incoming.name.clone(),
            filesystem: incoming.filesystem.clone(),
            number: incoming.number,
        };
        self.incoming.iter().map(view).collect()
    }

    fn growth(&self, table: &FoundTable) -> Vec<GrowView> {
        let view = |number: &u16| {
            let (_, saved) = self.data.iter().find(|(placed, _)| placed == number)?;
            Some(growth::in_place(saved, *number, table.partition(*number)?.bytes))
        };
        self.grow.iter().filter_map(view).collect()
    }
}

/// Two pages, as small as swap can be.
const LEAST_SWAP_BYTES: u64 = 2 * 4096;

/// The swap partition of the image that is called so.
fn swap<'d>(name: &str, disk: Option<&'d DiskImage>) -> Option<&'d Swap> {
    let disk = disk?;
    disk.whole.swaps.iter().find(|swap| disk.name_of(swap.number).as_deref() == Some(name))
}

fn names(manifest: &Manifest, disk: Option<&DiskImage>) -> String {
    let data =
        manifest.partitions.iter().map(|part| format!("{} ({})", part.name, part.filesystem));
    let swaps = disk.into_iter().flat_map(|disk| {
        let names = disk.whole.swaps.iter().filter_map(|swap| disk.name_of(swap.number));
        names.map(|name| format!("{name} ({SWAP})"))
    });
    data.chain(swaps).collect::<Vec<_>>().join(", ")
}

impl Service {
    pub(super) async fn plan_partitions(
        &self,
        core: &Core,
        request: &DeployRequest,
        image: &Revision,
        partitions: &Partitions<'_>,
        node: &NodeRecord,
    ) -> Result<Planned, Refusal> {
        let inventory = usable(core, node)?;
        let known = self.known(node.id).await?;
        let plan = plan::partitions(&PartitionsAsk {
            inventory,
            ours: known.ours(),
            layouts: &self.settings().layouts,
            incoming: &partitions.incoming,
            sector_bytes: partitions.sector_bytes,
            disk: request.disk.as_deref(),
            yes: request.yes,
        })
        .map_err(will_not_do)?;
        let [write_bytes, wire_bytes] = bytes_of(partitions.data.iter().map(|(_, part)| *part));
        let view = NodePlanView {
            grow: partitions.growth(&plan.table),
            lost: plan.lost.clone(),
            warnings: plan.warnings.clone(),
            needs_yes: plan.needs_yes(),
            write_bytes,
            wire_bytes,
            ..node_view(core, request, node, &plan.disk)
        };
        let is_data = |placed: &&Placed| partitions.data.iter().any(|(n, _)| *n == placed.number);
        let work = Work::DeployPartitions {
            image: image.clone(),
            partitions: partitions.asked.iter().filter(is_data).cloned().collect(),
            swaps: partitions.swaps.clone(),
            disk: plan.selector,
            table: plan.table,
            overwrite: plan.overwrite,
            grow: partitions.grow.clone(),
            hostname: view.hostname.clone(),
            adaptation: request.adaptation.clone(),
            finish: finish(request.report),
        };
        Ok(Planned { node: node.clone(), view, work })
    }
}
