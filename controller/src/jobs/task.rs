//! The life of a task: one node's share of a job.
//!
//! ```text
//!           agent ready        first event          done, reboot ordered
//!  waiting ────────────> handed-out ────> running ───────────────> work-done
//!     ^  (a fresh agent: generation + 1)  │  │                          │ agent gone
//!     │        ^──────────────────────────┘  │ failed                   v
//!     │ cancel                               v                      rebooting
//!     └──────> cancelled <── cancelling    failed                       │ boot script: local disk
//!                                            ^                          v
//!                                            └── deadline ──── awaiting-report ──report──> done
//! ```
//!
//! The tasks of a clone but for its source's begin as *awaiting-source*, and become waiting, or fail, when that
//! has ended. The source's machine runs on: its task is done when the work is, without a restart.
//!
//! **Invariants**: a task that has ended stays as it is; the generation never falls and never
//! exceeds [`MAX_GENERATION`]; every state that waits has a deadline, and its expiry says why.

use metalcast_shared::id::{BootId, NodeId};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// How often a task is handed to a fresh agent before it is given up: a node that resets this often
/// has a fault that another try does not mend.
pub const MAX_GENERATION: u32 = 10;

/// How long an agent may hold a task without beginning it.
pub const BEGIN_LIMIT_MS: i64 = 5 * 60 * 1000;
/// How long the work may take: a 2 TB image over 1 Gbit/s needs 5 hours.
pub const WORK_LIMIT_MS: i64 = 24 * 3600 * 1000;
/// How long the work may stand still while its agent is heard of: checking and growing a filesystem
/// of terabytes says nothing for minutes.
pub const STILL_LIMIT_MS: i64 = 30 * 60 * 1000;
/// How long an agent may take to come to a safe point.
pub const CANCEL_LIMIT_MS: i64 = 2 * 60 * 1000;
/// How long a node may take from the reboot order to its boot script; servers spend minutes in
/// their firmware.
pub const REBOOT_LIMIT_MS: i64 = 10 * 60 * 1000;
/// How long a system may take from the boot script to its report.
pub const REPORT_LIMIT_MS: i64 = 10 * 60 * 1000;
/// After this long without a message an agent is shown as silent.
pub const SILENT_AFTER_MS: i64 = 2 * 60 * 1000;
/// How long a node may take to netboot, unless the job says otherwise.
pub const DEFAULT_NETBOOT_LIMIT_MS: i64 = 30 * 60 * 1000;

/// Where a task stands. All times are milliseconds since 1970-01-01 UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum TaskState {
    /// For the node to netboot and be approved.
    Waiting {
        /// Since when.
        since: i64,
    },
    /// For the task of another node, whose system is to be put on this one: nothing is done before all of
    /// that is there.
    AwaitingSource {
        /// Since when.
        since: i64,
        /// The other node.
        source: NodeId,
    },
    /// Sent to an agent, which has not begun yet.
    HandedOut {
        /// The agent's boot.
        boot: BootId,
        /// Since when.
        since: i64,
    },
    /// The agent works on it.
    Running {
        /// The agent's boot.
        boot: BootId,
        /// When the first agent began.
        since: i64,
    },
    /// The agent was told to stop.
    Cancelling {
        /// Why.
        reason: String,
        /// Since when.
        since: i64,
    },
    /// All steps are done, and the agent was told to restart the machine.
    WorkDone {
        /// When the restart was ordered first.
        ordered: i64,
        /// How it ends well.
        finish: Finish,
    },
    /// The agent is gone, the machine restarts.
    Rebooting {
        /// When the restart was ordered first.
        ordered: i64,
        /// How it ends well.
        finish: Finish,
    },
    /// The machine was sent to its disk, its system has to report.
    AwaitingReport {
        /// Since when.
        since: i64,
    },
    /// Ended well.
    Done {
        /// Whether the system itself said so.
        confirmed: bool,
    },
    /// Ended badly.
    Failed {
        /// Why, in one sentence.
        cause: String,
    },
    /// Stopped by an operator.
    Cancelled {
        /// Why.
        reason: String,
    },
}

