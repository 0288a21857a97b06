//! Where an image goes, as a request says it, and what that comes to on each node: a slot, or a whole
//! disk.

use super::{
    Refusal, Service,
    core::Core,
    deploy::{Planned, finish, usable, will_not_do},
    growth,
    view::{DeployRequest, NodePlanView, PartitionView, ReportMode, TargetView},
};
use crate::{
    images::DiskImage,
    jobs::{
        plan::{self, Ask, DiskAsk, DiskUse, Ours, SlotUse},
        task::Finish,
    },
    store::{JobSpec, NodeRecord, Work},
};
use metalcast_formats::{clonezilla::RAW, mbr, whole_disk};
use metalcast_shared::{
    disk::Disk,
    fix_up::{ADAPTED_FILESYSTEMS, Adaptation},
    fresh::Fresh,
    fresh_ids::Seed,
    id::{NodeId, Revision},
    manifest::{Manifest, Partition},
    whole_disk::DiskTable,
};
use std::sync::Arc;
use uuid::Uuid;

/// Where an image goes.
pub(super) struct Target<'m> {
    image: &'m Revision,
    place: Place<'m>,
}

enum Place<'m> {
    Slot { slot: u16, partition: &'m Partition, fresh: Option<Fresh> },
    Disk(Box<WholeDisk<'m>>),
}

/// A disk with the partitions of the image that are put on it, by their numbers.
struct WholeDisk<'m> {
    image: DiskImage,
    partitions: Vec<(u16, &'m Partition)>,
    /// Number of the one that grows.
    grow: Option<u16>,
    /// Whether each node's disk gets ids of its own.
    fresh_ids: bool,
}

/// What we put on a node's disks.
struct Known {
    slots: Vec<SlotUse>,
    disks: Vec<DiskUse>,
}

impl Service {
    /// What the request is about.
    pub(super) async fn target<'m>(
        &self,
        request: &DeployRequest,
        manifest: &'m Manifest,
    ) -> Result<Target<'m>, Refusal> {
        let image = &manifest.revision;
        let place = match (request.slot, request.whole_disk) {
            (Some(slot), false) => {
                growth::check_slot(request.grow.as_ref())?;
                if request.fresh_ids {
                    return Err(Refusal::Invalid(
                        "--fresh-ids is about whole disks; a slot's filesystem gets another id by itself \
                         where the node has the same one already"
                            .into(),
                    ));
                }
                let partition = choose_partition(manifest, request.partition.as_deref())?;
                let fresh = self.fresh(request, image, partition).await?;
                Place::Slot { slot, partition, fresh }
            }
            (None, true) => {
                check_whole_disk(request)?;
                let disk = self.disk_image(image).await?;
                let disk = disk.map_err(|why| {
                    Refusal::Invalid(format!("{image} cannot be put on a whole disk: {why}"))
                })?;
                Place::Disk(Box::new(WholeDisk::of(disk, manifest, request)?))
            }
            (Some(_), true) | (None, false) => {
                return Err(Refusal::Invalid("name either a slot or the whole disk".into()));
            }
        };
        Ok(Target { image, place })
    }

    pub(super) async fn plan_node(
        &self,
        core: &Core,
        request: &DeployRequest,
        target: &Target<'_>,
        node: &NodeRecord,
    ) -> Result<Planned, Refusal> {
        match &target.place {
            Place::Slot { slot, partition, fresh } => {
                let place = (*slot, *partition, fresh.as_ref());
                self.plan_slot(core, request, target.image, place, node).await
            }
            Place::Disk(disk) => self.plan_disk(core, request, target.image, disk, node).await,
        }
    }

    async fn plan_slot(
        &self,
        core: &Core,
        request: &DeployRequest,
        image: &Revision,
        (slot, partition, fresh): (u16, &Partition, Option<&Fresh>),
        node: &NodeRecord,
    ) -> Result<Planned, Refusal> {
        let inventory = usable(core, node)?;
        let layout =
            self.layout_named(request.layout.as_deref().unwrap_or(self.layout_of(node)))?;
        let known = self.known(node.id).await?;
        let plan = plan::deployment(&Ask {
            inventory,
            ours: known.ours(),
            layout,
            slot,
            disk: request.disk.as_deref(),
            needed_bytes: partition.device_bytes,
            yes: request.yes,
        })
        .map_err(will_not_do)?;
        let [write_bytes, wire_bytes] = bytes_of([partition]);
        // A filesystem that is made takes all of the slot from the beginning.
        let grow = request.grow.filter(|_| fresh.is_none());
        let view = NodePlanView {
            layout: Some(layout.name.clone()),
            layout_action: Some(plan.layout),
            grow: grow.map(|_| growth::of_slot(layout, (slot, partition))),
            present: plan.present.as_ref().map(|used| used.image.clone()),
            lost: plan.foreign.clone(),
            needs_yes: plan.needs_yes(),
            write_bytes,
            wire_bytes,
            ..node_view(core, request, node, &plan.disk)
        };
        let work = Work::Deploy {
            image: image.clone(),
            partition: partition.name.clone(),
            disk: plan.selector,
            layout: layout.clone(),
            slot,
            overwrite: plan.overwrite,
            hostname: view.hostname.clone(),
            adaptation: request.adaptation.clone(),
            fresh: fresh.cloned(),
            grow: grow.is_some(),
            write_bytes,
            wire_bytes,
            finish: finish(request.report),
        };
        Ok(Planned { node: node.clone(), view, work })
    }

    async fn plan_disk(
        &self,
        core: &Core,
        request: &DeployRequest,
        image: &Revision,
        disk: &WholeDisk<'_>,
        node: &NodeRecord,
    ) -> Result<Planned, Refusal> {
        let inventory = usable(core, node)?;
        let known = self.known(node.id).await?;
        let plan = plan::whole_disk(&DiskAsk {
            inventory,
            ours: known.ours(),
            whole: &disk.image.whole,
            disk: request.disk.as_deref(),
            yes: request.yes,
        })
        .map_err(will_not_do)?;
        let grow = |number| growth::on_disk(number, &disk.image, plan.disk.bytes, &disk.partitions);
        let [write_bytes, wire_bytes] = bytes_of(disk.partitions.iter().map(|(_, part)| *part));
        let view = NodePlanView {
            grow: disk.grow.map(grow).transpose()?,
            present: plan.present.as_ref().map(|used| used.image.clone()),
            lost: plan.foreign.clone(),
            needs_yes: plan.needs_yes(),
            write_bytes,
            wire_bytes,
            ..node_view(core, request, node, &plan.disk)
        };
        // Drawn once, and kept with the task: taken again it gives the same.
        let fresh_ids = disk.fresh_ids.then(|| Seed(Uuid::new_v4()));
        let whole = &disk.image.whole;
        let work = Work::DeployDisk {
            image: image.clone(),
            disk: plan.selector,
            table: fresh_ids.map_or(whole.table.id(), |seed| seed.renew(whole).table.id()),
            overwrite: plan.overwrite,
            own: plan.present.map(|used| used.table),
            hostname: view.hostname.clone(),
            adaptation: request.adaptation.clone(),
            grow: disk.grow,
            fresh_ids,
            finish: finish(request.report),
        };
        Ok(Planned { node: node.clone(), view, work })
    }

    /// The filesystem that is made for a tar archive. One without anything to start is refused here.
    async fn fresh(
        &self,
        request: &DeployRequest,
        image: &Revision,
        partition: &Partition,
    ) -> Result<Option<Fresh>, Refusal> {
        if !partition.is_archive() {
            return match request.fs.is_some() || request.label.is_some() {
                true => Err(Refusal::Invalid(format!(
                    "{image} has a filesystem of its own; --fs and --label are for tar archives"
                ))),
                false => Ok(None),
            };
        }
        let (catalog, revision) = (Arc::clone(&self.shared.parts.catalog), image.clone());
        let name = partition.name.clone();
        let index = tokio::task::spawn_blocking(move || catalog.archive_index(&revision, &name));
        let index = index.await.map_err(anyhow::Error::from)??;
        let startable = index.check_startable();
        startable.map_err(|why| Refusal::Invalid(format!("{image}: {why}")))?;
        let (kind, label) = (request.fs.unwrap_or_default(), request.label.clone());
        Ok(Some(Fresh { kind, label }))
    }

    async fn known(&self, node: NodeId) -> Result<Known, Refusal> {
        let slots = self.store().slots(node).await?;
        Ok(Known { slots, disks: self.store().whole_disks(node).await? })
    }
}

