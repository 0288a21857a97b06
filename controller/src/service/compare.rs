//! Comparisons of slots with what was put there, and what deploys left in them.

use super::{
    Refusal, Service,
    deploy::{Problems, chosen, netboot_limit_ms, usable, will_not_do},
    operator::no_image,
    target::choose_partition,
    tasks::task_id,
    view::{VerifyAnswer, VerifyPlanView, VerifyRequest},
};
use crate::{
    jobs::plan::{self, SlotStage},
    service::core::Core,
    store::{Change, JobSpec, NodeRecord, TaskRecord, Work},
};
use anyhow::{Context, bail, ensure};
use metalcast_shared::{
    as_left::{AsLeft, MAX_AS_LEFT_BYTES},
    hash::Hash,
    id::{NodeId, TaskId},
    to_agent::Packed,
};

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
        let slots = self.store().slots(node.id).await?;
        let (disk, selector, used) =
            plan::selection(inventory, &slots, request.slot).map_err(will_not_do)?;
        let manifest = self.read_manifest(core, &used.image).await?;
        let manifest = manifest.ok_or_else(|| no_image(&used.image))?;
        let left = self.store().as_left(node.id, &used.disk, used.slot).await?;
        let wanted = left.as_ref().map(|(partition, _)| partition.as_str());
        let partition =
            choose_partition(&manifest.0, request.partition.as_deref().or(wanted))?.name.clone();
        let packed = left.as_ref().and_then(|(_, encoded)| {
            Some(Packed { bytes: u32::try_from(encoded.len()).ok()?, hash: Hash::of(encoded) })
        });
        let view = VerifyPlanView {
            node: node.name.clone(),
            online: core.sessions.contains_key(&node.id),
            disk: disk.to_string(),
            image: used.image.clone(),
            partition: partition.clone(),
            has_reported: used.stage == SlotStage::Confirmed,
            has_as_left: packed.is_some(),
        };
        let work = Work::Compare {
            image: used.image,
            partition,
            disk: selector,
            layout: used.layout,
            slot: used.slot,
            as_left: packed,
            found: None,
        };
        Ok((view, work))
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
        AsLeft::decode(&encoded)?;
        let core = self.core().await;
        let record = self.task_of(&core, (node, key), task)?;
        let Work::Deploy { disk, slot, partition, .. } = &record.work else {
            bail!("the task is no deploy to a slot");
        };
        let change = Change::AsLeft {
            node,
            disk: disk.to_string(),
            slot: *slot,
            partition: partition.clone(),
            encoded,
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
        let Work::Compare { disk, slot, .. } = &record.work else {
            bail!("the task is no comparison");
        };
        let left = self.store().as_left(node, &disk.to_string(), *slot).await?;
        left.map(|(_, encoded)| encoded).context("it is not known any more")
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