/// Where a task stands and how often it was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Where it stands.
    pub state: TaskState,
    /// Of the last hand-out; 0 before the first.
    pub generation: u32,
}

/// How a task ends well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// When the system reports in.
    Report,
    /// When the machine is sent to its disk; whether the system came up is not known.
    LocalBoot,
    /// The same, but what the work was for is done before that.
    Saved,
    /// When the work is done: the machine runs its own system and goes on with that.
    RunsOn,
}

/// What an agent says it has in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// No task, or one that is none of ours.
    Nothing,
    /// This task, of this generation.
    This {
        /// Hand-out number.
        generation: u32,
    },
}

/// Something that happens to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// An agent of the approved node has a session.
    AgentReady {
        /// Its boot.
        boot: BootId,
        /// What it has in hand.
        holding: Holding,
    },
    /// The node's session ended.
    AgentGone,
    /// The agent began, or goes on.
    Progressed,
    /// The agent did all steps.
    WorkDone {
        /// How the task ends well.
        finish: Finish,
    },
    /// A step failed.
    WorkFailed {
        /// Why, in one sentence.
        cause: String,
    },
    /// The node asked for its boot script and was sent to its disk.
    SentToDisk,
    /// The deployed system reported in.
    Reported,
    /// What it awaits of another node is there.
    SourceReady,
    /// That will not come.
    SourceFailed {
        /// Why, in one sentence.
        cause: String,
    },
    /// An operator stops it.
    CancelAsked {
        /// Why.
        reason: String,
    },
    /// The deadline of the present state has passed.
    Expired {
        /// What did not happen, in one sentence.
        cause: String,
    },
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEffect {
    /// Send the task, with the life's generation, to the agent.
    HandOut,
    /// Tell the agent to stop it.
    SendCancel {
        /// Why.
        reason: String,
    },
    /// Tell the agent to restart the machine.
    OrderReboot,
    /// From now on the node starts from its disk.
    BootFromDisk,
    /// From now on the node netboots into the agent: its disk may be half written.
    BootIntoAgent,
}

impl Life {
    /// A task that nobody has seen yet.
    pub fn new(now: i64) -> Self {
        Self { state: TaskState::Waiting { since: now }, generation: 0 }
    }

    /// The same of one that has to await another node's.
    pub fn awaiting(source: NodeId, now: i64) -> Self {
        Self { state: TaskState::AwaitingSource { since: now, source }, generation: 0 }
    }
}

