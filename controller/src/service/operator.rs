//! What operators do with nodes and jobs, apart from deploying.

use super::{
    Refusal, Run, Service,
    core::Core,
    enrol::{ALARM, standing},
    history::{MAX_LOGS, log_view},
    is_host_name, tasks,
    view::{DeedView, JobView, NodeChange, NodeView, StatusView},
};
use crate::{
    images::clones,
    jobs::{
        node::{self, NodeEffect, NodeEvent, NodeState},
        task::{Holding, TaskEvent},
    },
    store::{AuditRecord, Change, NodeRecord, Work},
};
use metalcast_shared::{
    id::{JobId, NodeId, Revision},
    to_agent::ToAgent,
};
use std::sync::Arc;

/// Most deeds in one answer.
const MAX_DEEDS: i64 = 1000;

impl Service {
    /// All nodes, by name as people count: node2 before node10.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, Refusal> {
        let core = self.core().await;
        let mut records: Vec<&NodeRecord> = core.nodes.values().collect();
        records.sort_by_key(|record| natural(&record.name));
        let mut views = Vec::with_capacity(records.len());
        for record in records {
            views.push(self.node_view(&core, record).await?);
        }
        Ok(views)
    }

    /// One node, named by name, id or address.
    ///
    /// # Errors
    /// When there is no such node.
    pub async fn node(&self, name: &str) -> Result<NodeView, Refusal> {
        let mut core = self.core().await;
        self.flush_for_readers(&mut core).await;
        let record = find(&core, name)?;
        let mut view = self.node_view(&core, record).await?;
        let lines = self.store().node_logs(record.id, MAX_LOGS).await?;
        let alarm = lines.into_iter().rfind(|line| line.line.starts_with(ALARM));
        view.alarm = alarm.map(|line| log_view(line, &|_| record.name.clone()));
        Ok(view)
    }

    /// Takes a node in, or accepts that it changed.
    ///
    /// # Errors
    /// When there is no such node.
    pub async fn approve(&self, name: &str, who: &str) -> Result<NodeView, Refusal> {
        let mut core = self.core().await;
        let mut record = find(&core, name)?.clone();
        let id = record.id;
        let (state, effects) = node::step(&record.state, &NodeEvent::Approved);
        if state != record.state {
            record.state = state;
            if effects.contains(&NodeEffect::AdoptFingerprint)
                && let Some(candidate) = record.candidate.take()
            {
                record.fingerprint = candidate;
            }
            let taken = core.unclaim(&mut record);
            let audit = self.audit(who, format!("approve {}", record.name));
            self.store().apply(&[Change::Node(Box::new(record.clone())), audit]).await?;
            tracing::info!(node = %record.name, who, "approved");
            core.nodes.insert(id, record.clone());
            self.alarm_taken(&mut core, id, taken);
        }
        if effects.contains(&NodeEffect::TellStanding) {
            let (name, standing) = (record.name.clone(), standing(&record));
            core.send(id, ToAgent::Welcome { name, standing });
        }
        if effects.contains(&NodeEffect::HandOut) {
            self.wake(&mut core, id).await?;
        }
        self.publish(&core);
        self.node_view(&core, &record).await
    }

    /// Changes a node's name or layout.
    ///
    /// # Errors
    /// When there is no such node or layout, or the name is taken.
    pub async fn change_node(
        &self,
        name: &str,
        change: NodeChange,
        who: &str,
    ) -> Result<NodeView, Refusal> {
        let mut core = self.core().await;
        let mut record = find(&core, name)?.clone();
        if let Some(new) = change.name {
            if !is_host_name(&new) {
                return Err(Refusal::Invalid(format!(
                    "{new:?} cannot be a node's name: write 1 to 63 of a-z, 0-9 and '-'"
                )));
            }
            if core.nodes.values().any(|other| other.name == new && other.id != record.id) {
                let message = format!("another node is called {new}");
                return Err(Refusal::Conflict { code: "name-taken", message });
            }
            record.name = new;
        }
        if let Some(layout) = change.layout {
            self.layout_named(&layout)?;
            record.layout = Some(layout);
        }
        let layout = record.layout.as_deref().unwrap_or("default");
        let audit = self.audit(who, format!("set {name}: name {}, layout {layout}", record.name));
        self.store().apply(&[Change::Node(Box::new(record.clone())), audit]).await?;
        tracing::info!(node = %record.name, before = name, layout, who, "changed");
        core.nodes.insert(record.id, record.clone());
        self.publish(&core);
        self.node_view(&core, &record).await
    }

    /// Forgets a node, and says what it was. If it netboots again it is new.
    ///
    /// # Errors
    /// When there is no such node, or it is busy.
    pub async fn forget_node(&self, name: &str, run: Run, who: &str) -> Result<NodeView, Refusal> {
        let mut core = self.core().await;
        let record = find(&core, name)?;
        let (id, name) = (record.id, record.name.clone());
        if let Some(job) = core.job_of(id) {
            return Err(busy(&name, job));
        }
        let view = self.node_view(&core, record).await?;
        if run == Run::Dry {
            return Ok(view);
        }
        let audit = self.audit(who, format!("remove {name} ({id})"));
        self.store().apply(&[Change::ForgetNode(id), audit]).await?;
        tracing::info!(node = %name, who, "removed");
        core.nodes.remove(&id);
        core.sessions.remove(&id);
        core.last_seen.remove(&id);
        self.publish(&core);
        Ok(view)
    }

    /// Stops what is not finished of a job, and says how the job stood before.
    ///
    /// # Errors
    /// When there is no such job, or it has ended.
    pub async fn cancel(&self, job: JobId, run: Run, who: &str) -> Result<JobView, Refusal> {
        let view = self.job_state(job).await?;
        let mut core = self.core().await;
        let of_job = |(_, task): &(&NodeId, &super::core::ActiveTask)| task.record.job == job;
        let nodes: Vec<NodeId> = core.tasks.iter().filter(of_job).map(|(node, _)| *node).collect();
        if nodes.is_empty() {
            let message = format!("job {job} has ended already");
            return Err(Refusal::Conflict { code: "job-ended", message });
        }
        if run == Run::Dry {
            return Ok(view);
        }
        self.store().apply(&[self.audit(who, format!("cancel job {job}"))]).await?;
        let event = TaskEvent::CancelAsked { reason: format!("cancelled by {who}") };
        let mut outcome = Ok(());
        for node in nodes {
            outcome = outcome.and(self.advance(&mut core, node, &event, Vec::new()).await);
        }
        outcome.and(self.settle_clones(&mut core).await)?;
        Ok(view)
    }

    /// The controller at a glance.
    pub async fn status(&self) -> StatusView {
        let core = self.core().await;
        StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_ms: self.shared.started,
            nodes: core.nodes.len(),
            nodes_awaiting_approval: core
                .nodes
                .values()
                .filter(|node| !node.state.is_ready())
                .count(),
            nodes_online: core.sessions.len(),
            active_tasks: core.tasks.len(),
            records_trouble: self.store().trouble(),
        }
    }

    /// What operators did, in order, the newest of it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn deeds(&self) -> Result<Vec<DeedView>, Refusal> {
        let deeds = self.store().audit(MAX_DEEDS).await?;
        let view = |AuditRecord { at, who, what }| DeedView { at_unix_ms: at, who, what };
        Ok(deeds.into_iter().map(view).collect())
    }

    /// Notes an operator's deed that changes nothing else in the store.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn note_deed(&self, who: &str, what: String) -> Result<(), Refusal> {
        Ok(self.store().apply(&[self.audit(who, what)]).await?)
    }

    /// Removes a revision of an image. Nothing can be planned with it meanwhile.
    ///
    /// # Errors
    /// When there is no such revision, or an unfinished job needs it.
    pub async fn remove_image(
        &self,
        revision: &Revision,
        run: Run,
        who: &str,
    ) -> Result<(), Refusal> {
        clones::check(&revision.image).map_err(Refusal::Invalid)?;
        let mut core = self.core().await;
        let needs = |work: &Work| work.image() == Some(revision);
        if let Some(task) = core.tasks.values().find(|task| needs(&task.record.work)) {
            let job = task.record.job;
            let message = format!("{revision} is needed by job {job}; wait for it or cancel it");
            return Err(Refusal::Conflict { code: "image-in-use", message });
        }
        if run == Run::Dry {
            return Ok(());
        }
        self.note_deed(who, format!("remove image {revision}")).await?;
        core.forget_manifest(revision);
        let (catalog, wanted) = (Arc::clone(&self.shared.parts.catalog), revision.clone());
        let removed = tokio::task::spawn_blocking(move || catalog.remove(&wanted)).await;
        if removed.map_err(anyhow::Error::from)?? { Ok(()) } else { Err(no_image(revision)) }
    }

    pub(super) fn audit(&self, who: &str, what: String) -> Change {
        Change::Audit(AuditRecord { at: self.now(), who: who.to_owned(), what })
    }

    /// Gives a ready node that is connected the task that waits for it.
    pub(super) async fn wake(&self, core: &mut Core, node: NodeId) -> anyhow::Result<()> {
        let ready = core.nodes.get(&node).is_some_and(|node| node.state.is_ready());
        let boot = core.sessions.get(&node).map(|session| session.boot);
        let has_task = core.tasks.contains_key(&node) && core.may_take_its_task(node);
        if let (true, Some(boot), true) = (ready, boot, has_task) {
            let event = TaskEvent::AgentReady { boot, holding: Holding::Nothing };
            self.advance(core, node, &event, Vec::new()).await?;
        }
        Ok(())
    }

    pub(super) fn layout_named(
        &self,
        name: &str,
    ) -> Result<&metalcast_shared::layout::Layout, Refusal> {
        let layouts = &self.settings().layouts;
        layouts.iter().find(|layout| layout.name == name).ok_or_else(|| {
            let names: Vec<&str> = layouts.iter().map(|layout| layout.name.as_str()).collect();
            Refusal::NotFound(format!("no layout is called {name}; there is {}", names.join(", ")))
        })
    }

    pub(super) fn layout_of<'a>(&'a self, node: &'a NodeRecord) -> &'a str {
        node.layout.as_deref().unwrap_or(&self.settings().policy.default_layout)
    }

    async fn node_view(&self, core: &Core, record: &NodeRecord) -> Result<NodeView, Refusal> {
        let reason = match &record.state {
            NodeState::Ready if record.inventory.is_none() => {
                Some("approved, and about to tell what it is made of".to_owned())
            }
            NodeState::Ready => None,
            NodeState::New => {
                Some(format!("approve it with `metalcast node approve {}`", record.name))
            }
            NodeState::IdentityChanged { reason } => Some(reason.clone()),
        };
        let last_seen = core.last_seen.get(&record.id).copied().unwrap_or(record.last_seen);
        Ok(NodeView {
            id: record.id,
            name: record.name.clone(),
            state: match &record.inventory {
                Some(_) => record.state.name().to_owned(),
                // Enrolled, but what it is made of is still on its way: nothing can be planned yet.
                None => "registering".to_owned(),
            },
            reason,
            alarm: None,
            online: core.sessions.contains_key(&record.id),
            golden: core.is_golden(record.id),
            next_boot: core.next_boot(record),
            macs: record.fingerprint.macs.clone(),
            layout: self.layout_of(record).to_owned(),
            inventory: record.inventory.clone(),
            slots: self.store().slots(record.id).await?,
            whole_disks: self.store().whole_disks(record.id).await?,
            partitions: self.store().partitions(record.id).await?,
            job: core.job_of(record.id),
            enrolled_unix_ms: record.enrolled,
            registered_unix_ms: record.registered,
            last_seen_unix_ms: last_seen,
        })
    }
}

