//! What tasks have to tell, kept until the controller has it.
//!
//! Events are numbered and sent again after a reconnect until they are acknowledged. Of progress only
//! the latest counts.

use crate::task::Report;
use metalcast_shared::{
    event::{Numbered, Progress, TaskEvent},
    id::TaskId,
    to_controller::ToController,
};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Most events kept. A task has some ten; beyond this notes are dropped, never what ends a step.
const MAX_EVENTS: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Not acknowledged, in order.
    events: VecDeque<(TaskId, Numbered)>,
    /// How many of them were sent on this connection.
    sent: usize,
    last: Option<(TaskId, u32)>,
    progress: Option<(TaskId, Progress)>,
}

impl Outbox {
    /// Takes a report from a task's thread.
    pub(super) fn push(&self, task: TaskId, report: Report) {
        let mut inner = self.lock();
        match report {
            Report::Progress(progress) => inner.progress = Some((task, progress)),
            Report::Event(what) => {
                let is_note = matches!(what, TaskEvent::StepNote { .. });
                if is_note && inner.events.len() >= MAX_EVENTS {
                    return;
                }
                let number = match inner.last {
                    Some((of, last)) if of == task => last + 1,
                    Some(_) | None => 1,
                };
                inner.last = Some((task, number));
                inner.events.push_back((task, Numbered { number, what }));
                drop(inner);
                self.changed.notify_one();
            }
        }
    }

    /// A new connection: everything that is kept is to be sent on it.
    pub(super) fn connected(&self) {
        self.lock().sent = 0;
    }

    /// Ends when there may be new events.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The events that were not sent on this connection yet.
    pub(super) fn events(&self) -> Vec<ToController> {
        let mut inner = self.lock();
        let sent = std::mem::replace(&mut inner.sent, usize::MAX).min(inner.events.len());
        let new = inner.events.iter().skip(sent);
        let events = new
            .map(|(task, event)| ToController::Event { task: *task, event: event.clone() })
            .collect();
        inner.sent = inner.events.len();
        events
    }

    /// The latest progress, if there is a newer one than was taken.
    pub(super) fn progress(&self) -> Option<ToController> {
        let (task, progress) = self.lock().progress.take()?;
        Some(ToController::Progress { task, progress })
    }

    /// The controller keeps the events of a task up to this number.
    pub(super) fn acknowledged(&self, task: TaskId, number: u32) {
        let mut inner = self.lock();
        let before = inner.events.len();
        inner.events.retain(|(of, event)| *of != task || event.number > number);
        inner.sent = inner.sent.saturating_sub(before - inner.events.len());
    }

    /// Whether events of a task wait for their acknowledgement.
    pub(super) fn has(&self, task: TaskId) -> bool {
        self.lock().events.iter().any(|(of, _)| *of == task)
    }

    /// A panic elsewhere leaves a list of events that is as good as before.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metalcast_shared::{
        event::Step,
        id::{JobId, NodeId},
    };

    fn task(generation: u32) -> TaskId {
        TaskId { job: JobId(1), node: NodeId(uuid::Uuid::nil()), generation }
    }

    fn numbers(events: &[ToController]) -> Vec<(u32, u32)> {
        events
            .iter()
            .map(|event| match event {
                ToController::Event { task, event } => (task.generation, event.number),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn events_are_sent_until_they_are_acknowledged() {
        let outbox = Outbox::default();
        let push = |generation| {
            let event = TaskEvent::StepStarted { step: Step::Clear };
            outbox.push(task(generation), Report::Event(event));
        };
        (0..3).for_each(|_| push(1));
        assert_eq!(numbers(&outbox.events()), [(1, 1), (1, 2), (1, 3)]);
        assert!(outbox.events().is_empty(), "once per connection");
        outbox.acknowledged(task(1), 2);
        push(1);
        assert_eq!(numbers(&outbox.events()), [(1, 4)]);
        outbox.connected();
        assert_eq!(numbers(&outbox.events()), [(1, 3), (1, 4)]);
        push(2);
        outbox.acknowledged(task(1), 4);
        assert!(!outbox.has(task(1)) && outbox.has(task(2)));
        assert_eq!(numbers(&outbox.events()), [(2, 1)]);
    }

    #[test]
    fn what_ends_a_step_is_kept_when_notes_no_longer_are() {
        let outbox = Outbox::default();
        let step = Step::Transfer;
        for _ in 0..2 * MAX_EVENTS {
            outbox.push(task(1), Report::Event(TaskEvent::StepNote { step, text: "x".into() }));
        }
        outbox.push(task(1), Report::Event(TaskEvent::Done { reports: true }));
        let events = outbox.events();
        assert_eq!(events.len(), MAX_EVENTS + 1);
        assert_eq!(numbers(&events).last(), Some(&(1, MAX_EVENTS as u32 + 1)));
    }
}