/// The life and the effects that follow from an event at `now`.
pub fn step(life: &Life, event: &TaskEvent, now: i64) -> (Life, Vec<TaskEffect>) {
    match event {
        TaskEvent::AgentReady { boot, holding } => agent_ready(life, *boot, *holding, now),
        TaskEvent::AgentGone => match &life.state {
            TaskState::WorkDone { ordered, finish } => {
                life.to(TaskState::Rebooting { ordered: *ordered, finish: *finish }, vec![])
            }
            TaskState::Waiting { .. }
            | TaskState::AwaitingSource { .. }
            | TaskState::HandedOut { .. }
            | TaskState::Running { .. }
            | TaskState::Cancelling { .. }
            | TaskState::Rebooting { .. }
            | TaskState::AwaitingReport { .. }
            | TaskState::Done { .. }
            | TaskState::Failed { .. }
            | TaskState::Cancelled { .. } => life.stay(),
        },
        TaskEvent::Progressed | TaskEvent::WorkDone { .. } | TaskEvent::WorkFailed { .. } => {
            agent_said(life, event, now)
        }
        TaskEvent::SentToDisk => match &life.state {
            TaskState::WorkDone { finish, .. } | TaskState::Rebooting { finish, .. } => {
                match finish {
                    Finish::Report => life.to(TaskState::AwaitingReport { since: now }, vec![]),
                    Finish::LocalBoot => life.to(TaskState::Done { confirmed: false }, vec![]),
                    Finish::Saved | Finish::RunsOn => {
                        life.to(TaskState::Done { confirmed: true }, vec![])
                    }
                }
            }
            TaskState::Waiting { .. }
            | TaskState::AwaitingSource { .. }
            | TaskState::HandedOut { .. }
            | TaskState::Running { .. }
            | TaskState::Cancelling { .. }
            | TaskState::AwaitingReport { .. }
            | TaskState::Done { .. }
            | TaskState::Failed { .. }
            | TaskState::Cancelled { .. } => life.stay(),
        },
        TaskEvent::Reported => match &life.state {
            TaskState::WorkDone { .. }
            | TaskState::Rebooting { .. }
            | TaskState::AwaitingReport { .. } => {
                life.to(TaskState::Done { confirmed: true }, vec![])
            }
            TaskState::Waiting { .. }
            | TaskState::AwaitingSource { .. }
            | TaskState::HandedOut { .. }
            | TaskState::Running { .. }
            | TaskState::Cancelling { .. }
            | TaskState::Done { .. }
            | TaskState::Failed { .. }
            | TaskState::Cancelled { .. } => life.stay(),
        },
        TaskEvent::SourceReady | TaskEvent::SourceFailed { .. } => source_ended(life, event, now),
        TaskEvent::CancelAsked { reason } => cancel_asked(life, reason, now),
        TaskEvent::Expired { cause } => expired(life, cause),
    }
}

fn source_ended(life: &Life, event: &TaskEvent, now: i64) -> (Life, Vec<TaskEffect>) {
    match (&life.state, event) {
        (TaskState::AwaitingSource { .. }, TaskEvent::SourceFailed { cause }) => {
            life.to(TaskState::Failed { cause: cause.clone() }, vec![])
        }
        (TaskState::AwaitingSource { .. }, _) => life.to(TaskState::Waiting { since: now }, vec![]),
        _ => life.stay(),
    }
}

fn agent_ready(life: &Life, boot: BootId, holding: Holding, now: i64) -> (Life, Vec<TaskEffect>) {
    let has_it = holding == Holding::This { generation: life.generation } && life.generation > 0;
    match &life.state {
        TaskState::Waiting { .. } => life.hand_out(boot, now),
        TaskState::HandedOut { since, boot: old } => {
            // The same agent without the task: the message did not arrive.
            if has_it || *old == boot {
                let state = TaskState::HandedOut { boot, since: *since };
                life.to(state, vec![TaskEffect::HandOut])
            } else {
                life.hand_out(boot, now)
            }
        }
        TaskState::Running { since, .. } => {
            if has_it {
                let state = TaskState::Running { boot, since: *since };
                life.to(state, vec![TaskEffect::HandOut])
            } else {
                life.hand_out(boot, now)
            }
        }
        TaskState::Cancelling { reason, .. } => {
            if has_it {
                let reason = reason.clone();
                (life.clone(), vec![TaskEffect::SendCancel { reason }])
            } else {
                let state = TaskState::Cancelled { reason: reason.clone() };
                life.to(state, vec![TaskEffect::BootIntoAgent])
            }
        }
        // The order got lost, or the machine came back into the RAM image.
        TaskState::WorkDone { ordered, finish } | TaskState::Rebooting { ordered, finish } => {
            let state = TaskState::WorkDone { ordered: *ordered, finish: *finish };
            life.to(state, vec![TaskEffect::OrderReboot])
        }
        TaskState::AwaitingReport { .. } => (life.clone(), vec![TaskEffect::OrderReboot]),
        TaskState::AwaitingSource { .. }
        | TaskState::Done { .. }
        | TaskState::Failed { .. }
        | TaskState::Cancelled { .. } => life.stay(),
    }
}

