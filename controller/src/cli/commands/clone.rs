//! `metalcast clone`

use super::{
    adapt::Adapt,
    deploy::{describe_nodes, shown_plan},
    waiting::Waiting,
};
use crate::{
    cli::{client::Client, exit::Exit, output::Printer, watch},
    service::view::{CloneAnswer, CloneRequest, TargetView},
};
use clap::Args;
use metalcast_shared::{
    fresh::{Fresh, FreshKind, FreshLabel},
    node_set::NodeSet,
};

#[derive(Args)]
pub(in crate::cli) struct Clone {
    /// The node whose running system is put on the others; `metalcast-agent golden` runs on it
    #[arg(long, value_name = "NODE")]
    from: String,
    /// The others, such as node2,node7 or node[02-16]
    #[arg(long)]
    nodes: NodeSet,
    /// The slot: its partition number
    #[arg(long)]
    slot: u16,
    /// Serial or WWN of the disk, where a node has several
    #[arg(long)]
    disk: Option<String>,
    /// Layout, if not the nodes' own
    #[arg(long)]
    layout: Option<String>,
    #[command(flatten)]
    adapt: Adapt,
    /// Filesystem to make for it: ext4, ext3, ext2, xfs or btrfs; it fills the slot [default: ext4]
    #[arg(long, value_name = "KIND")]
    fs: Option<FreshKind>,
    /// Label of that filesystem
    #[arg(long)]
    label: Option<FreshLabel>,
    #[command(flatten)]
    waiting: Waiting,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// What is on the disks may be lost
    #[arg(short, long)]
    yes: bool,
}

pub(in crate::cli) async fn clone(
    command: Clone,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let wait = command.waiting.wait();
    let report = command.adapt.report();
    let (hostname, adaptation) = command.adapt.adaptation()?;
    let request = CloneRequest {
        from: command.from,
        nodes: command.nodes.names().collect(),
        slot: command.slot,
        disk: command.disk,
        layout: command.layout,
        hostname,
        report,
        adaptation,
        fs: command.fs,
        label: command.label,
        timeout_seconds: command.waiting.timeout,
        dry_run: command.dry_run,
        yes: command.yes,
    };
    let answer = client.post("/clones", &request).await;
    let answer: CloneAnswer = answer.map_err(|error| shown_plan(error, printer))?;
    let plan = describe(&answer, printer);
    watch::planned(&answer, answer.job, plan, wait, (client, printer)).await
}

fn describe(answer: &CloneAnswer, printer: &Printer) -> String {
    let CloneAnswer { from, golden, plan, .. } = answer;
    let state = match golden {
        true => "offers it",
        false => "waits for `metalcast-agent golden` on it",
    };
    let into = match &plan.target {
        TargetView::Slot { slot, fresh: Some(Fresh { kind, .. }), .. } => {
            format!("into a new {kind} in slot {slot}")
        }
        TargetView::Slot { slot, fresh: None, .. } => format!("into slot {slot}"),
        TargetView::WholeDisk { .. } => "to the whole disk".to_owned(),
        TargetView::Partitions { .. } => "into partitions".to_owned(),
    };
    let mut lines = vec![
        format!("the running system of {from} ({state}), {into}:"),
        "  nothing is written before all of it is here, and no image of it is kept".to_owned(),
    ];
    lines.extend(describe_nodes(plan, printer));
    lines.join("\n")
}
