//! The image store: revisions as directories that stock Clonezilla restores.
//!
//! ```text
//! <dir>/<project>/<name>/<number>/  disk, parts, sda1.ext4-ptcl-img.zst, B2SUMS ...   Clonezilla's
//!                                   system.tar.zst, B2SUMS                            or an archive
//!                                   metalcast.pages, metalcast.manifest               ours
//! <dir>/.import-<random>/           an import or upload under way; removed if it does not end well
//! <dir>/.export-<random>/           where an export is being made; both are removed likewise
//! ```
//!
//! A revision exists if and only if its manifest does, which is written last. Everything here blocks
//! on the disk: callers on an async runtime use `spawn_blocking`. Who may read what, and which
//! revisions are in use, is decided elsewhere.

mod archive;
mod check;
pub mod clones;
mod diff;
mod draft;
mod error;
mod export;
mod import;
mod layout;
mod loaded;
mod output;
mod pipeline;
mod quota;
mod sequential;
mod side_files;
mod space;
mod upload;
mod whole_disk;

pub use check::CheckReport;
pub use diff::{Diff, Extent, PartitionDiff};
pub use error::{DraftError, ExportError, ImportError, SideFileError, StoreError, UploadError};
pub use export::{ExportOptions, ExportReport, Packing};
pub use import::DiskOptions;
pub use output::WriteError;
pub use quota::{ProjectUse, QuotaError, Quotas};
pub use upload::{Upload, UploadOrder};
pub use whole_disk::{DiskImage, WholeDiskError};

use crate::causes::with_causes;
use layout::Layout;
use loaded::Loaded;
use metalcast_formats::tar;
use metalcast_shared::{
    id::{ImageName, Revision},
    manifest::{Chunk, Manifest, SignedManifest},
    upload::Survey,
};
use quota::Ledger;
use serde::Serialize;
use std::{
    collections::VecDeque,
    io::Read,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Revisions whose manifest and open files are kept between two calls.
const MAX_LOADED: usize = 32;

/// Signs an encoded manifest. It must be deterministic, as Ed25519 is: a stored signature is checked
/// by signing again.
pub type Sign = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// The image store of a controller.
pub struct Images {
    layout: Layout,
    sign: Sign,
    /// Most recently used last.
    loaded: Mutex<VecDeque<(Revision, Arc<Loaded>)>>,
    /// Held while a revision gets its number.
    numbering: Mutex<()>,
    ledger: Arc<Ledger>,
}

/// How far something is. Bytes count the files that are read, as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The file being read.
    pub file: String,
    /// Bytes read so far, of all files.
    pub done_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// A revision in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageSummary {
    /// Which.
    pub revision: Revision,
    /// What can be said about it.
    pub state: ImageState,
}

/// Whether a revision can be deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ImageState {
    /// It can.
    Ready {
        /// When it was imported, seconds since 1970-01-01 UTC.
        created_unix: i64,
        /// Where it came from, for people.
        provenance: String,
        /// Its partitions.
        partitions: Vec<PartitionSummary>,
        /// Bytes of all partitions' files in the store.
        stored_bytes: u64,
    },
    /// Its manifest or a file is not what it was when it was imported.
    Damaged {
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// A partition of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionSummary {
    /// Its name on the source, such as `sda1`.
    pub name: String,
    /// Kind of filesystem: `ext4`, `xfs` ...
    pub filesystem: String,
    /// Bytes that a target must have at least.
    pub device_bytes: u64,
    /// Bytes that a restore writes.
    pub used_bytes: u64,
    /// Bytes of its file in the store.
    pub stored_bytes: u64,
}

impl Images {
    /// Opens the store, which is made if it does not exist. What killed imports and removals left
    /// behind is deleted; running ones, of this process or another, are left alone.
    pub fn open(dir: &Path, sign: Sign) -> Result<Self, StoreError> {
        let layout = Layout::open(dir)?;
        layout.remove_leftovers()?;
        let (loaded, numbering) = (Mutex::default(), Mutex::default());
        let ledger = Ledger::new(layout.clone(), Quotas::default());
        Ok(Self { layout, sign, loaded, numbering, ledger })
    }

    /// Limits what projects may occupy. An import or capture that would exceed it is refused or stopped.
    #[must_use]
    pub fn with_quotas(self, quotas: Quotas) -> Self {
        Self { ledger: Ledger::new(self.layout.clone(), quotas), ..self }
    }

    /// What each project occupies, of those that have images or a quota.
    pub fn projects(&self) -> Result<Vec<ProjectUse>, StoreError> {
        self.ledger.projects()
    }

    /// Imports the Clonezilla directory `source` as the next revision of `name`. All its checksums
    /// are verified. `progress` is called often, at least once a chunk. On any failure nothing is
    /// left in the store. Memory: some chunks per processor and the bitmap of one partition.
    pub fn import(
        &self,
        source: &Path,
        name: &ImageName,
        progress: &dyn Fn(Progress),
    ) -> Result<Revision, ImportError> {
        import::import(self, source, name, progress)
    }

    /// Begins a revision that an agent will send. Memory: the bitmap of one partition, and a chunk.
    pub fn begin_upload(&self, order: UploadOrder, survey: Survey) -> Result<Upload, UploadError> {
        Upload::begin(self, order, survey)
    }

