//! `metalcast job ...`

use crate::{
    cli::{
        client::Client,
        exit::Exit,
        output::{Printer, Tone, bytes, clock, date, now, span, table},
        watch,
    },
    service::view::{JobState, JobSummary, JobView, LogView, TaskView},
};
use clap::{Args, Subcommand};
use metalcast_shared::{event::StepState, id::JobId, node_set::NodeSet};

#[derive(Subcommand)]
pub(in crate::cli) enum Command {
    /// List the newest jobs
    List,
    /// Show a job: its nodes, steps and timeline
    Show(Number),
    /// Follow a job to its end
    Watch(Number),
    /// Print what the agents logged for a job
    Logs(Number),
    /// Stop a job at the agents' next safe points
    Cancel(Cancel),
}

#[derive(Args)]
pub(in crate::cli) struct Number {
    /// The job's number
    id: i64,
}

#[derive(Args)]
pub(in crate::cli) struct Cancel {
    /// The job's number
    id: i64,
    /// Only print what would be stopped
    #[arg(long)]
    dry_run: bool,
}

pub(in crate::cli) async fn run(
    command: Command,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    match command {
        Command::List => {
            let jobs: Vec<JobSummary> = client.get("/jobs").await?;
            printer.result(&jobs, |jobs| list(jobs, printer));
        }
        Command::Show(Number { id }) => {
            let job: JobView = client.get(&format!("/jobs/{id}")).await?;
            printer.result(&job, |job| show(job, printer));
        }
        Command::Watch(Number { id }) => {
            return watch::job(JobId(id), None, client, printer).await;
        }
        Command::Logs(Number { id }) => {
            let lines: Vec<LogView> = client.get(&format!("/jobs/{id}/logs")).await?;
            printer.result(&lines, |lines| super::nodes::logs(lines));
        }
        Command::Cancel(Cancel { id, dry_run }) => {
            let path = format!("/jobs/{id}/cancel?dry_run={dry_run}");
            let job: JobView = client.post(&path, &()).await?;
            let doing = if dry_run { "would be stopped" } else { "is being stopped" };
            let open = |task: &&TaskView| !task.ended;
            let nodes: NodeSet = job.tasks.iter().filter(open).map(|task| &task.node).collect();
            let nodes = nodes.to_string();
            printer.talk(&format!("job {id}, {}, {doing} on {nodes}", job.summary.spec));
            printer.value(&serde_json::json!({ "job": id, "stopping": !dry_run, "nodes": nodes }));
        }
    }
    Ok(Exit::Ok)
}

fn state(state: JobState, printer: &Printer) -> String {
    let (name, tone) = match state {
        JobState::Running => ("running", Tone::Plain),
        JobState::Done => ("done", Tone::Good),
        JobState::Partial => ("partial", Tone::Attention),
        JobState::Failed => ("failed", Tone::Bad),
        JobState::Cancelled => ("cancelled", Tone::Attention),
    };
    printer.paint(name, tone)
}

fn took(job: &JobSummary) -> String {
    span(job.ended_unix_ms.unwrap_or_else(now) - job.created_unix_ms)
}

fn list(jobs: &[JobSummary], printer: &Printer) -> String {
    let row = |job: &JobSummary| {
        let began = date(job.created_unix_ms);
        vec![
            job.id.to_string(),
            state(job.state, printer),
            job.spec.to_string(),
            NodeSet::from_iter(&job.nodes).to_string(),
            began,
            took(job),
        ]
    };
    let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
    table(&["JOB", "STATE", "WHAT", "NODES", "BEGAN (UTC)", "TOOK"], &rows)
}

/// What became of each node, for the end of a watch too.
pub(in crate::cli) fn outcome(job: &JobView, printer: &Printer) -> String {
    let row = |task: &TaskView| {
        let tone = match task.state.as_str() {
            "done" if task.has_drift() => Tone::Attention,
            "done" | "done (unconfirmed)" => Tone::Good,
            "failed" => Tone::Bad,
            "cancelled" => Tone::Attention,
            _ => Tone::Plain,
        };
        let saved = task.saved.as_ref().map(|revision| format!("saved as {revision}"));
        let compared = || task.compared.as_ref().map(ToString::to_string);
        let why = task.cause.clone().or_else(|| watch::waits_for(task)).or(saved);
        let why = why.or_else(compared);
        let why = why.unwrap_or_default();
        vec![task.node.clone(), printer.paint(&task.state, tone), why]
    };
    let rows: Vec<Vec<String>> = job.tasks.iter().map(row).collect();
    table(&["NODE", "STATE", "WHY"], &rows)
}

fn show(job: &JobView, printer: &Printer) -> String {
    let JobSummary { id, spec, created_by, .. } = &job.summary;
    let mut lines = vec![
        format!("job {id}: {} ({})", spec, state(job.summary.state, printer)),
        format!(
            "asked for by {created_by} on {} UTC, took {}",
            date(job.summary.created_unix_ms),
            took(&job.summary)
        ),
        String::new(),
        outcome(job, printer),
    ];
    for task in &job.tasks {
        lines.push(String::new());
        lines.push(format!("{} (hand-out {})", task.node, task.generation));
        for step in &task.steps {
            let state = match &step.state {
                StepState::Running => "running".to_owned(),
                StepState::Done(millis) => span(i64::try_from(*millis).unwrap_or(i64::MAX)),
                StepState::Failed(cause) => printer.paint(cause, Tone::Bad),
            };
            lines.push(format!("  {:13} {state}", step.step.to_string()));
            lines.extend(step.notes.iter().map(|note| format!("                {note}")));
        }
        if let Some(view) = &task.progress {
            let (done, total) = (view.progress.done_bytes, view.progress.total_bytes);
            let rate = bytes(view.bytes_per_second);
            lines.push(format!("  {} of {} at {rate}/s", bytes(done), bytes(total)));
        }
        lines.extend(task.compared.iter().flat_map(super::verify::lines));
        timeline(task, &mut lines);
    }
    lines.join("\n")
}

fn timeline(task: &TaskView, lines: &mut Vec<String>) {
    let Some(first) = task.timeline.first() else { return };
    lines.push("  timeline (UTC, and since its start)".into());
    for moment in &task.timeline {
        let since = span(moment.at_unix_ms - first.at_unix_ms);
        let at = clock(moment.at_unix_ms);
        lines.push(format!("  {at} {since:>12}  {} {}", moment.what, moment.detail));
    }
}
