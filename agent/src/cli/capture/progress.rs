//! How far a capture is, for the person who waits.

use crate::init::console::line;
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often it is said.
const EVERY: Duration = Duration::from_secs(2);

/// Bytes read of all that will be.
pub(super) struct Progress {
    total: u64,
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    done: u64,
    shown: Instant,
}

impl Progress {
    pub(super) fn new(total: u64) -> Self {
        let now = Instant::now();
        Self { total, begun: now, state: Mutex::new(State { done: 0, shown: now }) }
    }

    /// Counts bytes of a partition.
    pub(super) fn add(&self, partition: &str, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += bytes;
        if state.shown.elapsed() < EVERY {
            return;
        }
        state.shown = Instant::now();
        let (done, total) = (state.done, self.total.max(1));
        let left = (total - done.min(total)) as f64 / self.rate_of(done).max(1.0);
        line(&format!(
            "{partition}: {} % ({} of {} MiB), {}, {} left",
            done.saturating_mul(100) / total,
            done >> 20,
            total >> 20,
            self.rate_text(done),
            span(left as u64),
        ));
    }

    /// The average over everything, once it is done.
    pub(super) fn rate(&self) -> String {
        self.rate_text(self.total)
    }

    fn rate_text(&self, done: u64) -> String {
        format!("{:.0} MiB/s", self.rate_of(done) / f64::from(1 << 20))
    }

    fn rate_of(&self, bytes: u64) -> f64 {
        bytes as f64 / self.begun.elapsed().as_secs_f64().max(0.001)
    }
}

fn span(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {seconds:02} s"),
        _ => format!("{hours} h {minutes:02} min"),
    }
}
