//! Taking tasks a step further: the pure step, its record, then its effects.

use super::{
    Service,
    core::{ActiveTask, Core},
};
use crate::{
    images::DiskImage,
    jobs::task::{self, Deadline, Finish, Heard, TaskEffect, TaskEvent, TaskState},
    store::{
        AuditRecord, BootSeen, Change, DefaultBoot, EventRecord, Noted, Store, TaskRecord, Work,
    },
};
use anyhow::Context;
use metalcast_shared::{
    boot::{ReportConfig, ReportToken},
    disk::DiskSelector,
    event::{Step, TaskEvent as AgentEvent},
    id::{NodeId, Revision, TaskId},
    manifest::{Manifest, SignedManifest},
    to_agent::{
        Capture, Compare, Deploy, DeployDisk, DeployPartitions, FixUp, Overwrite, SelectSlot, Task,
        ToAgent, Work as WireWork,
    },
};
use std::sync::Arc;

/// What offers the system that runs on a machine.
pub(super) const GOLDEN: &str = "`metalcast-agent golden`";

/// How often what is old is forgotten.
const FORGET_EVERY_MS: i64 = 3600 * 1000;

impl Service {
    /// Takes the node's unfinished task a step further. `changes` are kept in the same transaction.
    /// Nothing happens in memory, and nothing is sent, unless the store has it.
    pub(super) async fn advance(
        &self,
        core: &mut Core,
        node: NodeId,
        event: &TaskEvent,
        mut changes: Vec<Change>,
    ) -> anyhow::Result<()> {
        let now = self.now();
        let active = core.tasks.get(&node).context("the node has no task")?;
        let old = &active.record;
        let (life, effects) = task::step(&old.life, event, now);
        let renamed = life.state.name() != old.life.state.name();
        let differs = life != old.life;
        let mut record = old.clone();
        if renamed {
            record.changed = now;
            changes.push(Change::Event(state_event(old, &life, now)));
        }
        record.life = life;
        if differs {
            changes.push(Change::Task(Box::new(record.clone())));
        }
        let boot = effects.iter().find_map(|effect| default_boot(effect, &old.work));
        let mut node_record = None;
        if let (Some(boot), Some(current)) = (boot, core.nodes.get(&node))
            && current.default_boot != boot
        {
            let mut changed = current.clone();
            changed.default_boot = boot;
            changes.push(Change::Node(Box::new(changed.clone())));
            node_record = Some(changed);
        }
        if !changes.is_empty() {
            self.store().apply(&changes).await.context("keeping a task's step")?;
        }
        if let Some(changed) = node_record {
            core.nodes.insert(node, changed);
        }
        self.adopt(core, node, record);
        if renamed {
            self.announce(core, node);
        }
        for effect in effects {
            self.carry_out(core, node, &effect).await;
        }
        self.forget_ended(core, node);
        self.publish(core);
        Ok(())
    }

    fn adopt(&self, core: &mut Core, node: NodeId, record: TaskRecord) {
        if let Some(active) = core.tasks.get_mut(&node) {
            if active.record.life.generation != record.life.generation {
                active.last_number = 0;
                active.forget_progress();
            }
            active.record = record;
        }
    }

    fn announce(&self, core: &Core, node: NodeId) {
        let Some(active) = core.tasks.get(&node) else { return };
        let state = &active.record.life.state;
        let (name, job) = (&active.record.node_name, active.record.job);
        match state {
            TaskState::Failed { cause } => {
                tracing::error!(node = %name, %job, cause, "task failed");
            }
            TaskState::Waiting { .. }
            | TaskState::AwaitingSource { .. }
            | TaskState::HandedOut { .. }
            | TaskState::Running { .. }
            | TaskState::Cancelling { .. }
            | TaskState::WorkDone { .. }
            | TaskState::Rebooting { .. }
            | TaskState::AwaitingReport { .. }
            | TaskState::Done { .. }
            | TaskState::Cancelled { .. } => {
                tracing::info!(node = %name, %job, state = state.name(), "task");
            }
        }
    }

    fn forget_ended(&self, core: &mut Core, node: NodeId) {
        if core.tasks.get(&node).is_some_and(|task| task.record.life.state.has_ended()) {
            core.tasks.remove(&node);
        }
    }

