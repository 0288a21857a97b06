//! Collects orphans that have ended: the duty of process 1.

use super::console;
use anyhow::{Context, Result};
use metalcast_sys::reap;
use std::time::Duration;

/// Orphans are rare here (programs are run one at a time), so looking now and then is enough.
const PERIOD: Duration = Duration::from_secs(5);

pub(super) fn start() -> Result<()> {
    std::thread::Builder::new()
        .name("reaper".into())
        .spawn(|| {
            loop {
                std::thread::sleep(PERIOD);
                if let Err(error) = reap::orphans() {
                    console::line(&format!("{:#}", anyhow::Error::new(error)));
                }
            }
        })
        .context("starting the reaper thread")?;
    Ok(())
}
