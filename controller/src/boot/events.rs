//! What happened, on its way to the nodes' timelines. Telling never waits.
//!
//! Anyone on the boot network may ask for anything, so known nodes have a queue of their own: a flood
//! from made-up addresses cannot push out what a job waits for.

use super::Nodes;
use crate::service::{BootEvent, BootEventKind};
use metalcast_netboot::table::BootTable;
use metalcast_shared::id::Mac;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{mpsc, watch};

/// Events of known nodes that wait for the store; a boot makes about ten.
const KNOWN_EVENTS: usize = 1024;
/// Events of other machines that wait.
const UNKNOWN_EVENTS: usize = 128;

/// The boot services' end of the queues.
#[derive(Clone)]
pub struct Events {
    table: watch::Receiver<Arc<BootTable>>,
    known: mpsc::Sender<BootEvent>,
    unknown: mpsc::Sender<BootEvent>,
    dropped: Arc<AtomicU64>,
}

/// The other end: hands events on, one after the other, those of known nodes first.
pub struct Recorder<N> {
    known: mpsc::Receiver<BootEvent>,
    unknown: mpsc::Receiver<BootEvent>,
    nodes: N,
}

/// Makes the queues.
pub fn queue<N: Nodes>(nodes: N) -> (Events, Recorder<N>) {
    let (known_sender, known) = mpsc::channel(KNOWN_EVENTS);
    let (unknown_sender, unknown) = mpsc::channel(UNKNOWN_EVENTS);
    let events = Events {
        table: nodes.boot_table(),
        known: known_sender,
        unknown: unknown_sender,
        dropped: Arc::default(),
    };
    (events, Recorder { known, unknown, nodes })
}

impl Events {
    /// Notes that something happened now.
    pub fn note(&self, mac: Mac, kind: BootEventKind) {
        let at_unix_ms = jiff::Timestamp::now().as_millisecond();
        let known = self.table.borrow().entry(mac).is_some();
        let queue = if known { &self.known } else { &self.unknown };
        if queue.try_send(BootEvent { mac, at_unix_ms, kind }).is_err() {
            let before = self.dropped.fetch_add(1, Ordering::Relaxed);
            // One line each time the number doubles: a flood of losses is not a flood of lines.
            if (before + 1).is_power_of_two() {
                let dropped = before + 1;
                tracing::warn!(dropped, known, "boot events are lost, boots go on");
            }
        }
    }
}

impl<N: Nodes> Recorder<N> {
    /// Runs until every [`Events`] is dropped.
    pub async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let event = tokio::select! {
                biased;
                Some(event) = self.known.recv() => event,
                Some(event) = self.unknown.recv() => event,
                else => return Ok(()),
            };
            self.nodes.boot_event(event).await;
        }
    }
}
