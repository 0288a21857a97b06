//! The controller's records in SQLite: the only place that knows SQL.
//!
//! All that belongs together is written as one list of [`Change`]s in one transaction; a change that
//! was acknowledged survives a power cut (WAL, `synchronous = FULL`). There is one writing
//! connection; readers do not wait for it.

mod read;
mod record;
mod write;

#[cfg(test)]
mod tests;

pub use record::{
    AuditRecord, BootRecord, BootSeen, DefaultBoot, EnrolmentRecord, EventRecord, JobRecord,
    JobSpec, LogRecord, NodeRecord, Noted, TaskRecord, Work,
};
pub use write::Change;

use sqlx::{
    Connection, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long a statement waits for another process that has the database open, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a failed write is told of. Where there is work to be kept it is tried again within
/// seconds, and succeeds or fails anew.
const TROUBLE_TOLD: Duration = Duration::from_secs(60);

/// Connections that read at the same time.
const READERS: u32 = 4;

/// Events of the boot services that are kept per address.
pub const MAX_BOOT_EVENTS_PER_MAC: i64 = 500;

/// Events of the boot services that are kept at all: addresses can be made up by anyone.
pub const MAX_BOOT_EVENTS: i64 = 200_000;

/// Log lines that are kept per node.
pub const MAX_LOG_LINES_PER_NODE: i64 = 5_000;

/// Jobs that are kept with their events, besides those that have not ended.
pub const MAX_JOBS: i64 = 10_000;

/// Deeds of operators that are kept.
pub const MAX_DEEDS: i64 = 100_000;

/// How long boots and enrolments are kept; tokens end after 15 minutes.
pub const BOOTS_KEPT_MS: i64 = 24 * 3600 * 1000;

/// What went wrong with the records.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or brought to this version.
    #[error("database {} cannot be opened; check that its directory exists and is writable and that its disk is not full", path.display())]
    Open {
        /// The file.
        path: std::path::PathBuf,
        /// What went wrong.
        source: sqlx::Error,
    },
    /// It was made by a newer program, or was tampered with.
    #[error("database {} cannot be brought to this version; it may belong to a newer one", path.display())]
    Migrate {
        /// The file.
        path: std::path::PathBuf,
        /// What went wrong.
        source: sqlx::migrate::MigrateError,
    },
    /// A statement failed.
    #[error("the database refused a statement")]
    Statement(#[from] sqlx::Error),
    /// A row that is not what we wrote.
    #[error("the database holds a {what} that cannot be read: {text:?}")]
    Corrupt {
        /// Of what kind.
        what: &'static str,
        /// What is there, shortened.
        text: String,
    },
}

/// Whether a connection may write again. A COMMIT that fails for want of space has rolled back already;
/// sqlx's own ROLLBACK then fails too, and it goes on counting a transaction that is not there: what it
/// commits from then on, as a savepoint, may never reach the disk.
async fn is_sound(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // Answered after whatever was asked before.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

/// The records.
#[derive(Clone, Debug)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    /// When and why the latest write failed, if it did.
    trouble: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Store {
    /// Opens the file, makes it if it is not there, and brings it to this version.
    ///
    /// # Errors
    /// Names the file.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .after_release(|connection, _| Box::pin(is_sound(connection)))
            .connect_with(options.clone())
            .await
            .map_err(failed)?;
        sqlx::migrate!()
            .run(&writer)
            .await
            .map_err(|source| StoreError::Migrate { path: path.to_owned(), source })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await
            .map_err(failed)?;
        Ok(Self { writer, readers, trouble: Arc::default() })
    }

    /// Why records cannot be written at present, for those who wait for what is not kept.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = trouble.as_ref().filter(|(at, _)| at.elapsed() < TROUBLE_TOLD);
        latest.map(|(_, why)| why.clone())
    }

    /// Writes all records, as they are at one moment, to a new file. Reading and writing go on
    /// meanwhile.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub async fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let name = path.to_string_lossy().into_owned();
        sqlx::query("VACUUM INTO $1").bind(name).execute(&self.readers).await?;
        Ok(())
    }

    /// Closes the file; what was acknowledged is in it whether or not this is called.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
