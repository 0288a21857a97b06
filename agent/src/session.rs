//! The one conversation with the controller: enrol, connect, report, take orders.
//!
//! ```text
//! enrol (key made at start, token of this boot) -> certificate
//!   -> session: hello, inventory, then heartbeats, events, progress, log <-> tasks, acks, cancel, reboot
//!        ^                                                                      |
//!        └── wait, connect again: a task goes on meanwhile <── connection lost ─┘
//! ```
//!
//! Async lives here and ends here: tasks run on a thread of their own and reach the network through
//! `fetch`. Only this module knows quinn.

mod connect;
mod enrol;
mod fetch;
mod link;
mod logs;
mod outbox;
mod record;
#[cfg(test)]
mod tests;
mod upload;
mod wire;
mod worker;

pub use logs::{LogForward, LogRing, line_of};

use crate::task::Machine;
use anyhow::Context;
use connect::{Connector, Identity, Refusal, STRANGER_LIMIT, Strangers};
use metalcast_shared::{boot::BootConfig, inventory::Inventory, to_controller::Phase};
use outbox::Outbox;
use quinn::Connection;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::sync::watch;
use worker::Worker;

/// First and longest pause before connecting again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// How long a running task may take to stop before a restart.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How often in a row the controller may turn this node away before it netboots again: it may have
/// been removed, and has to enrol anew.
const MAX_UNWANTED: u32 = 5;

/// What a session works with.
pub struct Config {
    /// What the controller put beside the RAM image.
    pub boot: BootConfig,
    /// Names and ends of the phases from the kernel's start to here.
    pub phases: Vec<Phase>,
    /// The machine that tasks work on.
    pub machine: Arc<Machine>,
    /// Looks at the hardware anew.
    pub inventory: Arc<dyn Fn() -> Inventory + Send + Sync>,
    /// Lines for the controller.
    pub logs: Arc<LogRing>,
    /// What this machine is there for.
    pub role: Role,
}

/// What a machine is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All work that there is, but for [`metalcast_shared::to_agent::Work::Golden`].
    Node,
    /// That work and no other: it runs its own system, and goes on with it.
    Golden,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("boot", &self.boot.boot).finish_non_exhaustive()
    }
}

/// Why a session ended for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The controller wants the machine restarted.
    Reboot {
        /// Why, for the console.
        reason: String,
    },
    /// The controller does not take this boot's token or certificate: a new netboot is needed.
    Refused {
        /// Why, for the console.
        reason: String,
    },
    /// Whoever ran it wanted it to end.
    Stopped,
}

/// Threads of the network's runtime; TLS is their work, disks have threads of their own.
const NETWORK_THREADS: usize = 2;

/// Runs a session on a runtime of its own, to its end.
pub fn block_on(config: Config) -> anyhow::Result<Ending> {
    block_on_until(config, || Ok(std::future::pending()))
}

/// The same until what `stop` makes in the runtime has ended.
pub fn block_on_until<S: Future<Output = ()>>(
    config: Config,
    stop: impl FnOnce() -> anyhow::Result<S>,
) -> anyhow::Result<Ending> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NETWORK_THREADS)
        .enable_all()
        .build()
        .context("starting the network's runtime")?
        .block_on(async { run_until(config, stop()?).await })
}

/// Speaks with the controller until the machine has to restart. Connects again for ever.
pub async fn run(config: Config) -> anyhow::Result<Ending> {
    run_until(config, std::future::pending()).await
}