impl Known {
    fn ours(&self) -> Ours<'_> {
        Ours { slots: &self.slots, disks: &self.disks }
    }
}

impl<'m> Target<'m> {
    /// A slot that gets an archive which is still to come.
    pub(super) fn of_archive(
        image: &'m Revision,
        (slot, partition): (u16, &'m Partition),
        fresh: Fresh,
    ) -> Self {
        Self { image, place: Place::Slot { slot, partition, fresh: Some(fresh) } }
    }

    /// What an operator sees of it.
    pub(super) fn view(&self) -> TargetView {
        match &self.place {
            Place::Slot { slot, partition, fresh } => TargetView::Slot {
                partition: partition.name.clone(),
                filesystem: partition.filesystem.clone(),
                slot: *slot,
                fresh: fresh.clone(),
            },
            Place::Disk(disk) => TargetView::WholeDisk {
                table: disk.image.whole.table.id().to_string(),
                partitions: disk.views(),
                fresh_ids: disk.fresh_ids,
            },
        }
    }

    /// What the job is about.
    pub(super) fn spec(&self, image: Revision, finish: Finish) -> JobSpec {
        match &self.place {
            Place::Slot { slot, partition, .. } => {
                let (partition, slot) = (partition.name.clone(), *slot);
                JobSpec::Deploy { image, partition, slot, finish }
            }
            Place::Disk(_) => JobSpec::DeployDisk { image, finish },
        }
    }
}

impl<'m> WholeDisk<'m> {
    /// What nobody could adapt, or wait for, is not asked for by mistake.
    fn of(
        image: DiskImage,
        manifest: &'m Manifest,
        request: &DeployRequest,
    ) -> Result<Self, Refusal> {
        let revision = &manifest.revision;
        let find = |placed: &metalcast_shared::to_agent::Placed| {
            let name = &placed.partition;
            let partition = manifest.partition(name).ok_or_else(|| {
                Refusal::Invalid(format!("{revision} lists {name}, but does not hold it"))
            })?;
            Ok((placed.number, partition))
        };
        let partitions: Vec<(u16, &Partition)> =
            image.partitions.iter().map(find).collect::<Result<_, Refusal>>()?;
        whole_disk::needed_bytes(&image.whole).map_err(|error| {
            Refusal::Invalid(format!("{revision} cannot be put on a whole disk: {error}"))
        })?;
        let is_adapted =
            |(_, part): &(u16, &Partition)| ADAPTED_FILESYSTEMS.contains(&part.filesystem.as_str());
        if !partitions.iter().any(is_adapted) {
            check_without_system(revision, request)?;
        }
        let grow = |grow| growth::of_disk(grow, revision, &image, &partitions);
        let grow = request.grow.as_ref().map(grow).transpose()?;
        if request.fresh_ids {
            check_fresh_ids(revision, &partitions)?;
        }
        Ok(Self { image, partitions, grow, fresh_ids: request.fresh_ids })
    }

