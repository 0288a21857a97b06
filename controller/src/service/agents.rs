//! Sessions: what agents say, and the reports of deployed systems.

use super::{
    Service,
    clone::broken_off,
    core::{Core, Session},
    enrol::standing,
    history::MAX_EVENTS,
    made::{Made, partitioned},
    tasks::task_id,
    to_its_end,
    types::{ReportRefusal, Role, SessionId},
};
use crate::{
    jobs::{
        node::NodeState,
        plan::SlotStage,
        task::{Finish, Holding, TaskEvent, TaskState},
    },
    pki::RefusedCertificate,
    store::{
        BootSeen, Change, DefaultBoot, EventRecord, LogRecord, Noted, StoreError, TaskRecord, Work,
    },
};
use anyhow::{Context, bail};
use metalcast_shared::{
    boot::{ReportToken, SystemReport},
    event::{Numbered, Progress, Step, TaskEvent as AgentEvent},
    hash::Hash,
    id::{NodeId, TaskId},
    inventory::{Fingerprint, Inventory},
    to_agent::ToAgent,
    to_controller::{Hello, LogLevel, ToController},
    version,
};
use std::net::IpAddr;
use tokio::sync::mpsc;
use tracing::field::display;

/// Messages that may wait for an agent. One that does not read this many is cut off and starts over.
pub const AGENT_QUEUE: usize = 64;

/// Longest log line that is kept, in characters.
const MAX_LINE: usize = 4096;

/// Longest text of an event that is kept, in characters.
const MAX_TEXT: usize = 16_384;

/// Events of one hand-out; an honest one has a few dozen.
const MAX_EVENTS_PER_HAND_OUT: u32 = 10_000;

/// Phases of an agent's start that are kept.
const MAX_PHASES: usize = 32;

impl Service {
    /// A session of a node began. An older one is closed by dropping its sender. The node learns how
    /// it stands, and gets the task that waits for it.
    ///
    /// # Errors
    /// When the session must end: the node is not known, another machine enrolled as it since, or it
    /// speaks another protocol.
    pub async fn session_opened(
        &self,
        node: NodeId,
        key: Hash,
        hello: Hello,
        role: Role,
        to_agent: mpsc::Sender<ToAgent>,
    ) -> anyhow::Result<SessionId> {
        if hello.protocol != version::PROTOCOL {
            bail!(
                "the agent speaks protocol {}, this controller {}: boot the RAM image of this controller's version",
                hello.protocol,
                version::PROTOCOL
            );
        }
        let mut core = self.core().await;
        let record = core.nodes.get(&node).context("the node was removed; netboot again")?;
        if record.key != key {
            bail!("a machine enrolled as {} since; netboot again", record.name);
        }
        let name = record.name.clone();
        core.sessions_opened += 1;
        let id = SessionId(core.sessions_opened);
        let session = Session { id, boot: hello.boot, role, to_agent };
        if let Some(old) = core.sessions.insert(node, session) {
            let job = core.job_of(node).map(display);
            tracing::info!(node = %name, job, session = old.id.0, "closing an older session");
        }
        core.last_seen.insert(node, self.now());
        let agent: String = hello.agent.chars().take(64).collect();
        let job = core.job_of(node).map(display);
        tracing::info!(node = %name, job, session = id.0, boot = %hello.boot, ?role, agent, "session");
        let welcomed = self.welcome(&mut core, node, &hello).await;
        if welcomed.is_err() && core.sessions.get(&node).is_some_and(|session| session.id == id) {
            core.sessions.remove(&node);
        }
        self.publish(&core);
        welcomed.map(|()| id)
    }