pub(super) fn find<'c>(core: &'c Core, name: &str) -> Result<&'c NodeRecord, Refusal> {
    core.node_named(name).ok_or_else(|| {
        let name: String = name.chars().take(80).collect();
        Refusal::NotFound(format!("no node is called {name}; `metalcast node list` shows all"))
    })
}

pub(super) fn busy(node: &str, job: JobId) -> Refusal {
    let message = format!(
        "{node} is busy with job {job}; wait for it, or stop it with `metalcast job cancel {job}`"
    );
    Refusal::Conflict { code: "node-busy", message }
}

pub(super) fn no_job(job: JobId) -> Refusal {
    Refusal::NotFound(format!("there is no job {job}; `metalcast job list` shows the newest"))
}

pub(super) fn no_image(revision: &Revision) -> Refusal {
    if clones::is_clone(&revision.image) {
        let text = "is of a system that was cloned while it ran, of which no image is kept";
        return Refusal::NotFound(format!("{revision} {text}"));
    }
    Refusal::NotFound(format!("there is no image {revision}; `metalcast image list` shows all"))
}

/// Sorts digits by their value: node2 before node10.
pub(super) fn natural(name: &str) -> (String, u64, String) {
    let head = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (head.to_owned(), name[head.len()..].parse().unwrap_or(0), name.to_owned())
}

/// When a node's task ends by itself, for views.
pub(super) fn deadline_of(core: &Core, node: NodeId) -> Option<crate::jobs::task::Deadline> {
    tasks::deadline(core, node)
}