fn agent_said(life: &Life, event: &TaskEvent, now: i64) -> (Life, Vec<TaskEffect>) {
    match (&life.state, event) {
        (
            TaskState::HandedOut { .. } | TaskState::Running { .. } | TaskState::Cancelling { .. },
            TaskEvent::WorkDone { finish: Finish::RunsOn },
        ) => life.to(TaskState::Done { confirmed: true }, vec![]),
        (
            TaskState::HandedOut { .. } | TaskState::Running { .. } | TaskState::Cancelling { .. },
            TaskEvent::WorkDone { finish },
        ) => {
            let effects = vec![TaskEffect::BootFromDisk, TaskEffect::OrderReboot];
            life.to(TaskState::WorkDone { ordered: now, finish: *finish }, effects)
        }
        (
            TaskState::HandedOut { .. } | TaskState::Running { .. },
            TaskEvent::WorkFailed { cause },
        ) => {
            let state = TaskState::Failed { cause: cause.clone() };
            life.to(state, vec![TaskEffect::BootIntoAgent])
        }
        (TaskState::Cancelling { reason, .. }, TaskEvent::WorkFailed { .. }) => {
            let state = TaskState::Cancelled { reason: reason.clone() };
            life.to(state, vec![TaskEffect::BootIntoAgent])
        }
        (TaskState::HandedOut { boot, .. }, TaskEvent::Progressed) => {
            life.to(TaskState::Running { boot: *boot, since: now }, vec![])
        }
        (
            TaskState::Waiting { .. }
            | TaskState::AwaitingSource { .. }
            | TaskState::HandedOut { .. }
            | TaskState::Running { .. }
            | TaskState::Cancelling { .. }
            | TaskState::WorkDone { .. }
            | TaskState::Rebooting { .. }
            | TaskState::AwaitingReport { .. }
            | TaskState::Done { .. }
            | TaskState::Failed { .. }
            | TaskState::Cancelled { .. },
            _,
        ) => life.stay(),
    }
}

fn cancel_asked(life: &Life, reason: &str, now: i64) -> (Life, Vec<TaskEffect>) {
    let reason = reason.to_owned();
    match &life.state {
        // Without effects: what the disk holds is as whole as before, or as the agent left it.
        TaskState::Waiting { .. }
        | TaskState::AwaitingSource { .. }
        | TaskState::WorkDone { .. }
        | TaskState::Rebooting { .. }
        | TaskState::AwaitingReport { .. } => life.to(TaskState::Cancelled { reason }, vec![]),
        TaskState::HandedOut { .. } | TaskState::Running { .. } => {
            let effects = vec![TaskEffect::SendCancel { reason: reason.clone() }];
            life.to(TaskState::Cancelling { reason, since: now }, effects)
        }
        TaskState::Cancelling { .. }
        | TaskState::Done { .. }
        | TaskState::Failed { .. }
        | TaskState::Cancelled { .. } => life.stay(),
    }
}

fn expired(life: &Life, cause: &str) -> (Life, Vec<TaskEffect>) {
    let failed = TaskState::Failed { cause: cause.to_owned() };
    match &life.state {
        TaskState::Waiting { .. } | TaskState::AwaitingSource { .. } => life.to(failed, vec![]),
        // What was to start did not: its next start leads to where it can be helped.
        TaskState::WorkDone { .. }
        | TaskState::Rebooting { .. }
        | TaskState::AwaitingReport { .. } => life.to(failed, vec![TaskEffect::BootIntoAgent]),
        TaskState::HandedOut { .. } | TaskState::Running { .. } => {
            let reason = cause.to_owned();
            life.to(failed, vec![TaskEffect::SendCancel { reason }, TaskEffect::BootIntoAgent])
        }
        TaskState::Cancelling { reason, .. } => {
            let state = TaskState::Cancelled { reason: reason.clone() };
            life.to(state, vec![TaskEffect::BootIntoAgent])
        }
        TaskState::Done { .. } | TaskState::Failed { .. } | TaskState::Cancelled { .. } => {
            life.stay()
        }
    }
}

