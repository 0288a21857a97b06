//! Patience with what is busy for a moment only: a program that is being started holds every open
//! file until it is itself, and so keeps disks and mounts in use a little longer than their users.

use metalcast_sys::{Error, Result};
use std::time::{Duration, Instant};

/// Longer than any program takes to start, on a slow machine too.
const LIMIT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

/// Tries again while the answer is `EBUSY`, for a few seconds.
pub fn while_busy<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let until = Instant::now() + LIMIT;
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && Instant::now() < until => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
}

pub(super) fn is_busy(error: &Error) -> bool {
    error.errno() == Some(nix::errno::Errno::EBUSY as i32)
}
