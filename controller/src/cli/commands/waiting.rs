//! How long a job waits for its nodes, and its operator for the job.

use crate::cli::watch::Wait;
use clap::Args;

#[derive(Args)]
pub(super) struct Waiting {
    /// Seconds that nodes may take to netboot, and a system to offer itself [default: 1800]
    #[arg(long, value_name = "SECONDS")]
    pub(super) timeout: Option<u64>,
    /// Wait for the end, or for that many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    wait: Option<Option<u64>>,
}

impl Waiting {
    pub(super) fn wait(&self) -> Wait {
        Wait::from(self.wait)
    }
}
