//! Comparisons of slots and whole disks with what was put there, and what deploys left.

use super::{
    Refusal, Service,
    deploy::{Problems, chosen, netboot_limit_ms, usable, will_not_do},
    operator::no_image,
    target::choose_partition,
    tasks::task_id,
    view::{VerifyAnswer, VerifyPlanView, VerifyRequest},
};
use crate::{
    jobs::plan::{self, DiskUse, SlotStage},
    service::core::Core,
    store::{Change, JobSpec, NodeRecord, TaskRecord, Work},
};
use anyhow::{Context, bail, ensure};
use metalcast_shared::{
    as_left::{AsLeft, MAX_AS_LEFT_BYTES},
    disk::{Disk, DiskSelector},
    hash::Hash,
    id::{NodeId, Revision, TaskId},
    inventory::Inventory,
    to_agent::{CompareSource, Packed},
};

/// What is compared on a node.
struct Place {
    disk: Disk,
    selector: DiskSelector,
    image: Revision,
    stage: SlotStage,
    source: CompareSource,
    as_left: Option<Packed>,
}

impl Service {
    /// Plans a comparison, and begins it unless it is a dry run.
    ///
    /// # Errors
    /// When something that is named does not exist or will not do, or a node is busy.
    pub async fn verify(
        &self,
        request: &VerifyRequest,
        who: &str,
    ) -> Result<VerifyAnswer, Refusal> {
        check_form(request)?;
        let mut core = self.core().await;
        let nodes: Vec<NodeRecord> = chosen(&core, &request.nodes)?.into_iter().cloned().collect();
        let (mut views, mut tasks) = (Vec::new(), Vec::new());
        let mut problems = Problems::default();
        for node in nodes {
            match self.plan_comparison(&mut core, request, &node).await {
                Ok((view, work)) => {
                    views.push(view);
                    tasks.push((node, work));
                }
                Err(refusal) => problems.add(&node.name, refusal)?,
            }
        }
        problems.check()?;
        let slot = request.slot;
        if request.dry_run {
            return Ok(VerifyAnswer { slot, plan: views, job: None });
        }
        let limit = netboot_limit_ms(request.timeout_seconds)?;
        let job = self.begin(&mut core, JobSpec::Verify { slot }, tasks, limit, who).await?;
        Ok(VerifyAnswer { slot, plan: views, job: Some(job) })
    }

    async fn plan_comparison(
        &self,
        core: &mut Core,
        request: &VerifyRequest,
        node: &NodeRecord,
    ) -> Result<(VerifyPlanView, Work), Refusal> {
        let inventory = usable(core, node)?;
        let place = match request.slot {
            Some(slot) => self.slot_of(core, request, (node, inventory), slot).await?,
            None => self.disk_of(request, (node, inventory)).await?,
        };
        let view = VerifyPlanView {
            node: node.name.clone(),
            online: core.sessions.contains_key(&node.id),
            disk: place.disk.to_string(),
            image: place.image.clone(),
            partition: match &place.source {
                CompareSource::Slot { partition, .. } => Some(partition.clone()),
                CompareSource::Disk => None,
            },
            has_reported: place.stage == SlotStage::Confirmed,
            has_as_left: place.as_left.is_some(),
        };
        let Place { image, selector: disk, source, as_left, .. } = place;
        Ok((view, Work::Compare { image, disk, source, as_left, found: None }))
    }

    async fn slot_of(
        &self,
        core: &mut Core,
        request: &VerifyRequest,
        (node, inventory): (&NodeRecord, &Inventory),
        slot: u16,
    ) -> Result<Place, Refusal> {
        let slots = self.store().slots(node.id).await?;
        let (disk, selector, used) =
            plan::selection(inventory, &slots, slot).map_err(will_not_do)?;
        let manifest = self.read_manifest(core, &used.image).await?;
        let manifest = manifest.ok_or_else(|| no_image(&used.image))?;
        let left = self.store().as_left(node.id, &used.disk, used.slot).await?;
        let wanted = left.as_ref().map(|(partition, _)| partition.as_str());
        let partition =
            choose_partition(&manifest.0, request.partition.as_deref().or(wanted))?.name.clone();
        let as_left = left.and_then(|(_, encoded)| packed(&encoded));
        let (image, stage, layout) = (used.image, used.stage, used.layout);
        let source = CompareSource::Slot { layout, slot: used.slot, partition };
        Ok(Place { disk, selector, image, stage, source, as_left })
    }