impl Life {
    fn stay(&self) -> (Self, Vec<TaskEffect>) {
        (self.clone(), Vec::new())
    }

    fn to(&self, state: TaskState, effects: Vec<TaskEffect>) -> (Self, Vec<TaskEffect>) {
        (Self { state, generation: self.generation }, effects)
    }

    fn hand_out(&self, boot: BootId, now: i64) -> (Self, Vec<TaskEffect>) {
        if self.generation >= MAX_GENERATION {
            let cause = format!(
                "the node came back without the task {MAX_GENERATION} times: it restarts in the middle of the work, look at its power and console"
            );
            return self.to(TaskState::Failed { cause }, vec![TaskEffect::BootIntoAgent]);
        }
        let state = TaskState::HandedOut { boot, since: now };
        (Self { state, generation: self.generation + 1 }, vec![TaskEffect::HandOut])
    }
}

/// What a state waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When it ends, milliseconds since 1970-01-01 UTC.
    pub at: i64,
    /// What did not happen if it does, in one sentence.
    pub cause: String,
}

/// What is known of an agent, milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When we began to listen: nobody is late for what fell into the time before.
    pub started: i64,
    /// When it was last heard of.
    pub agent: i64,
    /// When the work last moved on: an event, or another progress.
    pub work: i64,
}

/// When the present state ends by itself and why; `None` for a task that has ended.
/// `netboot_limit_ms` is how long the node may take to come into the RAM image.
pub fn deadline(life: &Life, heard: Heard, netboot_limit_ms: i64) -> Option<Deadline> {
    let last_seen = heard.agent.max(heard.started);
    let after = |since: i64, limit_ms: i64| since.max(heard.started).saturating_add(limit_ms);
    let span = |ms: i64| match ms / 1000 {
        seconds @ ..120 => format!("{seconds} s"),
        seconds if seconds >= 2 * 3600 => format!("{} h", seconds / 3600),
        seconds => format!("{} min", seconds / 60),
    };
    let silent = Deadline {
        at: last_seen.saturating_add(netboot_limit_ms),
        cause: format!(
            "the agent fell silent and the node did not netboot again within {}: look at its power and console",
            span(netboot_limit_ms)
        ),
    };
    match &life.state {
        TaskState::Waiting { since } => Some(Deadline {
            at: after(*since, netboot_limit_ms),
            cause: format!(
                "the node did not netboot within {}: switch it on, or raise --timeout",
                span(netboot_limit_ms)
            ),
        }),
        TaskState::AwaitingSource { since, .. } => {
            // As long as the source's own task may take, and it ends with a better cause.
            let limit =
                netboot_limit_ms.saturating_add(BEGIN_LIMIT_MS + WORK_LIMIT_MS + CANCEL_LIMIT_MS);
            let cause = format!("the system of the source did not come within {}", span(limit));
            Some(Deadline { at: after(*since, limit), cause })
        }
        TaskState::HandedOut { since, .. } => {
            let at = after(*since, BEGIN_LIMIT_MS);
            // An agent that fell silent before then may be on its way through a netboot.
            if last_seen < at {
                return Some(silent);
            }
            let limit = span(BEGIN_LIMIT_MS);
            let cause = format!("the agent has the task but did not begin it within {limit}");
            Some(Deadline { at, cause })
        }
        TaskState::Running { since, .. } => {
            let still = after(heard.work.max(*since), STILL_LIMIT_MS);
            if last_seen >= still {
                let limit = span(STILL_LIMIT_MS);
                let cause = format!(
                    "the agent is there but its work did not move on within {limit}: look at its console"
                );
                return Some(Deadline { at: still, cause });
            }
            let at = after(*since, WORK_LIMIT_MS);
            if silent.at < at {
                return Some(silent);
            }
            let cause = format!("the work was not done within {}", span(WORK_LIMIT_MS));
            Some(Deadline { at, cause })
        }
        TaskState::Cancelling { since, .. } => Some(Deadline {
            at: after(*since, CANCEL_LIMIT_MS),
            cause: format!("the agent did not stop within {}", span(CANCEL_LIMIT_MS)),
        }),
        TaskState::WorkDone { ordered, .. } | TaskState::Rebooting { ordered, .. } => {
            Some(Deadline {
                at: after(*ordered, REBOOT_LIMIT_MS),
                cause: format!(
                    "the node did not ask for its boot script within {} of the reboot order: look at its console",
                    span(REBOOT_LIMIT_MS)
                ),
            })
        }
        TaskState::AwaitingReport { since } => Some(Deadline {
            at: after(*since, REPORT_LIMIT_MS),
            cause: format!(
                "the deployed system did not report within {} of being started: look at its console",
                span(REPORT_LIMIT_MS)
            ),
        }),
        TaskState::Done { .. } | TaskState::Failed { .. } | TaskState::Cancelled { .. } => None,
    }
}

