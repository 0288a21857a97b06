//! The agent's log on its way to the controller: the latest lines, in bounded memory.

use metalcast_shared::to_controller::{LogLevel, ToController};
use std::{
    collections::VecDeque,
    fmt::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::layer::{Context, Layer};

/// Lines kept while there is no connection.
const MAX_LINES: usize = 512;

/// Longest line in bytes; longer ones are cut.
const MAX_LINE_BYTES: usize = 1024;

/// Lines from elsewhere, quinn for one, are for developers.
const OUR_TARGETS: &str = "metalcast";

/// Lines that wait to be sent. When it is full the oldest ones go, and are counted.
#[derive(Debug, Default)]
pub struct LogRing {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<(LogLevel, String)>,
    dropped: u64,
}

impl LogRing {
    fn push(&self, level: LogLevel, text: String) {
        let mut inner = self.lock();
        if inner.lines.len() == MAX_LINES {
            inner.lines.pop_front();
            inner.dropped += 1;
        }
        inner.lines.push_back((level, text));
    }

    /// All lines, oldest first.
    pub(super) fn take(&self) -> Vec<ToController> {
        let mut inner = self.lock();
        let dropped = std::mem::take(&mut inner.dropped);
        let gap = (dropped > 0)
            .then(|| (LogLevel::Warn, format!("{dropped} older lines of the log were dropped")));
        gap.into_iter()
            .chain(inner.lines.drain(..))
            .map(|(level, text)| ToController::Log { level, text })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts what is logged into a ring.
#[derive(Debug)]
pub struct LogForward {
    ring: Arc<LogRing>,
}

impl LogForward {
    /// Into this one.
    pub fn new(ring: Arc<LogRing>) -> Self {
        Self { ring }
    }
}

impl<S: Subscriber> Layer<S> for LogForward {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            Level::INFO => LogLevel::Info,
            Level::DEBUG => LogLevel::Debug,
            Level::TRACE => return,
        };
        if let Some(line) = line_of(event) {
            self.ring.push(level, line);
        }
    }
}

/// The line of an event of ours; `None` for those of libraries.
pub fn line_of(event: &Event<'_>) -> Option<String> {
    if !event.metadata().target().starts_with(OUR_TARGETS) {
        return None;
    }
    let mut line = Line(String::new());
    event.record(&mut line);
    let mut end = line.0.len().min(MAX_LINE_BYTES);
    while !line.0.is_char_boundary(end) {
        end -= 1;
    }
    line.0.truncate(end);
    Some(line.0)
}

/// Message first, then fields as `name=value`.
struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::prelude::*;

    #[test]
    fn the_latest_lines_are_kept_and_the_others_counted() {
        let ring = Arc::new(LogRing::default());
        let subscriber = tracing_subscriber::registry().with(LogForward::new(ring.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..MAX_LINES + 2 {
                tracing::info!(number, "line");
            }
            tracing::error!(target: "quinn", "not ours");
            tracing::warn!("{}", "é".repeat(MAX_LINE_BYTES));
        });
        let lines = ring.take();
        assert_eq!(lines.len(), MAX_LINES + 1);
        let text = |line: &ToController| match line {
            ToController::Log { text, .. } => text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(text(&lines[0]), "3 older lines of the log were dropped");
        assert_eq!(text(&lines[1]), "line number=3");
        assert_eq!(text(lines.last().unwrap()).len(), MAX_LINE_BYTES);
        assert!(ring.take().is_empty());
    }
}
