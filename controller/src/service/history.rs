//! What operators see of jobs: how they stand, what happened, and when.

use super::{
    Refusal, Service,
    boot::RAM_IMAGE,
    core::Core,
    operator::{deadline_of, natural, no_job},
    tasks::GOLDEN,
    view::{JobEvent, JobState, JobSummary, JobView, LogView, Moment, ProgressView, TaskView},
};
use crate::{
    jobs::task::{SILENT_AFTER_MS, TaskState},
    store::{BootSeen, EventRecord, JobRecord, LogRecord, Noted, TaskRecord},
};
use metalcast_shared::{
    event::{TaskEvent as AgentEvent, fold},
    id::{JobId, Mac, NodeId},
};
use std::{collections::HashMap, time::Duration};

/// Most jobs in a list.
const MAX_JOBS: i64 = 200;

/// Most events in one answer.
pub const MAX_EVENTS: i64 = 1000;

/// Most log lines in one answer.
pub(super) const MAX_LOGS: i64 = 5000;

/// How far before a job its nodes' last netboot is looked for.
const LOOK_BACK_MS: i64 = 24 * 3600 * 1000;

/// Longest pause between an address and the boot script that followed it.
const CHAIN_GAP_MS: i64 = 120_000;

/// How long after a task's end moments still belong to it.
const AFTER_END_MS: i64 = 2000;

