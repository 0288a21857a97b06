//! What the controller does for agents, booting machines and operators: the one owner of nodes,
//! jobs and sessions.
//!
//! Every change goes the same way: a pure step of [`crate::jobs`] says what follows, the store keeps
//! it in one transaction, then memory changes, then agents are told. So a crash at any point leaves
//! what the store says, and an agent that comes back is told again.
//!
//! ```text
//! boot, transfer, api ──> Service ──lock──> Core { nodes, tasks, sessions } ──> store
//!                            │
//!                            ├──> boot table, what agents may read and send (snapshots, no lock on reading)
//!                            └──> agents (bounded queues)
//! ```

mod agents;
mod boot;
mod capture;
mod catalog;
mod clone;
mod compare;
mod core;
mod deploy;
mod enrol;
mod growth;
mod history;
mod made;
mod operator;
mod post_install;
mod target;
mod tasks;
pub mod types;
pub mod view;

#[cfg(test)]
mod tests;

pub use agents::AGENT_QUEUE;
pub use catalog::Catalog;
pub use tasks::end_unfinished;
pub use types::{
    BootEvent, BootEventKind, EnrolRefusal, Refusal, ReportRefusal, Role, Run, ScriptAnswer,
    SessionId, UploadAnswer,
};

use crate::{
    config::{Config, NodePolicy, Project},
    post_install::Shelf,
    store::Store,
};
use metalcast_netboot::table::BootTable;
use metalcast_shared::{
    boot::ReportToken,
    hash::Hash,
    id::{NodeId, Revision},
    layout::Layout,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock, RwLockReadGuard},
};
use tokio::sync::{Mutex, MutexGuard, watch};

/// Seals a report's token, so that only we can read it.
pub type SealReport = Arc<dyn Fn(&ReportToken) -> String + Send + Sync>;

/// Tells the time, milliseconds since 1970-01-01 UTC.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A handle; clones are cheap and mean the same service.
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
}

/// What a service is made of.
pub struct Parts {
    /// The records.
    pub store: Store,
    /// The images.
    pub catalog: Arc<dyn Catalog>,
    /// Seals the tokens of deployed systems.
    pub seal_report: SealReport,
    /// The time.
    pub clock: Clock,
}

struct Shared {
    parts: Parts,
    settings: Settings,
    started: i64,
    core: Mutex<core::Core>,
    granted: RwLock<core::Granted>,
    boot_table: watch::Sender<Arc<BootTable>>,
    /// Counts changes, to wake those that wait for one.
    changes: watch::Sender<u64>,
}

struct Settings {
    policy: NodePolicy,
    layouts: Vec<Layout>,
    report_url: String,
    projects: BTreeMap<String, Project>,
    shelf: Shelf,
}

impl Service {
    /// Takes up what the store holds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(config: &Config, parts: Parts) -> anyhow::Result<Self> {
        let settings = Settings {
            policy: config.nodes.clone(),
            layouts: config.layouts.clone(),
            report_url: config.report_url(),
            projects: config.projects.clone(),
            shelf: Shelf::new(config.post_install_dir()),
        };
        let started = (parts.clock)();
        let core = core::Core::load(&parts.store, started).await?;
        let shared = Shared {
            parts,
            settings,
            started,
            granted: RwLock::default(),
            boot_table: watch::Sender::new(Arc::new(boot::table(&core))),
            changes: watch::Sender::new(0),
            core: Mutex::new(core),
        };
        let service = Self { shared: Arc::new(shared) };
        service.take_up_clones().await?;
        service.publish(&*service.core().await);
        Ok(service)
    }

    /// Whether a task that the node's agent has in hand needs the revision, and the key is the one of
    /// the node's latest enrolment.
    pub fn may_read(&self, node: NodeId, key: Hash, revision: &Revision) -> bool {
        let granted = self.granted();
        granted
            .get(&node)
            .is_some_and(|right| right.key == key && right.read.as_ref() == Some(revision))
    }

    fn granted(&self) -> RwLockReadGuard<'_, core::Granted> {
        self.shared.granted.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What every address boots; changes with the nodes and jobs.
    pub fn boot_table(&self) -> watch::Receiver<Arc<BootTable>> {
        self.shared.boot_table.subscribe()
    }

    /// Ends when something changed after the call, for those who wait for events.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Lets deadlines pass and writes what was gathered. To be called every second. Neither waits for
    /// the other to succeed.
    ///
    /// # Errors
    /// When the store refuses; the next call tries again.
    pub async fn tick(&self) -> anyhow::Result<()> {
        let mut core = self.core().await;
        let expired = self.expire(&mut core).await;
        let settled = self.settle_clones(&mut core).await;
        let flushed = self.flush(&mut core).await;
        expired.and(settled).and(flushed)
    }

    /// Writes what was gathered since the last tick.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn shut_down(&self) -> anyhow::Result<()> {
        let mut core = self.core().await;
        self.flush(&mut core).await?;
        core.sessions.clear();
        Ok(())
    }

    fn now(&self) -> i64 {
        (self.shared.parts.clock)()
    }

    fn store(&self) -> &Store {
        &self.shared.parts.store
    }

    fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    async fn core(&self) -> MutexGuard<'_, core::Core> {
        self.shared.core.lock().await
    }

    /// Brings the snapshots up to date and wakes those who wait. To be called after every change.
    fn publish(&self, core: &core::Core) {
        let granted = core.granted();
        *self.shared.granted.write().unwrap_or_else(std::sync::PoisonError::into_inner) = granted;
        self.shared.boot_table.send_replace(Arc::new(boot::table(core)));
        self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Carries work through even if whoever asked for it goes away meanwhile: what the store has and
/// what memory has must not part.
pub(crate) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime goes down, and whoever waits here with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Whether text may be a label of a host name (RFC 1123): 1 to 63 of a-z, 0-9 and '-', neither
/// beginning nor ending with '-'.
pub fn is_host_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}
