//! What follows from the end of a clone's source.

use crate::service::{
    Service,
    core::{ActiveTask, Core},
};
use crate::{
    jobs::{
        plan::PlanError,
        task::{Finish, TaskEvent, TaskState},
    },
    store::{TaskRecord, Work},
};
use anyhow::Context;
use metalcast_shared::{
    id::{JobId, NodeId, Revision},
    manifest::ARCHIVE_NAME,
};
use std::{collections::BTreeMap, sync::Arc};

/// How long a revision stays that could not be removed, until that is tried again.
const REMOVE_AGAIN_MS: i64 = 60_000;

/// The others of a job, and what they await.
struct Awaiting {
    source: NodeId,
    nodes: Vec<NodeId>,
}

/// What came of a source.
struct Came {
    needed_bytes: u64,
    write_bytes: u64,
    wire_bytes: u64,
}

impl Service {
    /// Takes up what the store holds of clones when the controller starts: what was being sent is not sent
    /// on, and what no job needs any more is removed.
    pub(in crate::service) async fn take_up_clones(&self) -> anyhow::Result<()> {
        let mut core = self.core().await;
        let catalog = Arc::clone(&self.shared.parts.catalog);
        let found = tokio::task::spawn_blocking(move || catalog.clones()).await;
        let found = found.context("looking for clones")?.context("looking for clones")?;
        core.clones = found.into_iter().map(|revision| (revision, 0)).collect();
        let cut_off = |(node, task): (&NodeId, &ActiveTask)| {
            Some((*node, broken_off(&task.record, "the controller was stopped")?))
        };
        let cut_off: Vec<(NodeId, TaskEvent)> = core.tasks.iter().filter_map(cut_off).collect();
        for (node, event) in cut_off {
            self.advance(&mut core, node, &event, Vec::new()).await?;
        }
        self.settle_clones(&mut core).await
    }

    /// Lets those go on, or fail, whose source has ended, and removes what nobody needs any more.
    pub(in crate::service) async fn settle_clones(&self, core: &mut Core) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        for (job, awaiting) in awaiting(core) {
            if core.job_of(awaiting.source) != Some(job) {
                outcome = outcome.and(self.settle(core, job, &awaiting).await);
            }
        }
        self.remove_clones(core).await;
        outcome
    }

    /// Tells the others of a job what became of their source, which has ended.
    async fn settle(&self, core: &mut Core, job: JobId, of: &Awaiting) -> anyhow::Result<()> {
        let source = self.store().task(job, of.source).await.context("reading a task")?;
        let came = self.came(core, source.as_ref()).await?;
        for node in &of.nodes {
            let Some(active) = core.tasks.get_mut(node) else { continue };
            let fits = came
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|came| came.check(&active.record.work).map(|()| came));
            let event = match fits {
                Ok(came) => {
                    came.note(&mut active.record.work);
                    TaskEvent::SourceReady
                }
                Err(cause) => TaskEvent::SourceFailed { cause },
            };
            self.advance(core, *node, &event, Vec::new()).await?;
            self.wake(core, *node).await?;
        }
        Ok(())
    }

    /// What came of a source, or why nothing did.
    async fn came(
        &self,
        core: &mut Core,
        source: Option<&TaskRecord>,
    ) -> anyhow::Result<Result<Came, String>> {
        let failed = |why: String| Ok(Err(format!("the source failed: {why}")));
        let Some(source) = source else { return failed("it has no task".to_owned()) };
        let Work::Golden { image, is_saved: true } = &source.work else {
            return failed(source.life.state.why().unwrap_or_else(|| "nothing came of it".into()));
        };
        if !matches!(source.life.state, TaskState::Done { .. }) {
            return failed(source.life.state.why().unwrap_or_default());
        }
        let Some(manifest) = self.read_manifest(core, image).await? else {
            return failed("what it sent is not in the store any more".to_owned());
        };
        let Some(archive) = manifest.0.partition(ARCHIVE_NAME) else {
            return failed("what it sent is no archive".to_owned());
        };
        let (catalog, revision) = (Arc::clone(&self.shared.parts.catalog), image.clone());
        let index =
            tokio::task::spawn_blocking(move || catalog.archive_index(&revision, ARCHIVE_NAME));
        let index = index.await.context("reading an archive")?.context("reading an archive")?;
        if let Err(why) = index.check_startable() {
            return failed(format!("its system cannot be started in a slot: {why}"));
        }
        Ok(Ok(Came {
            needed_bytes: archive.device_bytes,
            write_bytes: archive.used_bytes(),
            wire_bytes: archive.file_bytes,
        }))
    }

    /// Removes every clone that no unfinished task needs. One that cannot be removed is tried again, and at
    /// the controller's next start.
    async fn remove_clones(&self, core: &mut Core) {
        let now = self.now();
        let needed = |revision: &Revision| {
            core.tasks.values().any(|task| match &task.record.work {
                Work::Golden { image, .. } => image == revision,
                work => work.image() == Some(revision),
            })
        };
        let over: Vec<Revision> = core
            .clones
            .iter()
            .filter(|(revision, at)| **at <= now && !needed(revision))
            .map(|(revision, _)| revision.clone())
            .collect();
        for revision in over {
            core.forget_manifest(&revision);
            let (catalog, gone) = (Arc::clone(&self.shared.parts.catalog), revision.clone());
            let removed = tokio::task::spawn_blocking(move || catalog.remove_clone(&gone)).await;
            match removed.context("removing a clone").flatten() {
                Ok(()) => {
                    tracing::info!(%revision, "removed, nobody needs it any more");
                    core.clones.remove(&revision);
                }
                Err(error) => {
                    tracing::error!(%revision, "removing what nobody needs any more: {error:#}");
                    core.clones.insert(revision, now + REMOVE_AGAIN_MS);
                }
            }
        }
    }
}