impl Service {
    /// The newest jobs, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn jobs(&self) -> Result<Vec<JobSummary>, Refusal> {
        let mut summaries = Vec::new();
        for job in self.store().jobs(MAX_JOBS).await? {
            let tasks = self.store().tasks(job.id).await?;
            summaries.push(summary(&job, &tasks));
        }
        Ok(summaries)
    }

    /// How a job stands, without what happened: quick, for those who ask every second.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn job_state(&self, id: JobId) -> Result<JobView, Refusal> {
        let job = self.store().job(id).await?.ok_or_else(|| no_job(id))?;
        let mut tasks = self.store().tasks(id).await?;
        tasks.sort_by_key(|task| natural(&task.node_name));
        let core = self.core().await;
        let views = tasks.iter().map(|task| self.task_view(&core, task)).collect();
        Ok(JobView { summary: summary(&job, &tasks), tasks: views })
    }

    /// One job with its steps and timelines.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn job(&self, id: JobId) -> Result<JobView, Refusal> {
        let mut job = self.job_state(id).await?;
        let mut core = self.core().await;
        self.flush_for_readers(&mut core).await;
        let macs: Vec<Vec<Mac>> = job
            .tasks
            .iter()
            .map(|task| core.nodes.get(&task.node_id).map(|node| node.fingerprint.macs.clone()))
            .map(Option::unwrap_or_default)
            .collect();
        drop(core);
        let mut events: HashMap<NodeId, Vec<EventRecord>> = HashMap::new();
        let mut after = 0;
        loop {
            let page = self.store().events(id, after, MAX_EVENTS).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            for event in page {
                events.entry(event.node).or_default().push(event);
            }
        }
        for (task, macs) in job.tasks.iter_mut().zip(macs) {
            let events = events.remove(&task.node_id).unwrap_or_default();
            let last_hand_out = events.iter().filter_map(|event| match &event.what {
                Noted::Agent(what) if event.generation == task.generation => Some(what),
                Noted::Agent(_) | Noted::State { .. } | Noted::Note(_) => None,
            });
            task.steps = fold(last_hand_out);
            let created = job.summary.created_unix_ms;
            task.timeline = self.timeline(created, task, &macs, &events).await?;
        }
        Ok(job)
    }

    /// Events of a job after position `after`; waits up to `wait` for the first one.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn job_events(
        &self,
        id: JobId,
        after: i64,
        wait: Duration,
    ) -> Result<Vec<JobEvent>, Refusal> {
        if self.store().job(id).await?.is_none() {
            return Err(no_job(id));
        }
        let deadline = tokio::time::Instant::now() + wait;
        let mut changes = self.changes();
        loop {
            let events = self.store().events(id, after, MAX_EVENTS).await?;
            if !events.is_empty() {
                let names: HashMap<NodeId, String> = self
                    .store()
                    .tasks(id)
                    .await?
                    .into_iter()
                    .map(|task| (task.node, task.node_name))
                    .collect();
                return Ok(events.into_iter().map(|event| job_event(event, &names)).collect());
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(Vec::new()),
            }
        }
    }

    /// The agents' log lines while they were busy with a job.
    ///
    /// # Errors
    /// When there is no such job.
    pub async fn job_logs(&self, id: JobId) -> Result<Vec<LogView>, Refusal> {
        if self.store().job(id).await?.is_none() {
            return Err(no_job(id));
        }
        self.flush_for_readers(&mut *self.core().await).await;
        let tasks = self.store().tasks(id).await?;
        let lines = self.store().job_logs(id, MAX_LOGS).await?;
        let name = |node: NodeId| {
            let task = tasks.iter().find(|task| task.node == node);
            task.map_or_else(|| node.to_string(), |task| task.node_name.clone())
        };
        Ok(lines.into_iter().map(|line| log_view(line, &name)).collect())
    }

    /// The newest log lines of a node.
    ///
    /// # Errors
    /// When there is no such node.
    pub async fn node_logs(&self, name: &str) -> Result<Vec<LogView>, Refusal> {
        let mut core = self.core().await;
        self.flush_for_readers(&mut core).await;
        let node = super::operator::find(&core, name)?;
        let (id, name) = (node.id, node.name.clone());
        drop(core);
        let lines = self.store().node_logs(id, MAX_LOGS).await?;
        Ok(lines.into_iter().map(|line| log_view(line, &|_| name.clone())).collect())
    }

    /// Writes what was gathered, for those who want to read it. Where that fails they read the rest.
    pub(super) async fn flush_for_readers(&self, core: &mut Core) {
        if let Err(error) = self.flush(core).await {
            tracing::error!("writing what was gathered: {error:#}");
        }
    }

    fn task_view(&self, core: &Core, task: &TaskRecord) -> TaskView {
        let state = &task.life.state;
        let now = self.now();
        let active = core.tasks.get(&task.node).filter(|active| active.record.job == task.job);
        let progress = active.and_then(|active| {
            let bytes_per_second = active.bytes_per_second();
            active.progress.map(|progress| ProgressView { progress, bytes_per_second })
        });
        let last_seen = core.last_seen.get(&task.node).copied();
        let silent =
            last_seen.filter(|seen| state.is_with_agent() && now - seen >= SILENT_AFTER_MS);
        let deadline = active.and_then(|_| deadline_of(core, task.node));
        TaskView {
            node: task.node_name.clone(),
            node_id: task.node,
            state: state.name().to_owned(),
            ended: state.has_ended(),
            cause: state.why(),
            waits_for: match self.store().trouble() {
                Some(why) if !state.has_ended() => Some(format!(
                    "the controller to write its records, which fails: {why}; is the disk of \
                     state_dir full?"
                )),
                Some(_) | None => waits_for(core, task, silent, now),
            },
            silent_since_unix_ms: silent,
            deadline_unix_ms: deadline.map(|deadline| deadline.at),
            since_unix_ms: task.changed,
            generation: task.life.generation,
            saved: task.work.saved().cloned(),
            compared: task.work.compared().cloned(),
            steps: Vec::new(),
            progress,
            timeline: Vec::new(),
        }
    }

    /// From the power-on that led to the hand-out up to the end.
    async fn timeline(
        &self,
        created: i64,
        task: &TaskView,
        macs: &[Mac],
        events: &[EventRecord],
    ) -> Result<Vec<Moment>, Refusal> {
        let mut seen: Vec<BootSeen> = Vec::new();
        for mac in macs {
            seen.extend(self.store().boot_events(*mac, created - LOOK_BACK_MS).await?);
        }
        seen.sort_by_key(|seen| seen.at);
        let handed_out = events.iter().find(|event| event.generation > 0);
        let handed_out = handed_out.map_or(created, |event| event.at);
        let start = boot_began(&seen, handed_out).unwrap_or(created).min(created);
        let end = match task.ended {
            true => task.since_unix_ms + AFTER_END_MS,
            false => i64::MAX,
        };
        let mut moments: Vec<Moment> = seen
            .into_iter()
            .filter(|seen| (start..=end).contains(&seen.at))
            .map(|seen| Moment { at_unix_ms: seen.at, what: seen.what, detail: seen.detail })
            .chain(events.iter().filter_map(moment))
            .collect();
        moments.sort_by_key(|moment| moment.at_unix_ms);
        Ok(moments)
    }
}

/// When the boot began that led into the agent which got the task.
fn boot_began(seen: &[BootSeen], handed_out: i64) -> Option<i64> {
    let script = seen.iter().rposition(|seen| {
        seen.at <= handed_out && seen.what == "script" && seen.detail == RAM_IMAGE
    })?;
    let mut began = seen[script].at;
    for earlier in seen[..script].iter().rev() {
        let is_boot = matches!(earlier.what.as_str(), "dhcp-offer" | "dhcp-ack" | "boot-file");
        if !is_boot || began - earlier.at > CHAIN_GAP_MS {
            break;
        }
        began = earlier.at;
    }
    Some(began)
}