    fn views(&self) -> Vec<PartitionView> {
        let whole = &self.image.whole;
        let unit = u64::from(whole.sector_bytes);
        let view = |number: u16, start_lba: u64, sectors: u64, is_extended: bool| {
            let saved = self.partitions.iter().find(|(placed, _)| *placed == number);
            let what = match saved {
                Some((_, part)) if part.filesystem == RAW => format!("raw image {}", part.name),
                Some((_, part)) => format!("{} of {}", part.filesystem, part.name),
                None if whole.swaps.iter().any(|swap| swap.number == number) => "swap".into(),
                None if is_extended => "extended".into(),
                None => "nothing".into(),
            };
            let bytes = sectors.saturating_mul(unit);
            PartitionView { number, start_bytes: start_lba.saturating_mul(unit), bytes, what }
        };
        match &whole.table {
            DiskTable::Mbr { partitions, .. } => partitions
                .iter()
                .map(|p| view(p.number, p.start_lba, p.sectors, mbr::is_extended(p.kind)))
                .collect(),
            DiskTable::Gpt { partitions, .. } => {
                partitions.iter().map(|p| view(p.number, p.start_lba, p.sectors, false)).collect()
            }
        }
    }
}

/// What is the same whatever the target is.
fn node_view(core: &Core, request: &DeployRequest, node: &NodeRecord, disk: &Disk) -> NodePlanView {
    NodePlanView {
        node: node.name.clone(),
        online: core.sessions.contains_key(&node.id),
        disk: disk.to_string(),
        disk_bytes: disk.bytes,
        contents: disk.contents.iter().map(ToString::to_string).collect(),
        layout: None,
        layout_action: None,
        grow: None,
        present: None,
        lost: Vec::new(),
        needs_yes: false,
        hostname: request.hostname.clone().unwrap_or_else(|| node.name.clone()),
        write_bytes: 0,
        wire_bytes: 0,
    }
}

/// Bytes that are written, and that come over the network for it.
fn bytes_of<'m>(partitions: impl IntoIterator<Item = &'m Partition>) -> [u64; 2] {
    partitions.into_iter().fold([0, 0], |[write, wire], partition| {
        let frames = partition.file_bytes.saturating_sub(u64::from(partition.head_bytes));
        [write.saturating_add(partition.used_bytes()), wire.saturating_add(frames)]
    })
}