    /// Effects that the store does not know. They may be lost: an agent that comes back is told again.
    async fn carry_out(&self, core: &mut Core, node: NodeId, effect: &TaskEffect) {
        let Some(id) = core.tasks.get(&node).map(|active| task_id(&active.record)) else { return };
        match effect {
            TaskEffect::HandOut => self.hand_out(core, node, id).await,
            TaskEffect::SendCancel { reason } => {
                core.send(node, ToAgent::Cancel { task: id, reason: reason.clone() });
            }
            TaskEffect::OrderReboot => {
                let mac = core.nodes.get(&node).map(|record| record.boot_mac);
                if let Some(mac) = mac {
                    let (at, detail) = (self.now(), format!("job {}", id.job));
                    core.gather_boot(BootSeen { mac, at, what: "reboot-ordered".into(), detail });
                }
                let reason = "the work is done, the machine starts from its disk".to_owned();
                core.send(node, ToAgent::Reboot { reason });
            }
            // Part of the record already.
            TaskEffect::BootFromDisk | TaskEffect::BootIntoAgent => {}
        }
    }

    async fn hand_out(&self, core: &mut Core, node: NodeId, id: TaskId) {
        let Some(active) = core.tasks.get(&node) else { return };
        let work = active.record.work.clone();
        match self.wire_work(core, id, &work).await {
            Ok(work) => core.send(node, ToAgent::Task(Box::new(Task { id, work }))),
            Err(error) => {
                // The deadline of the hand-out ends the task if this goes on.
                let error = format!("{error:#}");
                tracing::error!(node = %core.name_of(node), job = %id.job, error, "handing out a task");
                let line = format!("the task of job {} cannot be handed out: {error}", id.job);
                self.alarm(core, node, &line);
            }
        }
    }

    async fn wire_work(
        &self,
        core: &mut Core,
        id: TaskId,
        work: &Work,
    ) -> anyhow::Result<WireWork> {
        match work.clone() {
            Work::Golden { .. } => Ok(WireWork::Golden),
            Work::SelectSlot { disk, layout, slot } => {
                Ok(WireWork::SelectSlot(SelectSlot { disk, layout, slot }))
            }
            Work::Compare { image, disk, source, as_left, .. } => {
                let manifest = self.signed_manifest(core, &image).await?;
                let compare = Compare { image, manifest, disk, source, as_left };
                Ok(WireWork::Compare(Box::new(compare)))
            }
            Work::Capture { disk, source, name, force, raw, tar, .. } => {
                Ok(WireWork::Capture(Box::new(Capture { disk, source, name, force, raw, tar })))
            }
            Work::Deploy {
                image,
                partition,
                disk,
                layout,
                slot,
                overwrite,
                hostname,
                adaptation,
                fresh,
                grow,
                finish,
                ..
            } => {
                let manifest = self.signed_manifest(core, &image).await?;
                let overwrite = self.overwrite(id, overwrite, &disk, Some(slot)).await?;
                let fix_up = FixUp { hostname, report: self.report(id, finish), adaptation };
                Ok(WireWork::Deploy(Box::new(Deploy {
                    image,
                    manifest,
                    partition,
                    disk,
                    layout,
                    slot,
                    overwrite,
                    grow,
                    fix_up,
                    fresh,
                })))
            }
            Work::DeployDisk {
                image,
                disk,
                overwrite,
                own,
                hostname,
                adaptation,
                grow,
                fresh_ids,
                finish,
                ..
            } => {
                let manifest = self.signed_manifest(core, &image).await?;
                let DiskImage { whole, partitions } =
                    self.disk_image(&image).await?.map_err(anyhow::Error::msg)?;
                let overwrite = self.overwrite(id, overwrite, &disk, None).await?;
                let fix_up = FixUp { hostname, report: self.report(id, finish), adaptation };
                Ok(WireWork::DeployDisk(Box::new(DeployDisk {
                    image,
                    manifest,
                    partitions,
                    disk,
                    whole,
                    overwrite,
                    own,
                    grow,
                    fix_up,
                    fresh_ids,
                })))
            }
            Work::DeployPartitions {
                image,
                partitions,
                swaps,
                disk,
                table,
                overwrite,
                grow,
                hostname,
                adaptation,
                finish,
            } => {
                let manifest = self.signed_manifest(core, &image).await?;
                let overwrite = match self.has_begun(id, Step::Clear).await? {
                    true => Overwrite::AnySlot,
                    false => overwrite,
                };
                let fix_up = FixUp { hostname, report: self.report(id, finish), adaptation };
                Ok(WireWork::DeployPartitions(Box::new(DeployPartitions {
                    image,
                    manifest,
                    partitions,
                    swaps,
                    disk,
                    table,
                    overwrite,
                    grow,
                    fix_up,
                })))
            }
        }
    }

