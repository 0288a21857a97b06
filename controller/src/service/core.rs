//! The state in memory: a copy of what the store holds of nodes and unfinished tasks, and the
//! sessions.

use super::{
    tasks::task_id,
    types::{Role, SessionId},
};
use crate::store::{
    BootSeen, DefaultBoot, LogRecord, NodeRecord, Store, StoreError, TaskRecord, Work,
};
use metalcast_shared::{
    event::Progress,
    hash::Hash,
    id::{BootId, JobId, Mac, NodeId, Revision, TaskId},
    manifest::{Manifest, SignedManifest},
    to_agent::ToAgent,
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::mpsc;

/// Manifests that are kept in memory: a job over many nodes uses one.
const CACHED_MANIFESTS: usize = 8;

/// Log lines and boot events that are gathered between two ticks; more is dropped, and said so.
pub(super) const MAX_GATHERED: usize = 20_000;

/// Samples of progress for the rate.
const SAMPLES: usize = 12;

/// What the agent of each node with a task may read and send.
pub(super) type Granted = HashMap<NodeId, Right>;

/// What the agent of a node may read and send.
pub(super) struct Right {
    /// The key that it must hold.
    pub(super) key: Hash,
    /// The image that it needs.
    pub(super) read: Option<Revision>,
    /// The task for which it sends one.
    pub(super) upload: Option<TaskId>,
}

#[derive(Default)]
pub(super) struct Core {
    pub(super) nodes: BTreeMap<NodeId, NodeRecord>,
    pub(super) tasks: BTreeMap<NodeId, ActiveTask>,
    pub(super) sessions: HashMap<NodeId, Session>,
    pub(super) last_seen: HashMap<NodeId, i64>,
    /// Before this no agent could be heard.
    pub(super) started: i64,
    pub(super) sessions_opened: u64,
    pub(super) last_job: i64,
    pub(super) logs: Vec<LogRecord>,
    pub(super) boots: Vec<BootSeen>,
    pub(super) dropped: usize,
    pub(super) boots_forgotten: i64,
    /// Revisions that only jobs need which have not ended, and when to try again to remove one.
    pub(super) clones: BTreeMap<Revision, i64>,
    manifests: VecDeque<(Revision, Arc<(Manifest, SignedManifest)>)>,
}

pub(super) struct ActiveTask {
    pub(super) record: TaskRecord,
    pub(super) netboot_limit_ms: i64,
    pub(super) last_number: u32,
    pub(super) progress: Option<Progress>,
    /// When the work last moved on; 0 if it has not since the controller's start.
    pub(super) moved: i64,
    samples: VecDeque<(i64, u64)>,
}

pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) boot: BootId,
    pub(super) role: Role,
    pub(super) to_agent: mpsc::Sender<ToAgent>,
}

impl Core {
    pub(super) async fn load(store: &Store, now: i64) -> Result<Self, StoreError> {
        let mut core = Self { started: now, last_job: store.last_job().await?, ..Self::default() };
        for node in store.nodes().await? {
            core.nodes.insert(node.id, node);
        }
        for record in store.active_tasks().await? {
            let limit = store.job(record.job).await?.map(|job| job.netboot_limit_ms);
            let generation = record.life.generation;
            let last_number = store.last_number(record.job, record.node, generation).await?;
            // Agents get the time to find us again.
            core.last_seen.insert(record.node, now);
            let limit = limit.unwrap_or(crate::jobs::task::DEFAULT_NETBOOT_LIMIT_MS);
            core.tasks.insert(record.node, ActiveTask::new(record, limit, last_number));
        }
        Ok(core)
    }

    /// What each agent with a task may read and send.
    pub(super) fn granted(&self) -> Granted {
        let ready = |node: &NodeId| self.nodes.get(node).filter(|node| node.state.is_ready());
        let right = |node: &NodeId, record: &TaskRecord| {
            let upload = match &record.work {
                // What is to be stopped is not waited for.
                Work::Capture { .. } | Work::Golden { .. } if record.life.state.is_stopping() => {
                    None
                }
                Work::Capture { .. } | Work::Golden { .. } => Some(task_id(record)),
                Work::Deploy { .. }
                | Work::DeployDisk { .. }
                | Work::DeployPartitions { .. }
                | Work::SelectSlot { .. }
                | Work::Compare { .. } => None,
            };
            Some(Right { key: ready(node)?.key, read: record.work.image().cloned(), upload })
        };
        self.tasks
            .iter()
            .filter(|(_, task)| task.record.life.state.is_with_agent())
            .filter(|(node, _)| self.may_take_its_task(**node))
            .filter_map(|(node, task)| Some((*node, right(node, &task.record)?)))
            .collect()
    }

    /// Whether the agent that is connected, if one is, is of the kind that does the node's task: a machine
    /// that runs its own system does that work and no other, and no other does it.
    pub(super) fn may_take_its_task(&self, node: NodeId) -> bool {
        match (self.tasks.get(&node), self.sessions.get(&node)) {
            (Some(task), Some(session)) => {
                task.record.work.is_golden() == (session.role == Role::Golden)
            }
            (_, _) => true,
        }
    }

