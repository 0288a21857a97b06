//! Backups: what a controller has to have to be itself again, in one tar file.
//!
//! ```text
//! backup.json                     which files, their lengths and BLAKE3 hashes; always first
//! metalcast.toml                  the effective configuration, for people
//! pki/ca.pem ca.key ...           the keys: the file is as secret as they are
//! leases.journal                  if addresses were lent
//! metalcast.db                    the records, as they were at one moment
//! ```
//!
//! A backup is made while the controller serves, and restored where none does. Images are not in it:
//! they are directories that any tool copies.

mod make;
mod restore;

pub use make::Source;
pub use restore::{Restored, check, check_finished, restore, verify};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of the form of backups.
const FORMAT: u32 = 1;

/// The list of files, the first member.
const LIST: &str = "backup.json";

/// The configuration.
const CONFIGURATION: &str = "metalcast.toml";

/// The database, as it is called in `state_dir`.
const DATABASE: &str = "metalcast.db";

/// The leases, as they are called in `state_dir`.
const LEASES: &str = "leases.journal";

/// Every name that a member may have, and the mode of its file. All but the configuration are put
/// into `state_dir` under that name.
const MEMBERS: [(&str, u32); 7] = [
    (CONFIGURATION, 0o600),
    ("pki/ca.pem", 0o644),
    ("pki/ca.key", 0o600),
    ("pki/manifest.key", 0o600),
    ("pki/seal.key", 0o600),
    (LEASES, 0o600),
    (DATABASE, 0o600),
];

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Version of the form of backups.
    pub format: u32,
    /// Version of the controller.
    pub version: String,
    /// When it was made, seconds since 1970-01-01 UTC.
    pub created_unix: i64,
    /// Where the images are, which are not in it.
    pub images_dir: PathBuf,
    /// Its files, in order.
    pub files: Vec<Member>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3, as `b3sum` prints it.
    pub blake3: String,
}