impl TaskState {
    /// Whether nothing more will happen.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Done { .. } | Self::Failed { .. } | Self::Cancelled { .. } => true,
            Self::Waiting { .. }
            | Self::AwaitingSource { .. }
            | Self::HandedOut { .. }
            | Self::Running { .. }
            | Self::Cancelling { .. }
            | Self::WorkDone { .. }
            | Self::Rebooting { .. }
            | Self::AwaitingReport { .. } => false,
        }
    }

    /// What the node has to do at its next start because of the task: `Some(true)` netboot into the
    /// agent, `Some(false)` start from its disk, `None` whatever it does by default.
    pub fn wants_agent(&self) -> Option<bool> {
        match self {
            Self::Waiting { .. }
            | Self::AwaitingSource { .. }
            | Self::HandedOut { .. }
            | Self::Running { .. }
            | Self::Cancelling { .. } => Some(true),
            Self::WorkDone { .. } | Self::Rebooting { .. } | Self::AwaitingReport { .. } => {
                Some(false)
            }
            Self::Done { .. } | Self::Failed { .. } | Self::Cancelled { .. } => None,
        }
    }

    /// Whether an agent has the task, so that it may read the image.
    pub fn is_with_agent(&self) -> bool {
        match self {
            Self::HandedOut { .. } | Self::Running { .. } | Self::Cancelling { .. } => true,
            Self::Waiting { .. }
            | Self::AwaitingSource { .. }
            | Self::WorkDone { .. }
            | Self::Rebooting { .. }
            | Self::AwaitingReport { .. }
            | Self::Done { .. }
            | Self::Failed { .. }
            | Self::Cancelled { .. } => false,
        }
    }

    /// Whether the agent was told to stop.
    pub fn is_stopping(&self) -> bool {
        matches!(self, Self::Cancelling { .. })
    }

    /// The cause or reason, where there is one.
    pub fn why(&self) -> Option<String> {
        match self {
            Self::Failed { cause } => Some(cause.clone()),
            Self::Cancelling { reason, .. } | Self::Cancelled { reason } => Some(reason.clone()),
            Self::Waiting { .. }
            | Self::AwaitingSource { .. }
            | Self::HandedOut { .. }
            | Self::Running { .. }
            | Self::WorkDone { .. }
            | Self::Rebooting { .. }
            | Self::AwaitingReport { .. }
            | Self::Done { .. } => None,
        }
    }

    /// Its name in tables and in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::AwaitingSource { .. } => "awaiting-source",
            Self::HandedOut { .. } => "handed-out",
            Self::Running { .. } => "running",
            Self::Cancelling { .. } => "cancelling",
            Self::WorkDone { .. } => "work-done",
            Self::Rebooting { .. } => "rebooting",
            Self::AwaitingReport { .. } => "awaiting-report",
            Self::Done { confirmed: true } => "done",
            Self::Done { confirmed: false } => "done (unconfirmed)",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}
