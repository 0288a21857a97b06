//! Where a capture goes.

use metalcast_shared::{
    id::Revision,
    upload::{Survey, UploadPart, UploadPosition},
};
use std::{error::Error, fmt};

/// The store of a controller, over whatever connection there is.
pub trait Uploader {
    /// Begins, or goes on with what is there already. Waits for a connection.
    ///
    /// # Errors
    /// A [`Fault`], after which it may be tried again; anything else ends the task.
    fn begin(&self, survey: &Survey) -> anyhow::Result<Begun<'_>>;
}

/// A beginning.
pub enum Begun<'u> {
    /// From here on all is to be sent.
    From(UploadPosition, Box<dyn Sending + 'u>),
    /// All was sent before.
    Saved(Revision),
}

/// An upload under way, on one connection.
pub trait Sending {
    /// Sends a part and what follows it. Waits for as long as the store is slower than the disk.
    ///
    /// # Errors
    /// As [`Uploader::begin`].
    fn send(&mut self, part: &UploadPart, body: &[u8]) -> anyhow::Result<()>;

    /// Says that this was all, and waits until it is in the store.
    ///
    /// # Errors
    /// As [`Uploader::begin`].
    fn finish(&mut self) -> anyhow::Result<Revision>;
}

/// Why an upload goes no further on its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection broke.
    Lost,
    /// The controller does not take it.
    Refused {
        /// Why.
        reason: String,
        /// Whether it would take what comes on another stream.
        may_retry: bool,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("the connection to the controller is lost"),
            Self::Refused { reason, .. } => f.write_str(reason),
        }
    }
}

impl Error for Fault {}

impl fmt::Debug for Begun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(position, _) => f.debug_tuple("From").field(position).finish(),
            Self::Saved(revision) => f.debug_tuple("Saved").field(revision).finish(),
        }
    }
}
