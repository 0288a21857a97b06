//! One session on one connection.

use super::{Config, Role, STOP_LIMIT, outbox::Outbox, wire, worker::Worker};
use crate::memory;
use anyhow::Context;
use metalcast_shared::{
    codec::MAX_MESSAGE_BYTES,
    disk::Disk,
    inventory::Inventory,
    to_agent::{Standing, ToAgent, Work},
    to_controller::{Hello, Open, ToController},
    version::PROTOCOL,
};
use quinn::{Connection, RecvStream, SendStream};
use std::time::Duration;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};

const HEARTBEAT: Duration = Duration::from_secs(5);

/// Progress and log lines go at most this often.
const THROTTLE: Duration = Duration::from_millis(500);

/// How long the controller may take to receive the last events before a restart.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(5);

/// Messages of the controller that wait to be handled.
const WAITING_MESSAGES: usize = 16;

pub(super) struct Link<'s> {
    pub(super) config: &'s Config,
    pub(super) outbox: &'s Outbox,
    pub(super) worker: &'s mut Worker,
    /// Where those who fetch find the connection.
    pub(super) publish: &'s watch::Sender<Option<Connection>>,
    /// Whether the controller has said on this connection that the node may be written to.
    pub(super) is_approved: bool,
}

impl Link<'_> {
    /// Speaks until the controller wants a restart, and says why it does. Everything else that ends
    /// the session is an error.
    pub(super) async fn run(
        &mut self,
        connection: &Connection,
        inventory: Inventory,
    ) -> anyhow::Result<String> {
        let (mut send, receive) = connection.open_bi().await.context("opening the session")?;
        let mut hardware = Hardware::new(&inventory);
        let open = match self.config.role {
            Role::Node => Open::Session(self.hello()),
            Role::Golden => Open::Golden(self.hello()),
        };
        wire::send(&mut send, &open).await?;
        wire::send(&mut send, &ToController::Inventory(Box::new(inventory))).await?;
        self.outbox.connected();
        self.publish.send_replace(Some(connection.clone()));
        let mut incoming = listen(receive);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut throttle = tokio::time::interval(THROTTLE);
        for timer in [&mut heartbeat, &mut throttle] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                message = incoming.recv() => {
                    let message = message.context("the session's reader has ended")??;
                    if let Some(reason) = self.handle(message)? {
                        self.worker.stop(&reason, STOP_LIMIT).await;
                        // The last events are worth more than a quick restart.
                        self.send_events(&mut send).await?;
                        send.finish()?;
                        let _ = tokio::time::timeout(LAST_WORDS_LIMIT, send.stopped()).await;
                        return Ok(reason);
                    }
                }
                () = self.outbox.changed() => {}
                ended = self.worker.ended() => ended?,
                inventory = hardware.changed() => {
                    wire::send(&mut send, &ToController::Inventory(Box::new(inventory))).await?;
                }
                _ = heartbeat.tick() => {
                    wire::send(&mut send, &alive()).await?;
                    // Not while a task writes: what is read from a disk then is neither old nor new.
                    if !self.worker.is_running() {
                        hardware.look(self.config);
                    }
                }
                _ = throttle.tick() => {
                    for line in self.config.logs.take() {
                        wire::send(&mut send, &line).await?;
                    }
                    if let Some(progress) = self.outbox.progress() {
                        wire::send(&mut send, &progress).await?;
                    }
                }
            }
            self.send_events(&mut send).await?;
        }
    }

    async fn send_events(&self, send: &mut SendStream) -> anyhow::Result<()> {
        for event in self.outbox.events() {
            wire::send(send, &event).await?;
        }
        Ok(())
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.config.boot.boot,
            task: self.worker.in_hand(),
            phases: self.config.phases.clone(),
        }
    }

    fn handle(&mut self, message: ToAgent) -> anyhow::Result<Option<String>> {
        match message {
            ToAgent::Welcome { name, standing: Standing::AwaitingApproval { reason } } => {
                self.is_approved = false;
                tracing::info!("this is {name}; waiting for approval: {reason}");
            }
            ToAgent::Welcome { name, standing: Standing::Approved } => {
                self.is_approved = true;
                tracing::info!("this is {name}, approved; waiting for work");
            }
            ToAgent::Task(task) if !self.is_approved => {
                self.worker.refuse(task.id, "this node was not told that it is approved");
            }
            ToAgent::Task(task) => match (self.config.role, &task.work) {
                (Role::Golden, Work::Golden) => self.worker.take(*task)?,
                (Role::Golden, _) => {
                    let cause =
                        "this machine offers the system that runs on it, and does nothing else";
                    self.worker.refuse(task.id, cause);
                }
                (Role::Node, Work::Golden) => {
                    let cause = "the system of this machine does not run: start it, and \
                                 `metalcast-agent golden` on it";
                    self.worker.refuse(task.id, cause);
                }
                (Role::Node, _) => self.worker.take(*task)?,
            },
            ToAgent::Ack { task, number } => self.outbox.acknowledged(task, number),
            ToAgent::Cancel { task, reason } => self.worker.cancel(task, &reason),
            ToAgent::Reboot { reason } if self.config.role == Role::Golden => {
                tracing::warn!("the controller wants a restart, which this is not for: {reason}");
            }
            ToAgent::Reboot { reason } => return Ok(Some(reason)),
        }
        Ok(None)
    }
}