    /// Tells an agent how its node stands, and gives it the task that waits for it.
    async fn welcome(&self, core: &mut Core, node: NodeId, hello: &Hello) -> anyhow::Result<()> {
        self.keep_phases(core, node, hello).await?;
        let record = core.nodes.get(&node).context("the node was removed")?;
        let (name, standing, ready) =
            (record.name.clone(), standing(record), record.state.is_ready());
        core.send(node, ToAgent::Welcome { name, standing });
        let active = core.tasks.get(&node).map(|task| task_id(&task.record));
        let holding = match (hello.task, active) {
            (Some(held), Some(ours)) if held.job == ours.job && held.node == node => {
                Holding::This { generation: held.generation }
            }
            (_, _) => Holding::Nothing,
        };
        if let Some(task) = hello.task.filter(|held| Some(*held) != active) {
            core.send(node, ToAgent::Cancel { task, reason: "it has ended".into() });
        }
        if ready && active.is_some() && core.may_take_its_task(node) {
            let anew = core.tasks.get(&node).filter(|_| holding == Holding::Nothing);
            let broken_off = anew.and_then(|task| broken_off(&task.record, "started anew"));
            let event = broken_off.unwrap_or(TaskEvent::AgentReady { boot: hello.boot, holding });
            self.advance(core, node, &event, Vec::new()).await?;
            self.settle_clones(core).await?;
        }
        Ok(())
    }

    /// A message of a session.
    ///
    /// # Errors
    /// When the session must end: it was replaced, it skipped something, or the store refuses. The
    /// agent comes back and says again what was not acknowledged.
    pub async fn from_agent(
        &self,
        node: NodeId,
        session: SessionId,
        message: ToController,
    ) -> anyhow::Result<()> {
        let mut core = self.core().await;
        if core.sessions.get(&node).map(|session| session.id) != Some(session) {
            bail!("the session was replaced or closed");
        }
        core.last_seen.insert(node, self.now());
        match message {
            ToController::Inventory(inventory) => {
                self.registered(&mut core, node, *inventory).await
            }
            ToController::Heartbeat { .. } => Ok(()),
            ToController::Event { .. } if !is_ready(&core, node) => {
                bail!("an operator has to look at this node first")
            }
            ToController::Event { task, event } => {
                self.agent_event(&mut core, node, task, event).await
            }
            ToController::Progress { task, progress } => {
                self.progress(&mut core, node, task, progress);
                Ok(())
            }
            ToController::Log { level, text } => {
                let (job, at) = (core.job_of(node), self.now());
                let line: String = text.chars().take(MAX_LINE).collect();
                if level <= LogLevel::Warn {
                    let job = job.map(display);
                    tracing::warn!(node = %core.name_of(node), job, "agent: {line}");
                }
                core.gather_log(LogRecord { node, job, at, level, line });
                Ok(())
            }
        }
    }

    /// A session ended.
    pub async fn session_closed(&self, node: NodeId, session: SessionId, reason: String) {
        let mut core = self.core().await;
        let (name, job) = (core.name_of(node), core.job_of(node).map(display));
        tracing::info!(node = %name, job, session = session.0, reason, "session ended");
        if core.sessions.get(&node).map(|session| session.id) != Some(session) {
            return;
        }
        core.sessions.remove(&node);
        if let Some(task) = core.tasks.get(&node) {
            let event = broken_off(&task.record, &reason).unwrap_or(TaskEvent::AgentGone);
            let mut gone = self.advance(&mut core, node, &event, Vec::new()).await;
            gone = gone.and(self.settle_clones(&mut core).await);
            if let Err(error) = gone {
                let error = format!("{error:#}");
                tracing::error!(node = %name, job, error, "noting the end of a session");
            }
        }
        self.publish(&core);
    }

    /// A certificate was refused. Anyone may have made it: only for the key with which the node
    /// enrolled it is a word of its agent's, which netboots again.
    pub async fn certificate_refused(&self, refused: RefusedCertificate) {
        let RefusedCertificate { node, key, reason } = refused;
        let mut core = self.core().await;
        let Some(record) = core.nodes.get(&node).filter(|record| record.key == key) else { return };
        let (name, mac) = (record.name.clone(), record.boot_mac);
        tracing::warn!(node = %name, reason, "an agent's certificate is refused");
        let line = format!("the certificate of its agent is refused: {reason}; it has to netboot");
        self.alarm(&mut core, node, &line);
        let (at, what) = (self.now(), "certificate-refused".to_owned());
        core.gather_boot(BootSeen { mac, at, what, detail: reason });
    }

    /// A deployed system reports in. The token's seal was checked by the caller.
    ///
    /// # Errors
    /// A refusal that the system's unit can log.
    pub async fn system_report(
        &self,
        token: ReportToken,
        report: SystemReport,
        from: IpAddr,
    ) -> Result<(), ReportRefusal> {
        let service = self.clone();
        to_its_end(async move { service.take_report(token, report, from).await }).await
    }