async fn run_until(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<Ending> {
    let mut stop = std::pin::pin!(stop);
    let connector = Connector::new(&config.boot)?;
    let inventory = look(&config.inventory).await?;
    let fingerprint = (&inventory).into();
    let enrolled = tokio::select! {
        enrolled = enrol::enrol(&connector, &config.boot, &fingerprint) => enrolled?,
        () = &mut stop => return Ok(Ending::Stopped),
    };
    let identity = match enrolled {
        Ok(identity) => Arc::new(identity),
        Err(Refusal(reason)) => return Ok(Ending::Refused { reason }),
    };
    let outbox = Arc::new(Outbox::default());
    let (link, links) = watch::channel(None);
    let mut worker = Worker::new(config.machine.clone(), identity.clone(), outbox.clone(), links);
    let ending = {
        // Its streams end after the connection, which says why.
        let mut conversation = std::pin::pin!(converse(
            &config,
            &connector,
            &identity,
            inventory,
            &outbox,
            &mut worker,
            &link
        ));
        tokio::select! {
            ending = &mut conversation => ending,
            () = &mut stop => {
                let connection = link.borrow().clone();
                if let Some(connection) = connection {
                    connector.close(&connection, "ended on the machine itself").await;
                }
                Ok(Ending::Stopped)
            }
        }
    };
    // Whatever the reason: nothing may be written while the machine restarts.
    worker.stop("the agent ends", STOP_LIMIT).await;
    ending
}

/// One connection after the other.
async fn converse(
    config: &Config,
    connector: &Connector,
    identity: &Identity,
    mut inventory: Inventory,
    outbox: &Outbox,
    worker: &mut Worker,
    publish: &watch::Sender<Option<Connection>>,
) -> anyhow::Result<Ending> {
    let mut backoff = Backoff::default();
    let mut unwanted = 0;
    let mut strangers = Strangers::default();
    loop {
        for address in &config.boot.controllers {
            let connection = match connector.connect(*address, Some(identity)).await {
                Ok(connection) => connection,
                Err(error) => {
                    if let Some(Refusal(reason)) = connect::refusal(&error) {
                        return Ok(Ending::Refused { reason });
                    }
                    if strangers.is_enough(&error, STRANGER_LIMIT) {
                        let Refusal(reason) = Refusal::of_stranger();
                        return Ok(Ending::Refused { reason });
                    }
                    tracing::warn!("cannot connect to {address}: {error:#}");
                    continue;
                }
            };
            strangers.known();
            tracing::info!("connected to {address}");
            // Not while a task writes: what is read from a disk then is neither old nor new.
            if !worker.is_running() {
                inventory = look(&config.inventory).await?;
            }
            let opened = tokio::time::Instant::now();
            let is_approved = false;
            let mut session = link::Link { config, outbox, worker, publish, is_approved };
            let ended = session.run(&connection, inventory.clone()).await;
            publish.send_replace(None);
            match ended {
                Ok(reason) => {
                    connector.close(&connection, "restarting").await;
                    return Ok(Ending::Reboot { reason });
                }
                Err(error) => {
                    if let Some(Refusal(reason)) = connect::refusal(&error) {
                        return Ok(Ending::Refused { reason });
                    }
                    tracing::warn!("session with {address} ended: {error:#}");
                    unwanted = if connect::is_unwanted(&error) { unwanted + 1 } else { 0 };
                    if unwanted == MAX_UNWANTED {
                        let reason = "the controller does not want this node's session".into();
                        return Ok(Ending::Refused { reason });
                    }
                    if opened.elapsed() > BACKOFF.1 {
                        backoff = Backoff::default();
                    }
                }
            }
        }
        backoff.wait().await;
    }
}

async fn look(inventory: &Arc<dyn Fn() -> Inventory + Send + Sync>) -> anyhow::Result<Inventory> {
    let inventory = inventory.clone();
    Ok(tokio::task::spawn_blocking(move || inventory()).await?)
}

/// Pauses that double, each shortened by up to a quarter so that a thousand agents do not come back
/// in step.
#[derive(Debug, Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    async fn wait(&mut self) {
        let pause = BACKOFF.0.saturating_mul(1 << self.attempts.min(10)).min(BACKOFF.1);
        self.attempts += 1;
        let [random, ..] = *uuid::Uuid::new_v4().as_bytes();
        let pause = pause.mul_f64(1.0 - f64::from(random) / 1024.0);
        tracing::info!("trying again in {:.1} s", pause.as_secs_f64());
        tokio::time::sleep(pause).await;
    }
}
