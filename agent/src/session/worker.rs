//! The thread that carries out the task in hand. One at a time; it goes on while there is no
//! connection.

use super::{
    connect::Identity,
    fetch::{Line, QuicDisk, QuicSource},
    outbox::Outbox,
    upload::QuicUploader,
};
use crate::{
    console::StepConsole,
    task::{self, Cancel, Context, Machine, PackedFile, Report},
};
use metalcast_shared::{
    event::TaskEvent,
    id::TaskId,
    to_agent::{Task, Work},
};
use quinn::Connection;
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};
use tokio::{runtime::Handle, sync::oneshot, sync::watch};

pub(super) struct Worker {
    machine: Arc<Machine>,
    identity: Arc<Identity>,
    outbox: Arc<Outbox>,
    links: watch::Receiver<Option<Connection>>,
    current: Option<Current>,
    next: Option<Task>,
}

struct Current {
    id: TaskId,
    cancel: Arc<Cancel>,
    /// `None` once it has ended.
    ended: Option<oneshot::Receiver<()>>,
}

impl Worker {
    pub(super) fn new(
        machine: Arc<Machine>,
        identity: Arc<Identity>,
        outbox: Arc<Outbox>,
        links: watch::Receiver<Option<Connection>>,
    ) -> Self {
        Self { machine, identity, outbox, links, current: None, next: None }
    }

    /// The task in hand: it runs, or the controller does not know yet how it ended.
    pub(super) fn in_hand(&self) -> Option<TaskId> {
        let current = self.current.as_ref()?;
        (current.ended.is_some() || self.outbox.has(current.id)).then_some(current.id)
    }

    /// Whether a task runs.
    pub(super) fn is_running(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.ended.is_some())
    }

    /// Takes a task. One that is known goes on; another one has to end first.
    pub(super) fn take(&mut self, task: Task) -> anyhow::Result<()> {
        match &self.current {
            Some(current) if current.id == task.id => Ok(()),
            Some(Current { ended: Some(_), cancel, .. }) => {
                cancel.cancel("the controller gave this node another task");
                self.next = Some(task);
                Ok(())
            }
            Some(_) | None => self.start(task),
        }
    }

    pub(super) fn cancel(&mut self, task: TaskId, reason: &str) {
        self.next = self.next.take().filter(|next| next.id != task);
        if let Some(current) = self.current.as_ref().filter(|current| current.id == task) {
            current.cancel.cancel(reason);
        }
    }

    /// Ends when the running task has ended; never if there is none.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        let Some(ended) = self.current.as_mut().and_then(|current| current.ended.as_mut()) else {
            return std::future::pending().await;
        };
        // An error says that the thread is gone without a word; it has ended all the same.
        let _ = ended.await;
        self.has_ended();
        match self.next.take() {
            Some(next) => self.start(next),
            None => Ok(()),
        }
    }

    /// Asks the running task to stop and waits for it.
    pub(super) async fn stop(&mut self, reason: &str, limit: Duration) {
        self.next = None;
        if let Some(Current { cancel, ended: Some(ended), .. }) = &mut self.current {
            cancel.cancel(reason);
            match tokio::time::timeout(limit, ended).await {
                Ok(_) => self.has_ended(),
                Err(_) => {
                    tracing::warn!("the running task did not stop in {} s", limit.as_secs());
                }
            }
        }
    }

    /// Tells the controller that a task is not begun.
    pub(super) fn refuse(&self, task: TaskId, cause: &str) {
        tracing::warn!("a task is refused: {cause}");
        // One that is in hand goes on, and its events keep their numbers.
        if self.in_hand().is_none() {
            let cause = cause.to_owned();
            self.outbox.push(task, Report::Event(TaskEvent::Failed { step: None, cause }));
        }
    }

    fn has_ended(&mut self) {
        if let Some(current) = &mut self.current {
            current.ended = None;
        }
    }

    fn start(&mut self, task: Task) -> anyhow::Result<()> {
        let (sender, ended) = oneshot::channel();
        let cancel = Arc::new(Cancel::default());
        let id = task.id;
        self.current = Some(Current { id, cancel: cancel.clone(), ended: Some(ended) });
        let run = Run {
            machine: self.machine.clone(),
            identity: self.identity.clone(),
            outbox: self.outbox.clone(),
            links: self.links.clone(),
            runtime: Handle::current(),
            cancel,
        };
        std::thread::Builder::new().name("task".into()).spawn(move || {
            let done = catch_unwind(AssertUnwindSafe(|| run.task(&task)));
            if let Err(panic) = done {
                let cause = format!("the task's thread panicked: {}", words_of(panic.as_ref()));
                let failed = TaskEvent::Failed { step: None, cause };
                run.outbox.push(task.id, Report::Event(failed));
            }
            // Whoever waited may have gone.
            let _ = sender.send(());
        })?;
        Ok(())
    }
}

/// What a panic said.
fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

struct Run {
    machine: Arc<Machine>,
    identity: Arc<Identity>,
    outbox: Arc<Outbox>,
    links: watch::Receiver<Option<Connection>>,
    runtime: Handle,
    cancel: Arc<Cancel>,
}

impl Run {
    fn task(&self, Task { id, work }: &Task) {
        let console = StepConsole::default();
        let report = |report| {
            console.report(&report);
            self.outbox.push(*id, report);
        };
        let line = Line::new(self.links.clone(), self.cancel.clone());
        let fetch = |file: PackedFile<'_>| self.runtime.block_on(line.packed(file));
        let keep = |encoded: &[u8]| self.runtime.block_on(line.record(*id, encoded));
        let context = Context {
            machine: &self.machine,
            report: &report,
            cancel: &self.cancel,
            fetch: Some(&fetch),
            keep: Some(&keep),
        };
        // How it ended was its last event.
        let _ = match work {
            Work::Deploy(deploy) => {
                let source = QuicSource::new(
                    line.clone(),
                    self.runtime.clone(),
                    (deploy.image.clone(), deploy.partition.clone()),
                );
                task::deploy(deploy, &self.identity.manifest_key, &source, &context)
            }
            Work::Compare(order) => {
                let (runtime, revision) = (self.runtime.clone(), order.image.clone());
                let source = QuicDisk { line: line.clone(), runtime, revision };
                let fetch = |packed| self.runtime.block_on(line.as_left(*id, packed));
                let key = &self.identity.manifest_key;
                task::compare(order, key, &source, &fetch, &context)
            }
            Work::SelectSlot(select) => task::select_slot(select, &context),
            Work::Golden => {
                let uploader = QuicUploader::new(line.clone(), self.runtime.clone(), *id);
                task::golden(&uploader, &context)
            }
            Work::Capture(capture) => {
                let uploader = QuicUploader::new(line.clone(), self.runtime.clone(), *id);
                task::capture(capture, &uploader, &context)
            }
            Work::DeployDisk(order) => {
                let (runtime, revision) = (self.runtime.clone(), order.image.clone());
                let source = QuicDisk { line: line.clone(), runtime, revision };
                task::deploy_disk(order, &self.identity.manifest_key, &source, &context)
            }
            Work::DeployPartitions(order) => {
                let (runtime, revision) = (self.runtime.clone(), order.image.clone());
                let source = QuicDisk { line: line.clone(), runtime, revision };
                task::deploy_partitions(order, &self.identity.manifest_key, &source, &context)
            }
        };
    }
}