    async fn take_report(
        &self,
        token: ReportToken,
        report: SystemReport,
        from: IpAddr,
    ) -> Result<(), ReportRefusal> {
        let mut core = self.core().await;
        let TaskId { job, node, generation } = token.task;
        let failed = |error: StoreError| report_failed(token.task, &error.into());
        let active = core.tasks.get(&node).filter(|task| task.record.job == job);
        let is_active = active.is_some();
        let record = match active {
            Some(active) => active.record.clone(),
            None => {
                let record = self.store().task(job, node).await.map_err(failed)?;
                record.ok_or(ReportRefusal::Unknown)?
            }
        };
        if record.life.generation != generation {
            return Err(ReportRefusal::Superseded);
        }
        let late = match check_report(&record) {
            // It did not hear that we had heard it.
            Err(ReportRefusal::Used) if self.has_said(&record, &report).await? => return Ok(()),
            checked => checked?,
        };
        let now = self.now();
        let mut changes = vec![Change::Event(note(&record, now, describe(&report, from)))];
        match Made::by(&record, SlotStage::Confirmed, now) {
            Some(made) => {
                match self.stage_of(node, &made).await.map_err(failed)? {
                    _ if !late => {}
                    Some(SlotStage::Deployed) => {}
                    Some(SlotStage::Confirmed) => {
                        let repeats = self.has_said(&record, &report).await?;
                        return if repeats { Ok(()) } else { Err(ReportRefusal::Used) };
                    }
                    Some(SlotStage::Writing) | None => return Err(ReportRefusal::NotExpected),
                }
                if core.nodes.contains_key(&node) {
                    changes.push(made.kept(node));
                }
            }
            None => return Err(ReportRefusal::NotExpected),
        }
        if let Some(mac) = core.nodes.get(&node).map(|node| node.boot_mac) {
            let (what, detail) = ("reported".into(), describe(&report, from));
            core.gather_boot(BootSeen { mac, at: now, what, detail });
        }
        if is_active {
            let done = self.advance(&mut core, node, &TaskEvent::Reported, changes).await;
            return done.map_err(|error| report_failed(token.task, &error));
        }
        tracing::info!(node = %record.node_name, %job, "a system reported after its job had ended");
        // It was kept from its disk because nobody knew that the system there is well.
        let mut starts = core.nodes.get(&node).filter(|_| !core.tasks.contains_key(&node)).cloned();
        if let Some(record) = &mut starts {
            record.default_boot = DefaultBoot::LocalDisk;
            changes.push(Change::Node(Box::new(record.clone())));
        }
        self.store().apply(&changes).await.map_err(failed)?;
        core.nodes.extend(starts.map(|record| (node, record)));
        self.publish(&core);
        Ok(())
    }

    /// Whether this very system reported on this task before.
    async fn has_said(
        &self,
        record: &TaskRecord,
        report: &SystemReport,
    ) -> Result<bool, ReportRefusal> {
        let said = format!("{} reported from ", who(report));
        let mut after = 0;
        loop {
            let page = self.store().events(record.job, after, MAX_EVENTS).await;
            let page = page.map_err(|error| report_failed(task_id(record), &error.into()))?;
            let Some(last) = page.last() else { return Ok(false) };
            after = last.seq;
            let of_task = page.iter().filter(|event| event.node == record.node);
            if of_task
                .into_iter()
                .any(|event| matches!(&event.what, Noted::Note(text) if text.starts_with(&said)))
            {
                return Ok(true);
            }
        }
    }

    /// Keeps how long an agent's start took, once per boot. The phases count from the kernel's start,
    /// and the last one ended just now.
    async fn keep_phases(
        &self,
        core: &mut Core,
        node: NodeId,
        hello: &Hello,
    ) -> anyhow::Result<()> {
        let Some(mac) = core.nodes.get(&node).map(|record| record.boot_mac) else { return Ok(()) };
        self.flush_for_readers(core).await;
        let (now, boot) = (self.now(), hello.boot.to_string());
        let seen = self.store().boot_events(mac, now - 24 * 3600 * 1000).await?;
        if seen.iter().any(|seen| seen.what == "session" && seen.detail == boot) {
            return Ok(());
        }
        let last = hello.phases.iter().map(|phase| phase.ended_millis).max().unwrap_or(0);
        for phase in hello.phases.iter().take(MAX_PHASES) {
            let before = i64::try_from(last - phase.ended_millis).unwrap_or(i64::MAX);
            let name: String = phase.name.chars().take(40).collect();
            core.gather_boot(BootSeen {
                mac,
                at: now.saturating_sub(before),
                what: format!("agent:{name}"),
                detail: format!("{} ms after the kernel's start", phase.ended_millis),
            });
        }
        core.gather_boot(BootSeen { mac, at: now, what: "session".into(), detail: boot });
        Ok(())
    }

