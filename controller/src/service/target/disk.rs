//! Whole disks as targets of an image.

use super::{
    DeployRequest, Planned, Refusal, Service, bytes_of, check_without_system, growth, is_adapted,
    node_view,
};
use crate::{
    images::DiskImage,
    jobs::plan::{self, DiskAsk},
    service::{
        core::Core,
        deploy::{finish, usable, will_not_do},
        view::{NodePlanView, PartitionView},
    },
    store::{NodeRecord, Work},
};
use metalcast_formats::{clonezilla::RAW, mbr, whole_disk};
use metalcast_shared::{
    fix_up::ADAPTED_FILESYSTEMS,
    fresh_ids::Seed,
    id::Revision,
    manifest::{Manifest, Partition},
    whole_disk::DiskTable,
};
use uuid::Uuid;

/// A disk with the partitions of the image that are put on it, by their numbers.
pub(super) struct WholeDisk<'m> {
    pub(super) image: DiskImage,
    partitions: Vec<(u16, &'m Partition)>,
    /// Number of the one that grows.
    grow: Option<u16>,
    /// Whether each node's disk gets ids of its own.
    pub(super) fresh_ids: bool,
}

impl Service {
    pub(super) async fn plan_disk(
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
            grow: disk.grow.map(grow).transpose()?.into_iter().collect(),
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
}

impl<'m> WholeDisk<'m> {
    /// What nobody could adapt, or wait for, is not asked for by mistake.
    pub(super) fn of(
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
        if !partitions.iter().any(|(_, part)| is_adapted(part)) {
            check_without_system(revision, request)?;
        }
        let grow = |grow| growth::of_disk(grow, revision, &image, &partitions);
        let grow = request.grow.as_ref().map(grow).transpose()?;
        if request.fresh_ids {
            check_fresh_ids(revision, &partitions)?;
        }
        Ok(Self { image, partitions, grow, fresh_ids: request.fresh_ids })
    }

    pub(super) fn views(&self) -> Vec<PartitionView> {
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
