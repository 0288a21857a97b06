//! Following a job or an import: one rewritten line on a terminal, a line every few seconds
//! elsewhere (rarely, if it is the same), and every change on a line of its own. A controller that
//! is restarted meanwhile is waited for.

use super::{
    client::{CallError, Client},
    commands::jobs::outcome,
    exit::Exit,
    output::{Printer, bytes, clock, span},
};
use crate::{
    service::view::{JobEvent, JobState, JobView, TaskView},
    store::Noted,
};
use metalcast_shared::{event::TaskEvent, id::JobId};
use serde::Serialize;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long a controller that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often one that does not answer is asked.
const RETRY: Duration = Duration::from_millis(500);

/// How often progress is printed where nobody looks.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How often a line that says the same again is.
const SAME_EVERY: Duration = Duration::from_secs(60);

/// How long the rate looks back.
const RATE_SPAN: Duration = Duration::from_secs(10);

/// How long a request for events waits: progress is asked for in between.
const POLL_SECONDS: u64 = 1;

/// Whether to wait for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    Yes { limit: Option<Duration> },
}

impl From<Option<Option<u64>>> for Wait {
    fn from(argument: Option<Option<u64>>) -> Self {
        match argument {
            None => Self::No,
            Some(seconds) => Self::Yes { limit: seconds.map(Duration::from_secs) },
        }
    }
}

