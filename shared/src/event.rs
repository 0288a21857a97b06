//! What happens in a task: step events, which are kept, and progress, of which only the latest
//! counts; and the view that both fold into.

use crate::as_left::Comparison;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Steps of a task, in the order in which a deploy takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Find the disk by its identity and look at what is on it.
    CheckDisk,
    /// Write the partition table, or find it as it should be.
    Partition,
    /// Make the boot partition's filesystem and the swap signature.
    Format,
    /// Zero the target's first MiB, so that neither the old nor a half-new system can boot.
    Clear,
    /// Stream, verify and write the image's chunks.
    Transfer,
    /// Read the written blocks back from the disk and compare.
    Verify,
    /// Write the first MiB, boot code left blank.
    FirstBlocks,
    /// Adapt the system to its node and slot.
    FixUp,
    /// Install the disk's and the slot's boot loader; the slot's boot sector comes last.
    BootCode,
    /// Make the slot the one that starts.
    Activate,
    /// Find out what is to be saved of a disk, by the records of its filesystems.
    Survey,
    /// Read that and send it into the store.
    Capture,
    /// Have a filesystem take all of its slot or partition; between first blocks and fix-up.
    Grow,
    /// Give a whole disk's filesystems ids of their own, and have what names them follow; after first
    /// blocks.
    FreshIds,
    /// Remember what a deploy leaves, as far as it is not the image's; between boot code and
    /// activate.
    Record,
    /// Read a slot back and compare it with that.
    Compare,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CheckDisk => "check-disk",
            Self::Partition => "partition",
            Self::Format => "format",
            Self::Clear => "clear",
            Self::Transfer => "transfer",
            Self::Verify => "verify",
            Self::FirstBlocks => "first-blocks",
            Self::FixUp => "fix-up",
            Self::BootCode => "boot-code",
            Self::Activate => "activate",
            Self::Survey => "survey",
            Self::Capture => "capture",
            Self::Grow => "grow",
            Self::FreshIds => "fresh-ids",
            Self::Record => "record",
            Self::Compare => "compare",
        })
    }
}

/// Something that is kept for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskEvent {
    /// A step began.
    StepStarted {
        /// Which.
        step: Step,
    },
    /// A step changed or found something that an operator may want to know.
    StepNote {
        /// Which.
        step: Step,
        /// What, in one line.
        text: String,
    },
    /// A step ended well.
    StepDone {
        /// Which.
        step: Step,
        /// How long it took.
        millis: u64,
    },
    /// All steps ended well.
    Done {
        /// Whether the deployed system was made to report that it is up.
        reports: bool,
    },
    /// A step failed, and with it the task.
    Failed {
        /// Which, if the task got that far.
        step: Option<Step>,
        /// Why, in one sentence with its causes.
        cause: String,
    },
    /// What a comparison found.
    Compared {
        /// All of it.
        comparison: Box<Comparison>,
    },
}

/// A [`TaskEvent`] as an agent sends it; counted from 1 so that it may be sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    /// Position in the task's run on this agent.
    pub number: u32,
    /// What happened.
    pub what: TaskEvent,
}

/// How far the current step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which step.
    pub step: Step,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes to do.
    pub total_bytes: u64,
    /// Bytes that came over the network for it.
    pub wire_bytes: u64,
}

/// How one step of a task stands, folded from its events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// Which.
    pub step: Step,
    /// How it stands.
    pub state: StepState,
    /// What it said, in order.
    pub notes: Vec<String>,
}

/// How a step stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// Under way.
    Running,
    /// Ended well after this many milliseconds.
    Done(u64),
    /// Failed, and why.
    Failed(String),
}

/// Folds events into one line per step. A step that is begun again starts over.
pub fn fold<'e>(events: impl IntoIterator<Item = &'e TaskEvent>) -> Vec<StepView> {
    let mut views: Vec<StepView> = Vec::new();
    for event in events {
        match event {
            TaskEvent::StepStarted { step } => {
                views.retain(|view| view.step != *step);
                let state = StepState::Running;
                views.push(StepView { step: *step, state, notes: Vec::new() });
            }
            TaskEvent::StepNote { step, text } => {
                if let Some(view) = views.iter_mut().find(|view| view.step == *step) {
                    view.notes.push(text.clone());
                }
            }
            TaskEvent::StepDone { step, millis } => {
                if let Some(view) = views.iter_mut().find(|view| view.step == *step) {
                    view.state = StepState::Done(*millis);
                }
            }
            TaskEvent::Failed { step: Some(step), cause } => {
                if let Some(view) = views.iter_mut().find(|view| view.step == *step) {
                    view.state = StepState::Failed(cause.clone());
                }
            }
            TaskEvent::Done { .. }
            | TaskEvent::Failed { step: None, .. }
            | TaskEvent::Compared { .. } => {}
        }
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_taken_again_starts_over() {
        let step = Step::Transfer;
        let events = [
            TaskEvent::StepStarted { step },
            TaskEvent::StepNote { step, text: "first".into() },
            TaskEvent::Failed { step: Some(step), cause: "link down".into() },
            TaskEvent::StepStarted { step },
            TaskEvent::StepDone { step, millis: 12 },
            TaskEvent::Done { reports: true },
        ];
        let view = |state| StepView { step, state, notes: Vec::new() };
        assert_eq!(fold(&events[..3])[0].state, StepState::Failed("link down".into()));
        assert_eq!(fold(&events), [view(StepState::Done(12))]);
    }
}
