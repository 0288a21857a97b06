//! Where an image goes, as a request says it, and what that comes to on each node: a slot, a whole disk, or
//! partitions that a disk has.

mod disk;
mod partitions;

use super::{
    Refusal, Service,
    core::Core,
    deploy::{Planned, finish, usable, will_not_do},
    growth,
    view::{DeployRequest, NodePlanView, ReportMode, TargetView},
};
use crate::{
    jobs::{
        plan::{self, Ask, DiskUse, Ours, PartitionUse, SlotUse},
        task::Finish,
    },
    store::{JobSpec, NodeRecord, Work},
};
use disk::WholeDisk;
use metalcast_formats::clonezilla::RAW;
use metalcast_shared::{
    disk::Disk,
    fix_up::{ADAPTED_FILESYSTEMS, Adaptation},
    fresh::Fresh,
    id::{NodeId, Revision},
    manifest::{Manifest, Partition},
};
use partitions::Partitions;
use std::sync::Arc;

/// Where an image goes.
pub(super) struct Target<'m> {
    image: &'m Revision,
    place: Place<'m>,
}

enum Place<'m> {
    Slot { slot: u16, partition: &'m Partition, fresh: Option<Fresh> },
    Disk(Box<WholeDisk<'m>>),
    Partitions(Partitions<'m>),
}

/// What we put on a node's disks.
struct Known {
    slots: Vec<SlotUse>,
    disks: Vec<DiskUse>,
    partitions: Vec<PartitionUse>,
}

impl Service {
    /// What the request is about.
    pub(super) async fn target<'m>(
        &self,
        request: &DeployRequest,
        manifest: &'m Manifest,
    ) -> Result<Target<'m>, Refusal> {
        let image = &manifest.revision;
        let place = match (request.slot, request.whole_disk, &request.partitions[..]) {
            (Some(slot), false, []) => {
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
            (None, true, []) => {
                refuse_options(slots_only(request), "slots; a whole disk is as the image has it")?;
                let disk = self.disk_image(image).await?;
                let disk = disk.map_err(|why| {
                    Refusal::Invalid(format!("{image} cannot be put on a whole disk: {why}"))
                })?;
                Place::Disk(Box::new(WholeDisk::of(disk, manifest, request)?))
            }
            (None, false, placed @ [_, ..]) => {
                refuse_options(
                    slots_only(request),
                    "slots; partitions become as the image has them",
                )?;
                let option = [("--fresh-ids", request.fresh_ids)];
                refuse_options(option, "whole disks; partitions keep the ids of the image")?;
                let disk = self.disk_image(image).await?.ok();
                Place::Partitions(Partitions::of(placed, disk.as_ref(), manifest, request)?)
            }
            _ => {
                return Err(Refusal::Invalid(
                    "name either a slot, the whole disk, or partitions of the disk".into(),
                ));
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
            Place::Partitions(partitions) => {
                self.plan_partitions(core, request, target.image, partitions, node).await
            }
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
            grow: grow.map(|_| growth::of_slot(layout, (slot, partition))).into_iter().collect(),
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
        let disks = self.store().whole_disks(node).await?;
        Ok(Known { slots, disks, partitions: self.store().partitions(node).await? })
    }
}

impl Known {
    fn ours(&self) -> Ours<'_> {
        Ours { slots: &self.slots, disks: &self.disks, partitions: &self.partitions }
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
            Place::Partitions(partitions) => TargetView::Partitions { placed: partitions.views() },
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
            Place::Partitions(all) => {
                JobSpec::DeployPartitions { image, partitions: all.asked.clone(), finish }
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
        grow: Vec::new(),
        present: None,
        lost: Vec::new(),
        warnings: Vec::new(),
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

/// Options of slots, and whether they are there.
fn slots_only(request: &DeployRequest) -> [(&'static str, bool); 4] {
    [
        ("--partition", request.partition.is_some()),
        ("--layout", request.layout.is_some()),
        ("--fs", request.fs.is_some()),
        ("--label", request.label.is_some()),
    ]
}

fn refuse_options<const N: usize>(
    options: [(&'static str, bool); N],
    about: &str,
) -> Result<(), Refusal> {
    match options.iter().find(|(_, is_there)| *is_there) {
        Some((option, _)) => Err(Refusal::Invalid(format!("{option} is about {about}"))),
        None => Ok(()),
    }
}

/// Whether a system on it could be adapted.
fn is_adapted(partition: &Partition) -> bool {
    ADAPTED_FILESYSTEMS.contains(&partition.filesystem.as_str())
}

/// For an image without a filesystem on which a system could be adapted.
fn check_without_system(revision: &Revision, request: &DeployRequest) -> Result<(), Refusal> {
    let Adaptation { authorized_keys, kernel_args, .. } = &request.adaptation;
    let supported = ADAPTED_FILESYSTEMS.join(", ");
    if request.report == ReportMode::Unit {
        return Err(Refusal::Invalid(format!(
            "nothing of {revision} that is deployed has {supported}, and nothing in it can be made to report; \
             repeat with --report none, and the deployment ends as \"done (unconfirmed)\""
        )));
    }
    for (option, is_there) in [
        ("--hostname", request.hostname.is_some()),
        ("--authorized-keys", !authorized_keys.is_empty()),
        ("--kernel-arg", !kernel_args.is_empty()),
    ] {
        if is_there {
            return Err(Refusal::Invalid(format!(
                "nothing of {revision} that is deployed has {supported}: there is no system for {option}"
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