    async fn disk_of(
        &self,
        request: &VerifyRequest,
        (node, inventory): (&NodeRecord, &Inventory),
    ) -> Result<Place, Refusal> {
        let disks = self.store().whole_disks(node.id).await?;
        let (disk, selector, used) =
            plan::deployed_disk(inventory, &disks, request.disk.as_deref()).map_err(will_not_do)?;
        let left = self.store().disk_as_left(node.id, &used.disk).await?;
        let as_left = left.as_deref().and_then(packed);
        if as_left.is_none() {
            let message = format!(
                "it is not known what the deploy of {} left on {disk}; deploy it again, and that is remembered",
                used.image
            );
            return Err(Refusal::Conflict { code: "not-known", message });
        }
        let DiskUse { image, stage, .. } = used;
        Ok(Place { disk, selector, image, stage, source: CompareSource::Disk, as_left })
    }

    /// Keeps what a deploy left, for the agent that has this task with this key.
    ///
    /// # Errors
    /// When it has no such task, what it says contradicts itself, or the store refuses.
    pub async fn keep_left(
        &self,
        (node, key): (NodeId, Hash),
        task: TaskId,
        encoded: Vec<u8>,
    ) -> anyhow::Result<()> {
        ensure!(encoded.len() <= MAX_AS_LEFT_BYTES as usize, "it is too long");
        // Only who has a task is listened to, and nobody waits for that.
        self.task_of(&*self.core().await, (node, key), task)?;
        AsLeft::decode(&encoded)?;
        let core = self.core().await;
        let record = self.task_of(&core, (node, key), task)?;
        let change = match &record.work {
            Work::Deploy { disk, slot, partition, .. } => {
                let (disk, slot, partition) = (disk.to_string(), *slot, partition.clone());
                Change::AsLeft { node, disk, slot, partition, encoded }
            }
            Work::DeployDisk { disk, .. } => {
                Change::DiskAsLeft { node, disk: disk.to_string(), encoded }
            }
            _ => bail!("the task is no deploy"),
        };
        self.store().apply(&[change]).await.context("keeping it")
    }

    /// What a deploy left, for the agent that has this task with this key, which is to compare.
    ///
    /// # Errors
    /// When it has no such task, or nothing is known any more.
    pub async fn as_left(
        &self,
        (node, key): (NodeId, Hash),
        task: TaskId,
    ) -> anyhow::Result<Vec<u8>> {
        let core = self.core().await;
        let record = self.task_of(&core, (node, key), task)?;
        let Work::Compare { disk, source, .. } = &record.work else {
            bail!("the task is no comparison");
        };
        let (store, disk) = (self.store(), disk.to_string());
        let left = match source {
            CompareSource::Slot { slot, .. } => {
                store.as_left(node, &disk, *slot).await?.map(|(_, encoded)| encoded)
            }
            CompareSource::Disk => store.disk_as_left(node, &disk).await?,
        };
        left.context("it is not known any more")
    }

    fn task_of<'c>(
        &self,
        core: &'c Core,
        (node, key): (NodeId, Hash),
        task: TaskId,
    ) -> anyhow::Result<&'c TaskRecord> {
        let may = self.granted().get(&node).is_some_and(|right| right.key == key);
        let active = core.tasks.get(&node).filter(|active| task_id(&active.record) == task);
        let active =
            active.filter(|_| may).context("this node has no such task, or not any more")?;
        Ok(&active.record)
    }
}

/// That what is asked for goes together.
fn check_form(request: &VerifyRequest) -> Result<(), Refusal> {
    let problem = match (request.slot, request.whole_disk) {
        (None, false) => "say what to compare: a slot, or the whole disk",
        (Some(_), true) => "say what to compare: a slot or the whole disk, not both",
        (None, true) if request.partition.is_some() => {
            "all partitions of a whole disk are compared; a partition can be named for a slot only"
        }
        (Some(_), false) if request.disk.is_some() => "a disk can be named for a whole disk only",
        _ => return Ok(()),
    };
    Err(Refusal::Invalid(problem.to_owned()))
}

fn packed(encoded: &[u8]) -> Option<Packed> {
    Some(Packed { bytes: u32::try_from(encoded.len()).ok()?, hash: Hash::of(encoded) })
}
