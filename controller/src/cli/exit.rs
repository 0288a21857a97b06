//! Exit codes.

use super::client::CallError;
use crate::api::code;
use std::process::ExitCode;

/// What a command ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// It failed.
    Failure = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// What it names does not exist.
    NotFound = 3,
    /// The socket may not be opened.
    Auth = 4,
    /// It cannot be done now, or needs `--yes`.
    Conflict = 5,
    /// Some nodes failed, some did not.
    Partial = 6,
    /// The time to wait is over; the job goes on.
    Timeout = 7,
    /// All was compared, and something is not as it was left.
    Drift = 8,
}

/// The table of `--help`.
pub(super) const HELP: &str = "\
Exit codes:
  0    done
  1    failed
  2    the command line makes no sense
  3    a node, image or job does not exist
  4    the controller's socket may not be opened
  5    it cannot be done now, or needs --yes
  6    some nodes failed, some did not
  7    the time of --wait is over; the job goes on
  8    what was compared has drifted
  130  interrupted; a job that began goes on";

impl Exit {
    /// The code of an error.
    pub fn of(error: &anyhow::Error) -> Self {
        let Some(call) = error.chain().find_map(|cause| cause.downcast_ref::<CallError>()) else {
            return Self::Failure;
        };
        match call {
            CallError::Denied { .. } => Self::Auth,
            CallError::Unreachable { .. }
            | CallError::Broken { .. }
            | CallError::TooSlow
            | CallError::Unreadable { .. }
            | CallError::Unwritable { .. } => Self::Failure,
            CallError::Refused(problem) => match problem.status {
                400 => Self::Usage,
                401 | 403 => Self::Auth,
                404 if problem.code == code::NOT_FOUND => Self::NotFound,
                409 | 412 => Self::Conflict,
                _ => Self::Failure,
            },
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