impl Came {
    /// Whether it has room where a task puts it.
    fn check(&self, work: &Work) -> Result<(), String> {
        let Work::Deploy { layout, .. } = work else { return Ok(()) };
        let slot_bytes = u64::from(layout.slot_mib) << 20;
        if self.needed_bytes <= slot_bytes {
            return Ok(());
        }
        let (layout, needed_bytes) = (layout.name.clone(), self.needed_bytes);
        Err(PlanError::SlotTooSmall { layout, needed_bytes, slot_bytes }.to_string())
    }

    /// Notes how much it is.
    fn note(&self, work: &mut Work) {
        if let Work::Deploy { write_bytes, wire_bytes, .. } = work {
            (*write_bytes, *wire_bytes) = (self.write_bytes, self.wire_bytes);
        }
    }
}

/// What it means for a task that its agent is not there any more, if it was sending a system that runs:
/// nobody can go on with that.
pub(in crate::service) fn broken_off(record: &TaskRecord, why: &str) -> Option<TaskEvent> {
    let is_under_way = match &record.life.state {
        TaskState::Running { .. } | TaskState::Cancelling { .. } => true,
        TaskState::Waiting { .. }
        | TaskState::AwaitingSource { .. }
        | TaskState::HandedOut { .. }
        | TaskState::WorkDone { .. }
        | TaskState::Rebooting { .. }
        | TaskState::AwaitingReport { .. }
        | TaskState::Done { .. }
        | TaskState::Failed { .. }
        | TaskState::Cancelled { .. } => false,
    };
    match &record.work {
        Work::Golden { is_saved: true, .. } if is_under_way => {
            Some(TaskEvent::WorkDone { finish: Finish::RunsOn })
        }
        Work::Golden { is_saved: false, .. } if is_under_way => {
            let cause = format!(
                "its system was being sent when the connection ended ({why}), and a running system \
                 cannot be read a second time alike; start the job again"
            );
            Some(TaskEvent::WorkFailed { cause })
        }
        _ => None,
    }
}

fn awaiting(core: &Core) -> BTreeMap<JobId, Awaiting> {
    let mut jobs: BTreeMap<JobId, Awaiting> = BTreeMap::new();
    for (node, task) in &core.tasks {
        let TaskState::AwaitingSource { source, .. } = task.record.life.state else { continue };
        let of_job = jobs.entry(task.record.job);
        of_job.or_insert(Awaiting { source, nodes: Vec::new() }).nodes.push(*node);
    }
    jobs
}