    /// How the deployed system reports in, if it does.
    fn report(&self, task: TaskId, finish: Finish) -> Option<ReportConfig> {
        match finish {
            Finish::Report => Some(ReportConfig {
                url: self.settings().report_url.clone(),
                token: (self.shared.parts.seal_report)(&ReportToken { task }),
            }),
            Finish::LocalBoot | Finish::Saved | Finish::RunsOn => None,
        }
    }

    async fn signed_manifest(
        &self,
        core: &mut Core,
        image: &Revision,
    ) -> anyhow::Result<SignedManifest> {
        let manifest = self.manifest(core, image).await?;
        Ok(manifest.with_context(|| format!("image {image} is gone"))?.1.clone())
    }

    /// What a revision says of its whole disk, or why it is none of one.
    pub(super) async fn disk_image(
        &self,
        image: &Revision,
    ) -> anyhow::Result<Result<DiskImage, String>> {
        let (catalog, wanted) = (Arc::clone(&self.shared.parts.catalog), image.clone());
        tokio::task::spawn_blocking(move || catalog.whole_disk(&wanted))
            .await
            .context("reading an image's files")?
            .with_context(|| format!("reading the disk of {image}"))
    }

    /// What an agent may lose. An earlier hand-out that began to partition had found a blank disk, or
    /// our layout with a blank slot: what it left half-made there is our own. Without a slot it is about
    /// the whole disk.
    async fn overwrite(
        &self,
        id: TaskId,
        overwrite: Overwrite,
        disk: &DiskSelector,
        slot: Option<u16>,
    ) -> anyhow::Result<Overwrite> {
        if overwrite != Overwrite::BlankOnly || !self.has_begun(id, Step::Partition).await? {
            return Ok(overwrite);
        }
        let Some(slot) = slot else { return Ok(Overwrite::WholeDisk) };
        let (slots, disk) = (self.store().slots(id.node).await?, disk.to_string());
        let has_others = slots.iter().any(|used| used.disk == disk && used.slot != slot);
        Ok(if has_others { Overwrite::OwnSlot } else { Overwrite::WholeDisk })
    }

    /// Whether an earlier hand-out came to a step: what is half-made on the disk since is our own.
    async fn has_begun(&self, id: TaskId, step: Step) -> anyhow::Result<bool> {
        let began = AgentEvent::StepStarted { step };
        Ok(id.generation >= 2 && self.store().was_said(id.job, id.node, &began).await?)
    }

    /// A revision's manifest, from memory or from the images' disk.
    async fn manifest(
        &self,
        core: &mut Core,
        revision: &Revision,
    ) -> anyhow::Result<Option<Arc<(Manifest, SignedManifest)>>> {
        match core.cached_manifest(revision) {
            Some(manifest) => Ok(Some(manifest)),
            None => self.read_manifest(core, revision).await,
        }
    }

    /// A revision's manifest from the images' disk.
    pub(super) async fn read_manifest(
        &self,
        core: &mut Core,
        revision: &Revision,
    ) -> anyhow::Result<Option<Arc<(Manifest, SignedManifest)>>> {
        let catalog = Arc::clone(&self.shared.parts.catalog);
        let wanted = revision.clone();
        let found = tokio::task::spawn_blocking(move || catalog.manifest(&wanted))
            .await
            .context("reading a manifest")?
            .with_context(|| format!("reading the manifest of {revision}"))?;
        Ok(found.map(|manifest| {
            let manifest = Arc::new(manifest);
            core.cache_manifest(revision.clone(), Arc::clone(&manifest));
            manifest
        }))
    }

    /// Ends every task whose deadline has passed.
    pub(super) async fn expire(&self, core: &mut Core) -> anyhow::Result<()> {
        let now = self.now();
        let late: Vec<(NodeId, String)> = core
            .tasks
            .keys()
            .filter_map(|node| Some((*node, deadline(core, *node)?)))
            .filter(|(_, deadline)| deadline.at <= now)
            .map(|(node, deadline)| (node, deadline.cause))
            .collect();
        let mut outcome = Ok(());
        for (node, cause) in late {
            let event = TaskEvent::Expired { cause };
            outcome = outcome.and(self.advance(core, node, &event, Vec::new()).await);
        }
        outcome
    }