fn moment(event: &EventRecord) -> Option<Moment> {
    let (what, detail) = match &event.what {
        Noted::Agent(AgentEvent::StepStarted { step }) => ("step-started", step.to_string()),
        Noted::Agent(AgentEvent::StepDone { step, millis }) => {
            ("step-done", format!("{step} {millis} ms"))
        }
        Noted::Agent(AgentEvent::Done { .. }) => ("work-done", String::new()),
        Noted::Agent(AgentEvent::Compared { comparison }) => ("compared", comparison.to_string()),
        Noted::Agent(AgentEvent::Failed { cause, .. }) => ("work-failed", cause.clone()),
        Noted::Agent(AgentEvent::StepNote { .. }) | Noted::Note(_) => return None,
        Noted::State { name, why } => (
            "state",
            match why {
                Some(why) => format!("{name}: {why}"),
                None => name.clone(),
            },
        ),
    };
    Some(Moment { at_unix_ms: event.at, what: what.to_owned(), detail })
}

fn waits_for(core: &Core, task: &TaskRecord, silent: Option<i64>, now: i64) -> Option<String> {
    let node = &task.node_name;
    if let Some(since) = silent {
        let seconds = (now - since) / 1000;
        return Some(format!("{node} to netboot again: its agent is silent since {seconds} s"));
    }
    let ready = core.nodes.get(&task.node).is_some_and(|node| node.state.is_ready());
    match &task.life.state {
        TaskState::Waiting { .. } if !ready => {
            Some(format!("an operator: `metalcast node approve {node}`"))
        }
        TaskState::Waiting { .. } if task.work.is_golden() => {
            Some(format!("the system on {node} to offer itself: run {GOLDEN} on it"))
        }
        TaskState::Waiting { .. } if core.is_golden(task.node) => Some(format!(
            "{node} to netboot into the agent: it runs {GOLDEN}; end that and restart it"
        )),
        TaskState::AwaitingSource { source, .. } => {
            let source = core.name_of(*source);
            Some(format!("the system of {source}: nothing is written before all of it is there"))
        }
        TaskState::Waiting { .. } => {
            Some(format!("{node} to netboot into the agent: switch it on or restart it"))
        }
        TaskState::HandedOut { .. } => Some(format!("the agent of {node} to begin")),
        TaskState::Running { .. } => None,
        TaskState::Cancelling { .. } => Some(format!("the agent of {node} to stop safely")),
        TaskState::WorkDone { .. } => Some(format!("{node} to restart")),
        TaskState::Rebooting { .. } => Some(format!("{node} to ask for its boot script")),
        TaskState::AwaitingReport { .. } => Some(format!("the system on {node} to report in")),
        TaskState::Done { .. } | TaskState::Failed { .. } | TaskState::Cancelled { .. } => None,
    }
}

fn summary(job: &JobRecord, tasks: &[TaskRecord]) -> JobSummary {
    let ended = tasks.iter().all(|task| task.life.state.has_ended());
    let mut nodes: Vec<String> = tasks.iter().map(|task| task.node_name.clone()).collect();
    nodes.sort_by_key(|name| natural(name));
    JobSummary {
        id: job.id,
        spec: job.spec.clone(),
        state: job_state(tasks),
        created_unix_ms: job.created,
        created_by: job.created_by.clone(),
        ended_unix_ms: ended
            .then(|| tasks.iter().map(|task| task.changed).max().unwrap_or(job.created)),
        nodes,
    }
}

fn job_state(tasks: &[TaskRecord]) -> JobState {
    if tasks.iter().any(|task| !task.life.state.has_ended()) {
        return JobState::Running;
    }
    // That a system could be read is no end of its own.
    let ends: Vec<&TaskRecord> = tasks.iter().filter(|task| !task.work.is_golden()).collect();
    let count = |wanted: fn(&TaskState) -> bool| {
        ends.iter().filter(|task| wanted(&task.life.state)).count()
    };
    let done = count(|state| matches!(state, TaskState::Done { .. }));
    let cancelled = count(|state| matches!(state, TaskState::Cancelled { .. }));
    if done == ends.len() {
        JobState::Done
    } else if done > 0 {
        JobState::Partial
    } else if cancelled > 0 {
        JobState::Cancelled
    } else {
        JobState::Failed
    }
}

fn job_event(event: EventRecord, names: &HashMap<NodeId, String>) -> JobEvent {
    let node = names.get(&event.node).cloned().unwrap_or_else(|| event.node.to_string());
    let EventRecord { seq, at, generation, what, .. } = event;
    JobEvent { seq, at_unix_ms: at, node, generation, what }
}

pub(super) fn log_view(line: LogRecord, name: &dyn Fn(NodeId) -> String) -> LogView {
    let LogRecord { node, at, level, line, .. } = line;
    LogView { at_unix_ms: at, node: name(node), level, line }
}
