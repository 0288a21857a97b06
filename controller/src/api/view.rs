//! What the API says of the controller, images and operations; the rest is
//! [`crate::service::view`].

use crate::{
    images::{
        CheckReport, DiskOptions, ExportOptions, ExportReport, ImageState, ImageSummary, ProjectUse,
    },
    pki::Pki,
    service::view::StatusView,
};
use metalcast_shared::id::{ImageName, Revision};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// From this many days before a certificate's end on there is a warning: it should have been renewed.
pub const WARNED_DAYS: i64 = 60;

/// The controller at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControllerView {
    /// Nodes and tasks.
    #[serde(flatten)]
    pub fleet: StatusView,
    /// Its certificates.
    pub certificates: Vec<CertificateView>,
    /// What projects occupy in the image store.
    pub projects: Vec<ProjectUse>,
}

/// A certificate of the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    /// Whose.
    pub name: String,
    /// When it ends, seconds since 1970-01-01 UTC.
    pub ends_unix: i64,
    /// Whole days until then.
    pub days_left: i64,
    /// What to do, if it should have been renewed by now.
    pub warning: Option<String>,
}

impl CertificateView {
    /// All certificates, as they stand at `now_unix`.
    pub fn all(pki: &Pki, now_unix: i64) -> Vec<Self> {
        let view = |(name, ends_unix): (&str, i64)| {
            let days_left = days_left(ends_unix, now_unix);
            let warning = (days_left < WARNED_DAYS)
                .then(|| "it should have been renewed by now, see the controller's log".to_owned());
            Self { name: name.to_owned(), ends_unix, days_left, warning }
        };
        pki.ends().map(view).into()
    }
}

/// Whole days until a time.
pub fn days_left(ends_unix: i64, now_unix: i64) -> i64 {
    (ends_unix - now_unix).div_euclid(24 * 60 * 60)
}

/// A revision of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// Which.
    pub revision: Revision,
    /// What is wrong with it; it cannot be deployed then.
    pub damage: Option<String>,
    /// When it was imported, seconds since 1970-01-01 UTC.
    pub created_unix: Option<i64>,
    /// Where it came from, for people.
    pub provenance: Option<String>,
    /// Its partitions.
    pub partitions: Vec<PartitionView>,
    /// Bytes of its files in the store.
    pub stored_bytes: Option<u64>,
}

/// A partition of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionView {
    /// Its name on the source, such as `sda1`.
    pub name: String,
    /// Kind of filesystem.
    pub filesystem: String,
    /// Bytes that a target must have at least.
    pub device_bytes: u64,
    /// Bytes that a deployment writes.
    pub used_bytes: u64,
    /// Bytes of its file in the store.
    pub stored_bytes: u64,
}

/// A request to import what lies on the controller's host: a Clonezilla image directory, or a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// The directory, file or block device, absolute.
    pub path: PathBuf,
    /// What the image is to be called.
    pub name: ImageName,
    /// How a disk is imported; not for directories.
    #[serde(default)]
    pub disk: DiskOptions,
}

/// A request to import a disk that will be sent to the operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamRequest {
    /// What the image is to be called.
    pub name: ImageName,
    /// How it is imported.
    #[serde(default)]
    pub disk: DiskOptions,
}

/// A request to make a Clonezilla image directory on the controller's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// The new directory, absolute.
    pub path: PathBuf,
    /// How it is to be.
    #[serde(default)]
    pub options: ExportOptions,
}

/// Something that takes its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationView {
    /// Its number.
    pub id: u64,
    /// What it does, for people.
    pub what: String,
    /// How it stands.
    pub state: OperationState,
    /// File that is being worked on.
    pub file: String,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes to do; 0 until they are known.
    pub total_bytes: u64,
}

/// How an operation stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// Under way.
    Running,
    /// Ended well.
    Done(OperationResult),
    /// Ended badly, and why.
    Failed(String),
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationResult {
    /// This revision.
    Imported(Revision),
    /// Whether a revision is sound.
    Checked(CheckReport),
    /// A directory.
    Exported(ExportReport),
}

impl From<ImageSummary> for ImageView {
    fn from(summary: ImageSummary) -> Self {
        let ImageSummary { revision, state } = summary;
        match state {
            ImageState::Damaged { reason } => Self {
                revision,
                damage: Some(reason),
                created_unix: None,
                provenance: None,
                partitions: Vec::new(),
                stored_bytes: None,
            },
            ImageState::Ready { created_unix, provenance, partitions, stored_bytes } => Self {
                revision,
                damage: None,
                created_unix: Some(created_unix),
                provenance: Some(provenance),
                partitions: partitions
                    .into_iter()
                    .map(|partition| PartitionView {
                        name: partition.name,
                        filesystem: partition.filesystem,
                        device_bytes: partition.device_bytes,
                        used_bytes: partition.used_bytes,
                        stored_bytes: partition.stored_bytes,
                    })
                    .collect(),
                stored_bytes: Some(stored_bytes),
            },
        }
    }
}
