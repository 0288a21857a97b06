//! How much of the store each project may occupy.

use super::{DraftError, StoreError, layout::Layout};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Bytes that projects may occupy in the store, by name. Who is not named may fill the disk.
pub type Quotas = BTreeMap<String, u64>;

/// How often a revision in the making is held against its quota.
const LOOK_EVERY_BYTES: u64 = 16 << 20;

/// What a project occupies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectUse {
    /// Its name.
    pub name: String,
    /// Bytes of its revisions' files.
    pub used_bytes: u64,
    /// What it may occupy, if that is limited.
    pub quota_bytes: Option<u64>,
}

/// A project has, or would have, more than it may.
#[derive(Debug, thiserror::Error)]
#[error(
    "project {project} has {} of the {} MiB that it may occupy in the store, and {}; remove images \
     that are no longer needed or raise quota_mib of the project in the configuration",
    .used_bytes >> 20, .quota_bytes >> 20, needed(*.more_bytes)
)]
pub struct QuotaError {
    /// The project.
    pub project: String,
    /// What it may occupy.
    pub quota_bytes: u64,
    /// What it has, with what is being written.
    pub used_bytes: u64,
    /// What is needed at least beside that; 0 if it has been written.
    pub more_bytes: u64,
}

fn needed(more_bytes: u64) -> String {
    match more_bytes {
        0 => "the image is not complete".to_owned(),
        more => format!("the image needs about {} MiB more", more.div_ceil(1 << 20)),
    }
}

/// The quotas, and what revisions in the making have written of them.
pub(super) struct Ledger {
    layout: Layout,
    quotas: Quotas,
    writing: Mutex<BTreeMap<String, u64>>,
}

/// What one revision in the making has written. It is given back when this is dropped: by then the
/// revision has it, or nobody.
pub(super) struct Share {
    ledger: Arc<Ledger>,
    project: String,
    bytes: u64,
    looked_at: u64,
}

impl Ledger {
    pub(super) fn new(layout: Layout, quotas: Quotas) -> Arc<Self> {
        Arc::new(Self { layout, quotas, writing: Mutex::default() })
    }

    /// Refuses what is to occupy `more_bytes` beside all that the project has and is getting.
    pub(super) fn check(&self, project: &str, more_bytes: u64) -> Result<(), DraftError> {
        let Some(&quota_bytes) = self.quotas.get(project) else { return Ok(()) };
        let writing = self.writing().get(project).copied().unwrap_or(0);
        let used_bytes = self.layout.project_bytes(project)?.saturating_add(writing);
        if used_bytes.saturating_add(more_bytes) <= quota_bytes {
            return Ok(());
        }
        let project = project.to_owned();
        Err(QuotaError { project, quota_bytes, used_bytes, more_bytes }.into())
    }

    /// All projects that have images or a quota, by name.
    pub(super) fn projects(&self) -> Result<Vec<ProjectUse>, StoreError> {
        let mut names = self.layout.projects()?;
        names.extend(self.quotas.keys().cloned());
        let project = |name: String| {
            let used_bytes = self.layout.project_bytes(&name)?;
            let quota_bytes = self.quotas.get(&name).copied();
            Ok(ProjectUse { name, used_bytes, quota_bytes })
        };
        names.into_iter().map(project).collect()
    }

    fn writing(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    pub(super) fn new(ledger: &Arc<Ledger>, project: &str) -> Self {
        let (ledger, project) = (Arc::clone(ledger), project.to_owned());
        Self { ledger, project, bytes: 0, looked_at: 0 }
    }

    /// More was written.
    pub(super) fn add(&mut self, bytes: u64) -> Result<(), DraftError> {
        self.bytes += bytes;
        *self.ledger.writing().entry(self.project.clone()).or_default() += bytes;
        if self.bytes - self.looked_at >= LOOK_EVERY_BYTES { self.check() } else { Ok(()) }
    }

    /// Whether all that was written is within the quota.
    pub(super) fn check(&mut self) -> Result<(), DraftError> {
        self.looked_at = self.bytes;
        self.ledger.check(&self.project, 0)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut writing = self.ledger.writing();
        if let Some(bytes) = writing.get_mut(&self.project) {
            *bytes = bytes.saturating_sub(self.bytes);
        }
        writing.retain(|_, bytes| *bytes > 0);
    }
}
