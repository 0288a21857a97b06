//! What happened, on its way to the nodes' timelines. Telling never waits.

use super::Nodes;
use crate::service::{BootEvent, BootEventKind};
use metalcast_shared::id::Mac;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::mpsc;

/// Events that wait for the store; a boot makes about ten.
const QUEUE_EVENTS: usize = 1024;

/// The boot services' end of the queue.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<BootEvent>,
    dropped: Arc<AtomicU64>,
}

/// The other end: hands events on, one after the other.
pub struct Recorder<N> {
    queue: mpsc::Receiver<BootEvent>,
    nodes: N,
}

/// Makes a queue.
pub fn queue<N: Nodes>(nodes: N) -> (Events, Recorder<N>) {
    let (sender, receiver) = mpsc::channel(QUEUE_EVENTS);
    (Events { queue: sender, dropped: Arc::default() }, Recorder { queue: receiver, nodes })
}

impl Events {
    /// Notes that something happened now.
    pub fn note(&self, mac: Mac, kind: BootEventKind) {
        let at_unix_ms = jiff::Timestamp::now().as_millisecond();
        if self.queue.try_send(BootEvent { mac, at_unix_ms, kind }).is_err() {
            let before = self.dropped.fetch_add(1, Ordering::Relaxed);
            // One line each time the number doubles: a flood of losses is not a flood of lines.
            if (before + 1).is_power_of_two() {
                let dropped = before + 1;
                tracing::warn!(dropped, "the store is slow: boot events are lost, boots go on");
            }
        }
    }
}

impl<N: Nodes> Recorder<N> {
    /// Runs until every [`Events`] is dropped.
    pub async fn run(mut self) -> anyhow::Result<()> {
        while let Some(event) = self.queue.recv().await {
            self.nodes.boot_event(event).await;
        }
        Ok(())
    }
}