fn check_whole_disk(request: &DeployRequest) -> Result<(), Refusal> {
    for (option, is_there) in [
        ("--partition", request.partition.is_some()),
        ("--layout", request.layout.is_some()),
        ("--fs", request.fs.is_some()),
        ("--label", request.label.is_some()),
    ] {
        if is_there {
            let message = format!("{option} is about slots; a whole disk is as the image has it");
            return Err(Refusal::Invalid(message));
        }
    }
    Ok(())
}

/// Windows names its disk by ids in a file that is none of text. The agent looks again, also into raw
/// images.
fn check_fresh_ids(revision: &Revision, partitions: &[(u16, &Partition)]) -> Result<(), Refusal> {
    let is = |part: &Partition, kinds: &[&str]| kinds.contains(&part.filesystem.as_str());
    let windows = partitions.iter().find(|(_, part)| is(part, &["ntfs"]));
    let why = match windows {
        Some((number, _)) => format!(
            "partition {number} is ntfs, and Windows names disk and partitions by their ids in its boot \
             configuration, which does not follow"
        ),
        None if partitions.iter().any(|(_, part)| is(part, &ADAPTED_FILESYSTEMS)) => return Ok(()),
        None => "it has no Linux system whose files could name other ids".into(),
    };
    Err(Refusal::Invalid(format!("{revision} keeps its ids: {why}; leave out --fresh-ids")))
}

/// For an image without a filesystem on which a system could be adapted.
fn check_without_system(revision: &Revision, request: &DeployRequest) -> Result<(), Refusal> {
    let Adaptation { authorized_keys, kernel_args, .. } = &request.adaptation;
    let supported = ADAPTED_FILESYSTEMS.join(", ");
    if request.report == ReportMode::Unit {
        return Err(Refusal::Invalid(format!(
            "{revision} has no partition with {supported}: nothing in it can be made to report; repeat with \
             --report none, and the deployment ends as \"done (unconfirmed)\""
        )));
    }
    for (option, is_there) in [
        ("--hostname", request.hostname.is_some()),
        ("--authorized-keys", !authorized_keys.is_empty()),
        ("--kernel-arg", !kernel_args.is_empty()),
    ] {
        if is_there {
            return Err(Refusal::Invalid(format!(
                "{revision} has no partition with {supported}: there is no system for {option}"
            )));
        }
    }
    Ok(())
}

pub(super) fn choose_partition<'m>(
    manifest: &'m Manifest,
    wanted: Option<&str>,
) -> Result<&'m Partition, Refusal> {
    let names = || {
        let names: Vec<String> = manifest
            .partitions
            .iter()
            .map(|partition| format!("{} ({})", partition.name, partition.filesystem))
            .collect();
        names.join(", ")
    };
    let image = &manifest.revision;
    if let Some(name) = wanted {
        return manifest.partition(name).ok_or_else(|| {
            Refusal::NotFound(format!("{image} has no partition {name}; it has {}", names()))
        });
    }
    // What nobody knew to read (BIOS boot, Microsoft reserved ...) is no system.
    let systems: Vec<_> =
        manifest.partitions.iter().filter(|partition| partition.filesystem != RAW).collect();
    match systems[..] {
        [only] => Ok(only),
        [] => Err(Refusal::Invalid(format!(
            "{image} has no partition with a filesystem; it has {}",
            names()
        ))),
        _ => Err(Refusal::Invalid(format!(
            "{image} has several partitions, choose one with --partition: {}",
            names()
        ))),
    }
}