    async fn registered(
        &self,
        core: &mut Core,
        node: NodeId,
        inventory: Inventory,
    ) -> anyhow::Result<()> {
        let now = self.now();
        let mut record = core.nodes.get(&node).context("the node was removed")?.clone();
        let mut fingerprint = Fingerprint::from(&inventory);
        match record.state {
            NodeState::IdentityChanged { .. } => record.candidate = Some(fingerprint),
            // The netboot's address must stay known, whatever the kernel calls permanent.
            NodeState::New | NodeState::Ready => {
                if !fingerprint.macs.contains(&record.boot_mac) {
                    fingerprint.macs = std::mem::take(&mut record.fingerprint.macs);
                }
                record.fingerprint = fingerprint;
            }
        }
        let taken = core.unclaim(&mut record);
        let disks: Vec<String> = inventory.disks.iter().map(ToString::to_string).collect();
        let job = core.job_of(node).map(display);
        tracing::info!(node = %record.name, job, disks = disks.join(", "), "registered");
        record.inventory = Some(inventory);
        record.registered = Some(now);
        record.last_seen = now;
        self.store().apply(&[Change::Node(Box::new(record.clone()))]).await?;
        let (mac, detail) = (record.boot_mac, record.name.clone());
        core.gather_boot(BootSeen { mac, at: now, what: "registered".into(), detail });
        core.nodes.insert(node, record);
        self.alarm_taken(core, node, taken);
        self.publish(core);
        Ok(())
    }

    async fn agent_event(
        &self,
        core: &mut Core,
        node: NodeId,
        task: TaskId,
        event: Numbered,
    ) -> anyhow::Result<()> {
        let Numbered { number, what } = event;
        let Some(active) = core.tasks.get_mut(&node).filter(|a| task_id(&a.record) == task) else {
            // Of a task that has ended, or of an older hand-out: nobody needs it any more.
            core.send(node, ToAgent::Ack { task, number });
            return Ok(());
        };
        if number <= active.last_number {
            let number = active.last_number;
            core.send(node, ToAgent::Ack { task, number });
            return Ok(());
        }
        if number != active.last_number + 1 {
            bail!("event {number} follows event {}", active.last_number);
        }
        let now = self.now();
        let what = if number <= MAX_EVENTS_PER_HAND_OUT {
            shorten(what)
        } else {
            let cause = format!("the agent said more than {MAX_EVENTS_PER_HAND_OUT} things");
            AgentEvent::Failed { step: None, cause }
        };
        let mut changes = vec![Change::Event(EventRecord {
            seq: 0,
            job: task.job,
            node,
            generation: task.generation,
            number: Some(number),
            at: now,
            what: Noted::Agent(what.clone()),
        })];
        if let (AgentEvent::Compared { comparison }, Work::Compare { found, .. }) =
            (&what, &mut active.record.work)
        {
            *found = Some(comparison.clone());
            changes.push(Change::Task(Box::new(active.record.clone())));
        }
        let record = &active.record;
        let step = match &what {
            AgentEvent::StepStarted { step: Step::Partition } => {
                changes.extend(partitioned(record, node, now));
                TaskEvent::Progressed
            }
            AgentEvent::StepStarted { step: Step::Clear } => {
                changes
                    .extend(Made::by(record, SlotStage::Writing, now).map(|made| made.kept(node)));
                TaskEvent::Progressed
            }
            AgentEvent::Done { reports } => {
                changes
                    .extend(Made::by(record, SlotStage::Deployed, now).map(|made| made.kept(node)));
                // A system that nothing could make report is not waited for.
                let finish = match record.work.finish() {
                    Finish::Report if !*reports => Finish::LocalBoot,
                    finish => finish,
                };
                let is_for_more = matches!(finish, Finish::Saved | Finish::RunsOn);
                match is_for_more && !record.work.has_result() {
                    true => TaskEvent::WorkFailed {
                        cause: "the agent says that it is done, but nothing came of it".into(),
                    },
                    false => TaskEvent::WorkDone { finish },
                }
            }
            AgentEvent::Failed { step, cause } => {
                let cause = match step {
                    Some(step) => format!("{step}: {cause}"),
                    None => cause.clone(),
                };
                TaskEvent::WorkFailed { cause }
            }
            AgentEvent::StepStarted { .. }
            | AgentEvent::StepNote { .. }
            | AgentEvent::StepDone { .. }
            | AgentEvent::Compared { .. } => TaskEvent::Progressed,
        };
        if matches!(what, AgentEvent::StepStarted { .. }) {
            active.forget_progress();
        }
        self.advance(core, node, &step, changes).await?;
        if let Some(active) = core.tasks.get_mut(&node) {
            active.last_number = number;
            active.moved = now;
        }
        core.send(node, ToAgent::Ack { task, number });
        self.settle_clones(core).await
    }