/// Asks again while the controller may be restarting.
pub(super) async fn patiently<T, F: Future<Output = Result<T, CallError>>>(
    printer: &Printer,
    mut ask: impl FnMut() -> F,
) -> Result<T, CallError> {
    let mut lost: Option<Instant> = None;
    loop {
        let error = match ask().await {
            Ok(answer) => {
                if let Some(since) = lost {
                    let away = span(i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX));
                    printer.talk(&format!("the controller is back after {away}"));
                }
                return Ok(answer);
            }
            Err(error) => error,
        };
        let since = match lost {
            Some(since) => since,
            None if error.may_pass() => {
                let patience = PATIENCE.as_secs();
                printer.talk(&format!("{error}; trying for {patience} s"));
                *lost.insert(Instant::now())
            }
            None => return Err(error),
        };
        if !error.may_pass() || since.elapsed() >= PATIENCE {
            return Err(error);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Shows what was planned, or the job that was made of it, and follows that if it shall be waited for.
pub(super) async fn planned<T: Serialize>(
    answer: &T,
    job_made: Option<JobId>,
    plan: String,
    wait: Wait,
    (client, printer): (&Client, &Printer),
) -> anyhow::Result<Exit> {
    let Some(id) = job_made else {
        printer.result(answer, |_| plan);
        return Ok(Exit::Ok);
    };
    if !printer.is_json() {
        printer.talk(&plan);
    }
    ordered(answer, id, wait, (client, printer)).await
}

/// Shows the job that was made, or follows it if it shall be waited for.
pub(super) async fn ordered<T: Serialize>(
    answer: &T,
    id: JobId,
    wait: Wait,
    (client, printer): (&Client, &Printer),
) -> anyhow::Result<Exit> {
    match wait {
        Wait::No => {
            printer.result(answer, |_| format!("job {id}"));
            Ok(Exit::Ok)
        }
        Wait::Yes { limit } => job(id, limit, client, printer).await,
    }
}

/// Follows a job to its end, or until `limit` has passed.
pub(super) async fn job(
    id: JobId,
    limit: Option<Duration>,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let mut seen = 0;
    let mut lines = Lines::new();
    loop {
        let path = format!("/jobs/{id}/events?after={seen}&wait_seconds={POLL_SECONDS}");
        let events: Vec<JobEvent> = patiently(printer, || client.get(&path)).await?;
        for event in &events {
            seen = seen.max(event.seq);
            if let Some(text) = describe(event) {
                printer.talk(&format!("{} {} {text}", clock(event.at_unix_ms), event.node));
            }
        }
        let path = format!("/jobs/{id}?brief=true");
        let view: JobView = patiently(printer, || client.get(&path)).await?;
        let exit = match view.summary.state {
            JobState::Running if limit.is_none_or(|limit| began.elapsed() < limit) => {
                lines.show(printer, &progress(&view));
                continue;
            }
            JobState::Running => {
                printer
                    .talk(&format!("job {id} goes on; follow it with `metalcast job watch {id}`"));
                Exit::Timeout
            }
            // What happened since the last look is still to be told.
            _ if !events.is_empty() => continue,
            JobState::Done if view.tasks.iter().any(TaskView::has_drift) => Exit::Drift,
            JobState::Done => Exit::Ok,
            JobState::Partial => Exit::Partial,
            JobState::Failed | JobState::Cancelled => Exit::Failure,
        };
        lines.end(printer);
        let path = format!("/jobs/{id}");
        let view: JobView = patiently(printer, || client.get(&path)).await?;
        printer.result(&view, |view| outcome(view, printer));
        return Ok(exit);
    }
}

fn describe(event: &JobEvent) -> Option<String> {
    match &event.what {
        Noted::State { name, why: Some(why) } => Some(format!("{name}: {why}")),
        Noted::State { name, why: None } if name == "handed-out" && event.generation > 1 => {
            Some(format!("{name} again ({})", event.generation))
        }
        Noted::State { name, why: None } => Some(name.clone()),
        Noted::Note(text) => Some(text.clone()),
        Noted::Agent(TaskEvent::StepStarted { step }) => Some(format!("{step} ...")),
        Noted::Agent(TaskEvent::StepNote { step, text }) => Some(format!("{step}: {text}")),
        Noted::Agent(TaskEvent::StepDone { step, millis }) => {
            Some(format!("{step} done in {}", span(i64::try_from(*millis).unwrap_or(i64::MAX))))
        }
        // The state that follows, or the step's own note, says the same.
        Noted::Agent(
            TaskEvent::Done { .. } | TaskEvent::Failed { .. } | TaskEvent::Compared { .. },
        ) => None,
    }
}

fn progress(view: &JobView) -> String {
    let open: Vec<&TaskView> = view.tasks.iter().filter(|task| !task.ended).collect();
    let ended = view.tasks.len() - open.len();
    let shown: Vec<String> = open.iter().take(3).map(|task| task_progress(task)).collect();
    let more = open.len().saturating_sub(shown.len());
    let mut text = shown.join("; ");
    if more > 0 {
        text.push_str(&format!("; {more} more"));
    }
    if view.tasks.len() > 1 {
        text = format!("{ended}/{} ended; {text}", view.tasks.len());
    }
    text
}

/// What a task waits for, and when that ends by itself, if it waits.
pub(super) fn waits_for(task: &TaskView) -> Option<String> {
    let until = |at| format!(", until {} UTC at most", clock(at));
    let what = task.waits_for.as_ref()?;
    Some(format!("{what}{}", task.deadline_unix_ms.map(until).unwrap_or_default()))
}

fn task_progress(task: &TaskView) -> String {
    let node = &task.node;
    if let Some(what) = waits_for(task) {
        return format!("{node} waits for {what}");
    }
    if let Some(view) = &task.progress {
        let step = view.progress.step;
        let (done, total) = (view.progress.done_bytes, view.progress.total_bytes);
        let wire = match view.progress.wire_bytes {
            0 => String::new(),
            wire => format!(", {} over the network", bytes(wire)),
        };
        return format!("{node} {step} {}{wire}", amount(done, total, view.bytes_per_second));
    }
    format!("{node} {}", task.state)
}

/// `120.3 MB of 369.0 MB (33 %), 45.2 MB/s, 5.5 s left`
fn amount(done: u64, total: u64, bytes_per_second: u64) -> String {
    let mut text = match total {
        0 => bytes(done),
        total => {
            let percent = u128::from(done) * 100 / u128::from(total);
            format!("{} of {} ({percent} %)", bytes(done), bytes(total))
        }
    };
    if bytes_per_second > 0 {
        text.push_str(&format!(", {}/s", bytes(bytes_per_second)));
        let left = total.saturating_sub(done).saturating_mul(1000) / bytes_per_second;
        if left > 0 {
            text.push_str(&format!(", {} left", span(i64::try_from(left).unwrap_or(i64::MAX))));
        }
    }
    text
}

/// Shows how far something is, with the rate that it measures itself.
pub(super) struct Meter {
    samples: VecDeque<(Instant, u64)>,
    lines: Lines,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { samples: VecDeque::new(), lines: Lines::new() }
    }

    pub(super) fn show(&mut self, printer: &Printer, what: &str, done: u64, total: u64) {
        let now = Instant::now();
        while self.samples.front().is_some_and(|(at, _)| now - *at > RATE_SPAN) {
            self.samples.pop_front();
        }
        // The next part of the work counts from its own beginning.
        if self.samples.back().is_some_and(|(_, before)| done < *before) {
            self.samples.clear();
        }
        self.samples.push_back((now, done));
        let rate = self.samples.front().map_or(0, |(at, before)| {
            let millis = u64::try_from((now - *at).as_millis()).unwrap_or(u64::MAX);
            done.saturating_sub(*before).saturating_mul(1000).checked_div(millis).unwrap_or(0)
        });
        self.lines.show(printer, &format!("{what} {}", amount(done, total, rate)));
    }

    pub(super) fn end(&self, printer: &Printer) {
        self.lines.end(printer);
    }
}

/// What is said while something goes on.
struct Lines {
    last: String,
    at: Instant,
}

impl Lines {
    fn new() -> Self {
        Self { last: String::new(), at: Instant::now() }
    }

    fn show(&mut self, printer: &Printer, text: &str) {
        if printer.is_terminal() {
            return printer.status_line(text);
        }
        let wait = if text == self.last { SAME_EVERY } else { LINE_EVERY };
        if self.at.elapsed() >= wait {
            (self.last, self.at) = (text.to_owned(), Instant::now());
            printer.talk(text);
        }
    }

    fn end(&self, printer: &Printer) {
        if printer.is_terminal() {
            printer.status_line("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_name_what_is_known() {
        assert_eq!(amount(500, 0, 0), "500 B");
        assert_eq!(amount(1_000_000, 4_000_000, 0), "1.0 MB of 4.0 MB (25 %)");
        assert_eq!(
            amount(1_000_000, 4_000_000, 1_000_000),
            "1.0 MB of 4.0 MB (25 %), 1.0 MB/s, 3.0 s left"
        );
        assert_eq!(amount(u64::MAX, 1, 1), "18446.7 PB of 1 B (1844674407370955161500 %), 1 B/s");
    }
}