    /// Whether a node's machine is connected as one that offers its running system.
    pub(super) fn is_golden(&self, node: NodeId) -> bool {
        self.sessions.get(&node).is_some_and(|session| session.role == Role::Golden)
    }

    /// What a node does at its next start.
    pub(super) fn next_boot(&self, node: &NodeRecord) -> DefaultBoot {
        // A machine that runs its own system has to go on with that.
        let task = self.tasks.get(&node.id).filter(|task| !task.record.work.is_golden());
        let wish = task.and_then(|task| task.record.life.state.wants_agent());
        match wish {
            Some(true) => DefaultBoot::RamImage,
            Some(false) => DefaultBoot::LocalDisk,
            None => node.default_boot,
        }
    }

    pub(super) fn node_of(&self, mac: Mac) -> Option<&NodeRecord> {
        self.nodes.values().find(|node| node.fingerprint.macs.contains(&mac))
    }

    /// Takes away from a node's addresses those that are another's, and says which: an address stays
    /// with its node until that one is forgotten or shows up without it.
    pub(super) fn unclaim(&self, record: &mut NodeRecord) -> Vec<(Mac, String)> {
        let mut taken = Vec::new();
        record.fingerprint.macs.retain(|mac| match self.node_of(*mac) {
            Some(owner) if owner.id != record.id => {
                taken.push((*mac, owner.name.clone()));
                false
            }
            Some(_) | None => true,
        });
        taken
    }

    /// The node that an operator names: by name, id or address.
    pub(super) fn node_named(&self, text: &str) -> Option<&NodeRecord> {
        let by_name = self.nodes.values().find(|node| node.name == text);
        by_name
            .or_else(|| text.parse().ok().and_then(|id| self.nodes.get(&NodeId(id))))
            .or_else(|| text.parse().ok().and_then(|mac| self.node_of(mac)))
    }

    pub(super) fn name_of(&self, node: NodeId) -> String {
        self.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.clone())
    }

    pub(super) fn job_of(&self, node: NodeId) -> Option<JobId> {
        self.tasks.get(&node).map(|task| task.record.job)
    }

    /// Sends without waiting. A session whose queue is full does not read what we send; it is
    /// closed, and the agent that comes back is told everything again.
    pub(super) fn send(&mut self, node: NodeId, message: ToAgent) {
        let Some(session) = self.sessions.get(&node) else { return };
        let Err(error) = session.to_agent.try_send(message) else { return };
        let why = match error {
            mpsc::error::TrySendError::Full(_) => "its queue is full: the agent does not read",
            mpsc::error::TrySendError::Closed(_) => "it is gone",
        };
        let job = self.job_of(node).map(tracing::field::display);
        let name = self.name_of(node);
        tracing::warn!(node = %name, job, session = session.id.0, why, "closing a session");
        self.sessions.remove(&node);
    }

    pub(super) fn gather_log(&mut self, line: LogRecord) {
        if self.logs.len() < MAX_GATHERED { self.logs.push(line) } else { self.dropped += 1 }
    }

    pub(super) fn gather_boot(&mut self, seen: BootSeen) {
        if self.boots.len() < MAX_GATHERED { self.boots.push(seen) } else { self.dropped += 1 }
    }

    pub(super) fn cached_manifest(
        &self,
        revision: &Revision,
    ) -> Option<Arc<(Manifest, SignedManifest)>> {
        let (_, manifest) = self.manifests.iter().find(|(cached, _)| cached == revision)?;
        Some(Arc::clone(manifest))
    }

    pub(super) fn cache_manifest(
        &mut self,
        revision: Revision,
        manifest: Arc<(Manifest, SignedManifest)>,
    ) {
        self.forget_manifest(&revision);
        if self.manifests.len() >= CACHED_MANIFESTS {
            self.manifests.pop_front();
        }
        self.manifests.push_back((revision, manifest));
    }

    pub(super) fn forget_manifest(&mut self, revision: &Revision) {
        self.manifests.retain(|(cached, _)| cached != revision);
    }
}

impl ActiveTask {
    pub(super) fn new(record: TaskRecord, netboot_limit_ms: i64, last_number: u32) -> Self {
        let samples = VecDeque::with_capacity(SAMPLES);
        Self { record, netboot_limit_ms, last_number, progress: None, moved: 0, samples }
    }

    pub(super) fn sample(&mut self, now: i64, progress: Progress) {
        if self
            .progress
            .is_some_and(|last| last.step != progress.step || last.done_bytes > progress.done_bytes)
        {
            self.samples.clear();
        }
        if self.progress != Some(progress) {
            self.moved = now;
        }
        self.progress = Some(progress);
        // Agents may report often; a sample a second is enough for a rate.
        if self.samples.back().is_some_and(|(at, _)| now - at < 1000) {
            return;
        }
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, progress.done_bytes));
    }

    pub(super) fn forget_progress(&mut self) {
        self.progress = None;
        self.samples.clear();
    }

    pub(super) fn bytes_per_second(&self) -> u64 {
        let (Some((from, before)), Some((to, after))) = (self.samples.front(), self.samples.back())
        else {
            return 0;
        };
        let millis = u64::try_from(to - from).unwrap_or(0);
        (after - before).saturating_mul(1000).checked_div(millis).unwrap_or(0)
    }
}