    /// Writes the gathered log lines and boot events.
    pub(super) async fn flush(&self, core: &mut Core) -> anyhow::Result<()> {
        if core.dropped > 0 {
            tracing::warn!(
                lines = core.dropped,
                "log lines or boot events came too fast and were dropped"
            );
            core.dropped = 0;
        }
        if !core.logs.is_empty() {
            self.store().append_logs(&core.logs).await.context("keeping log lines")?;
            core.logs.clear();
        }
        if !core.boots.is_empty() {
            self.store().append_boot_events(&core.boots).await.context("keeping boot events")?;
            core.boots.clear();
        }
        let now = self.now();
        if now - core.boots_forgotten >= FORGET_EVERY_MS {
            self.store().forget_old(now).await.context("forgetting what is old")?;
            core.boots_forgotten = now;
        }
        Ok(())
    }
}

/// Ends every task that has not ended, in the records of a controller that does not run: after a
/// restore nobody knows what became of the work, and it must not be done again unasked. What the
/// nodes boot by default stays. The number of tasks.
///
/// # Errors
/// When the store refuses.
pub async fn end_unfinished(
    store: &Store,
    why: &str,
    who: &str,
    now_ms: i64,
) -> anyhow::Result<usize> {
    let tasks = store.active_tasks().await.context("reading the tasks")?;
    let audit = AuditRecord { at: now_ms, who: who.to_owned(), what: why.to_owned() };
    let mut changes = vec![Change::Audit(audit)];
    for old in &tasks {
        let cause = format!("what became of it is not known since {who} did this: {why}");
        let (life, _) = task::step(&old.life, &TaskEvent::Expired { cause }, now_ms);
        changes.push(Change::Event(state_event(old, &life, now_ms)));
        let record = TaskRecord { life, changed: now_ms, ..old.clone() };
        changes.push(Change::Task(Box::new(record)));
    }
    store.apply(&changes).await.context("ending the tasks")?;
    Ok(tasks.len())
}

/// When the task of a node ends by itself.
pub(super) fn deadline(core: &Core, node: NodeId) -> Option<Deadline> {
    let ActiveTask { record, netboot_limit_ms, moved, .. } = core.tasks.get(&node)?;
    let agent = core.last_seen.get(&node).copied().unwrap_or(0);
    let heard = Heard { started: core.started, agent, work: *moved };
    let mut deadline = task::deadline(&record.life, heard, *netboot_limit_ms)?;
    if let (TaskState::Waiting { .. }, Some(node)) = (&record.life.state, core.nodes.get(&node))
        && !node.state.is_ready()
    {
        let (name, state) = (&node.name, node.state.name());
        deadline.cause =
            format!("the node is {state}: approve it with `metalcast node approve {name}`");
    } else if let (TaskState::Waiting { .. }, true) = (&record.life.state, record.work.is_golden())
    {
        deadline.cause = format!(
            "the system on it did not offer itself in time: run {GOLDEN} on it, or raise --timeout"
        );
    }
    Some(deadline)
}

/// The identity of a task's last hand-out.
pub(super) fn task_id(record: &TaskRecord) -> TaskId {
    TaskId { job: record.job, node: record.node, generation: record.life.generation }
}

fn default_boot(effect: &TaskEffect, work: &Work) -> Option<DefaultBoot> {
    match effect {
        TaskEffect::BootFromDisk => Some(DefaultBoot::LocalDisk),
        // It starts what it started before.
        TaskEffect::BootIntoAgent if !work.changes_disk() => None,
        TaskEffect::BootIntoAgent => Some(DefaultBoot::RamImage),
        TaskEffect::HandOut | TaskEffect::SendCancel { .. } | TaskEffect::OrderReboot => None,
    }
}

fn state_event(old: &TaskRecord, life: &task::Life, now: i64) -> EventRecord {
    EventRecord {
        seq: 0,
        job: old.job,
        node: old.node,
        generation: life.generation,
        number: None,
        at: now,
        what: Noted::State { name: life.state.name().to_owned(), why: life.state.why() },
    }
}