    fn progress(&self, core: &mut Core, node: NodeId, task: TaskId, progress: Progress) {
        let now = self.now();
        if let Some(active) = core.tasks.get_mut(&node).filter(|a| task_id(&a.record) == task) {
            active.sample(now, progress);
        }
    }
}

fn is_ready(core: &Core, node: NodeId) -> bool {
    core.nodes.get(&node).is_some_and(|node| node.state.is_ready())
}

fn report_failed(task: TaskId, error: &anyhow::Error) -> ReportRefusal {
    let error = format!("{error:#}");
    tracing::error!(node = %task.node, job = %task.job, error, "keeping a system's report");
    ReportRefusal::Internal
}

/// Whether a report may come now; `true` if it is late but still worth keeping.
fn check_report(record: &TaskRecord) -> Result<bool, ReportRefusal> {
    match &record.life.state {
        TaskState::WorkDone { .. }
        | TaskState::Rebooting { .. }
        | TaskState::AwaitingReport { .. } => Ok(false),
        TaskState::Done { confirmed: true } => Err(ReportRefusal::Used),
        // The job has ended, but what stands in the slot is still what it put there.
        TaskState::Done { confirmed: false }
        | TaskState::Failed { .. }
        | TaskState::Cancelled { .. } => Ok(true),
        TaskState::Waiting { .. }
        | TaskState::AwaitingSource { .. }
        | TaskState::HandedOut { .. }
        | TaskState::Running { .. }
        | TaskState::Cancelling { .. } => Err(ReportRefusal::NotExpected),
    }
}

/// Who reported, so that the same system is known when it repeats itself.
fn who(report: &SystemReport) -> String {
    let short =
        |text: &str| -> String { text.chars().filter(|c| !c.is_control()).take(128).collect() };
    format!(
        "{} (kernel {}, root {}, machine-id {})",
        short(&report.hostname),
        short(&report.kernel),
        short(&report.root),
        short(&report.machine_id)
    )
}

fn describe(report: &SystemReport, from: IpAddr) -> String {
    format!("{} reported from {from}, up {} s", who(report), report.uptime_seconds)
}

fn note(record: &TaskRecord, now: i64, text: String) -> EventRecord {
    EventRecord {
        seq: 0,
        job: record.job,
        node: record.node,
        generation: record.life.generation,
        number: None,
        at: now,
        what: Noted::Note(text),
    }
}

fn shorten(event: AgentEvent) -> AgentEvent {
    let short = |text: String| text.chars().take(MAX_TEXT).collect();
    match event {
        AgentEvent::StepNote { step, text } => AgentEvent::StepNote { step, text: short(text) },
        AgentEvent::Failed { step, cause } => AgentEvent::Failed { step, cause: short(cause) },
        AgentEvent::Compared { comparison } => {
            AgentEvent::Compared { comparison: Box::new(comparison.bounded()) }
        }
        AgentEvent::StepStarted { .. } | AgentEvent::StepDone { .. } | AgentEvent::Done { .. } => {
            event
        }
    }
}