    /// Publishes what an agent has sent, as the next revision. On any failure nothing is left.
    pub fn publish(&self, upload: Upload) -> Result<Revision, UploadError> {
        upload.publish(self)
    }

    /// Imports a disk or partition: a block device, a file with its bytes, or the image of a virtual
    /// machine, which `qemu-img` unpacks into a temporary file of the store; or a tar archive, compressed
    /// or not. Otherwise like [`Self::import`].
    pub fn import_file(
        &self,
        path: &Path,
        options: &DiskOptions,
        name: &ImageName,
        progress: &dyn Fn(Progress),
    ) -> Result<Revision, ImportError> {
        import::import_file(self, path, options, name, progress)
    }

    /// The same from a stream. That of a disk is kept in a temporary file of the store until it has ended;
    /// that of a tar archive is not.
    pub fn import_stream(
        &self,
        stream: &mut (dyn Read + Send),
        options: &DiskOptions,
        name: &ImageName,
        progress: &dyn Fn(Progress),
    ) -> Result<Revision, ImportError> {
        import::import_stream(self, stream, options, name, progress)
    }

    /// Reads all of a revision and holds it against every checksum and hash that there is. What is
    /// damaged is in the report; an error is a revision that does not exist or a store that cannot be
    /// read. Memory: some chunks per processor and the bitmap of one partition.
    pub fn check(
        &self,
        revision: &Revision,
        progress: &dyn Fn(Progress),
    ) -> Result<CheckReport, StoreError> {
        check::check(self, revision, progress)
    }

    /// Makes a Clonezilla directory of a revision. `to` must not exist, and does not until all of it is
    /// there; on any failure nothing is left.
    pub fn export(
        &self,
        revision: &Revision,
        to: &Path,
        options: ExportOptions,
        progress: &dyn Fn(Progress),
    ) -> Result<ExportReport, ExportError> {
        export::export(self, revision, to, options, progress)
    }

    /// How much of `b` is in `a`, partition by partition.
    pub fn diff(&self, a: &Revision, b: &Revision) -> Result<Diff, StoreError> {
        diff::diff(self, a, b)
    }

    /// What is known of a tar archive as a whole: kernels, members that do not count and so on.
    pub fn archive_index(
        &self,
        revision: &Revision,
        partition: &str,
    ) -> Result<tar::Index, StoreError> {
        self.load(revision)?.archive_index(partition)
    }

    /// All revisions, by name and number; damaged ones are listed as damaged.
    pub fn list(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let revisions = self.layout.revisions()?;
        Ok(revisions.into_iter().map(|revision| self.summary(revision)).collect())
    }

    /// The newest revision of `name`, damaged or not.
    pub fn latest(&self, name: &ImageName) -> Result<Option<Revision>, StoreError> {
        let numbers = self.layout.numbers(name)?;
        let newest = numbers.present.into_iter().max();
        Ok(newest.map(|number| Revision { image: name.clone(), number }))
    }

    /// A revision's manifest, as it is and as it was signed.
    pub fn manifest(&self, revision: &Revision) -> Result<(Manifest, SignedManifest), StoreError> {
        let loaded = self.load(revision)?;
        Ok((loaded.manifest.clone(), loaded.signed.clone()))
    }

    /// A page of a partition's chunks, encoded; its hash is that in the manifest.
    pub fn page(
        &self,
        revision: &Revision,
        partition: &str,
        page: u32,
    ) -> Result<Vec<u8>, StoreError> {
        self.load(revision)?.page(partition, page)
    }

    /// A chunk's frame; its hash is that in `chunk`, which comes from a page of that partition.
    pub fn frame(
        &self,
        revision: &Revision,
        partition: &str,
        chunk: &Chunk,
    ) -> Result<Vec<u8>, StoreError> {
        self.load(revision)?.frame(partition, chunk)
    }

    /// Removes a revision, damaged or not. Its number is not given out again.
    pub fn remove(&self, revision: &Revision) -> Result<(), StoreError> {
        self.layout.remove(revision)?;
        self.loaded().retain(|(loaded, _)| loaded != revision);
        Ok(())
    }

    fn summary(&self, revision: Revision) -> ImageSummary {
        let state = match Loaded::open(&self.layout.revision(&revision), &revision, &self.sign) {
            Ok(loaded) => loaded.summary(),
            Err(error) => ImageState::Damaged { reason: with_causes(&error) },
        };
        ImageSummary { revision, state }
    }

    fn loaded(&self) -> MutexGuard<'_, VecDeque<(Revision, Arc<Loaded>)>> {
        // The queue is consistent between any two statements, also where a thread panicked.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, revision: &Revision) -> Result<Arc<Loaded>, StoreError> {
        let mut queue = self.loaded();
        if let Some(at) = queue.iter().position(|(loaded, _)| loaded == revision)
            && let Some(found) = queue.remove(at)
        {
            queue.push_back(found.clone());
            return Ok(found.1);
        }
        drop(queue);
        let dir = self.layout.revision(revision);
        let loaded = Arc::new(Loaded::open(&dir, revision, &self.sign)?);
        let mut queue = self.loaded();
        if queue.len() >= MAX_LOADED {
            queue.pop_front();
        }
        queue.push_back((revision.clone(), Arc::clone(&loaded)));
        Ok(loaded)
    }
}
