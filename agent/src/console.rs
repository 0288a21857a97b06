//! What the machine's own screen and serial line show.
//!
//! What is logged goes there line by line, and to the controller where there is one; the progress of
//! a step is only shown.

use crate::{
    init::console::line,
    session::{LogForward, LogRing, line_of},
    task::Report,
};
use metalcast_shared::event::{Progress, TaskEvent};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    layer::{Context, Layer},
    prelude::*,
};

/// How often the progress of a step is shown.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Starts to show what is logged, from `info` up. To be called once.
pub fn start(forward_to: Option<Arc<LogRing>>) {
    let console = Lines.with_filter(LevelFilter::INFO);
    let forward = forward_to.map(|ring| LogForward::new(ring).with_filter(LevelFilter::DEBUG));
    // A second start is a mistake of ours that only costs the second console.
    let _ = tracing_subscriber::registry().with(console).with(forward).try_init();
}

struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(text) = line_of(event) else { return };
        match *event.metadata().level() {
            Level::ERROR => line(&format!("ERROR {text}")),
            Level::WARN => line(&format!("WARNING {text}")),
            Level::INFO | Level::DEBUG | Level::TRACE => line(&text),
        }
    }
}

/// Shows the steps of a task.
#[derive(Debug, Default)]
pub struct StepConsole {
    shown: Mutex<Option<Instant>>,
}

impl StepConsole {
    /// Shows a report; of progress, one every few seconds.
    pub fn report(&self, report: &Report) {
        match report {
            Report::Event(event) => self.event(event),
            Report::Progress(progress) => self.progress(progress),
        }
    }

    fn event(&self, event: &TaskEvent) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        match event {
            TaskEvent::StepStarted { step } => tracing::info!("{step} ..."),
            TaskEvent::StepNote { step, text } => tracing::info!("{step}: {text}"),
            TaskEvent::StepDone { step, millis } => {
                tracing::info!("{step} done in {:.1} s", *millis as f64 / 1000.0);
            }
            TaskEvent::Compared { comparison } => tracing::info!("{comparison}"),
            TaskEvent::Done { .. } => tracing::info!("all steps done"),
            TaskEvent::Failed { step: Some(step), cause } => {
                tracing::error!("{step} failed: {cause}");
            }
            TaskEvent::Failed { step: None, cause } => tracing::error!("task failed: {cause}"),
        }
    }

    fn progress(&self, progress: &Progress) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.is_some_and(|shown| shown.elapsed() < PROGRESS_EVERY) {
            return;
        }
        *shown = Some(Instant::now());
        let Progress { step, done_bytes, total_bytes, .. } = progress;
        let percent = done_bytes.saturating_mul(100) / (*total_bytes).max(1);
        let mib = |bytes: u64| bytes >> 20;
        // Not an event of the log: the controller gets progress by its own way.
        let (done, total) = (mib(*done_bytes), mib(*total_bytes));
        line(&format!("{step}: {percent} % ({done} of {total} MiB)"));
    }
}