/// Notices disks that come and go. Looks on a thread of its own: a disk that does not answer, or a look
/// that panics, must not take the session with it.
struct Hardware {
    /// Those that there were.
    disks: Vec<Disk>,
    /// A look under way.
    looking: Option<JoinHandle<Option<Found>>>,
}

/// What a look has found: other disks than there were.
struct Found {
    disks: Vec<Disk>,
    inventory: Inventory,
}

impl Hardware {
    fn new(inventory: &Inventory) -> Self {
        let bare = |disk: &Disk| Disk { contents: Vec::new(), ..disk.clone() };
        Self { disks: inventory.disks.iter().map(bare).collect(), looking: None }
    }

    /// Begins to look, unless a look is under way.
    fn look(&mut self, config: &Config) {
        if self.looking.is_some() {
            return;
        }
        let (machine, inventory) = (config.machine.clone(), config.inventory.clone());
        let known = self.disks.clone();
        self.looking = Some(tokio::task::spawn_blocking(move || {
            // Disks that cannot be listed now are no news.
            let disks = (machine.disks)().ok().filter(|disks| *disks != known)?;
            tracing::info!("the disks are others now: {}", names(&disks));
            let inventory = inventory();
            Some(Found { disks, inventory })
        }));
    }

    /// A new inventory, once the disks are others.
    async fn changed(&mut self) -> Inventory {
        if let Some(looking) = &mut self.looking {
            let found = looking.await;
            self.looking = None;
            match found {
                Ok(Some(Found { disks, inventory })) => {
                    self.disks = disks;
                    return inventory;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!("looking at the disks: {error}"),
            }
        }
        std::future::pending().await
    }
}

fn names(disks: &[Disk]) -> String {
    let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Reads in a task of its own: a half-read message must not be forgotten when something else is
/// ready first.
fn listen(mut receive: RecvStream) -> mpsc::Receiver<anyhow::Result<ToAgent>> {
    let (sender, receiver) = mpsc::channel(WAITING_MESSAGES);
    tokio::spawn(async move {
        loop {
            let message = wire::receive(&mut receive, MAX_MESSAGE_BYTES).await;
            let is_last = message.is_err();
            if sender.send(message).await.is_err() || is_last {
                break;
            }
        }
    });
    receiver
}

fn alive() -> ToController {
    let uptime = metalcast_sys::clock::since_boot().map_or(0, |time| time.as_secs());
    let resident = memory::resident_bytes().unwrap_or(0);
    ToController::Heartbeat { uptime_seconds: uptime, resident_bytes: resident }
}
