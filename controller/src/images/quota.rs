//! How much of the store each project may occupy.

use super::{Images, ImportError, StoreError};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Bytes that projects may occupy in the store, by name. Who is not named may fill the disk.
pub type Quotas = BTreeMap<String, u64>;

/// How often an import under way is held against its quota.
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

/// The quotas, and what imports under way have written of them.
#[derive(Default)]
pub(super) struct Ledger {
    quotas: Quotas,
    writing: Mutex<BTreeMap<String, u64>>,
}

/// What one import has written. It is given back when this is dropped: by then the revision has it, or
/// nobody.
pub(super) struct Share<'i> {
    images: &'i Images,
    project: String,
    bytes: u64,
    looked_at: u64,
}

impl Ledger {
    pub(super) fn new(quotas: Quotas) -> Self {
        Self { quotas, writing: Mutex::default() }
    }

    fn writing(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses what is to occupy `more_bytes` beside all that the project has and is getting.
pub(super) fn check(images: &Images, project: &str, more_bytes: u64) -> Result<(), ImportError> {
    let Some(&quota_bytes) = images.ledger.quotas.get(project) else { return Ok(()) };
    let writing = images.ledger.writing().get(project).copied().unwrap_or(0);
    let used_bytes = images.layout.project_bytes(project)?.saturating_add(writing);
    if used_bytes.saturating_add(more_bytes) <= quota_bytes {
        return Ok(());
    }
    let project = project.to_owned();
    Err(ImportError::Quota { project, quota_bytes, used_bytes, more_bytes })
}

/// All projects that have images or a quota, by name.
pub(super) fn projects(images: &Images) -> Result<Vec<ProjectUse>, StoreError> {
    let mut names = images.layout.projects()?;
    names.extend(images.ledger.quotas.keys().cloned());
    let project = |name: String| {
        let used_bytes = images.layout.project_bytes(&name)?;
        let quota_bytes = images.ledger.quotas.get(&name).copied();
        Ok(ProjectUse { name, used_bytes, quota_bytes })
    };
    names.into_iter().map(project).collect()
}

impl<'i> Share<'i> {
    pub(super) fn new(images: &'i Images, project: &str) -> Self {
        Self { images, project: project.to_owned(), bytes: 0, looked_at: 0 }
    }

    /// More was written.
    pub(super) fn add(&mut self, bytes: u64) -> Result<(), ImportError> {
        self.bytes += bytes;
        *self.images.ledger.writing().entry(self.project.clone()).or_default() += bytes;
        if self.bytes - self.looked_at >= LOOK_EVERY_BYTES { self.check() } else { Ok(()) }
    }

    /// Whether all that was written is within the quota.
    pub(super) fn check(&mut self) -> Result<(), ImportError> {
        self.looked_at = self.bytes;
        check(self.images, &self.project, 0)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut writing = self.images.ledger.writing();
        if let Some(bytes) = writing.get_mut(&self.project) {
            *bytes = bytes.saturating_sub(self.bytes);
        }
        writing.retain(|_, bytes| *bytes > 0);
    }
}
