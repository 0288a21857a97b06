//! Lines for a person who waits: what is being done now, and how long it took. They go to standard error.

use std::time::Instant;

use anyhow::{Context, Result};

/// Says what is about to be done, does it, and says how long it took or that it failed.
///
/// # Errors
/// The work's own, with what was being done as context.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {what}");
    let start = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("    {outcome} in {:.1} s: {what}", start.elapsed().as_secs_f64());
    result.with_context(|| what.to_owned())
}
