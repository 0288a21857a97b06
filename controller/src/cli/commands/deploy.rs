//! `metalcast deploy` and `metalcast boot`

use super::{adapt::Adapt, waiting::Waiting};
use crate::{
    api::code,
    cli::{
        client::{CallError, Client},
        exit::Exit,
        output::{Printer, Tone, bytes},
        watch,
    },
    jobs::plan::LayoutAction,
    service::view::{
        BootAnswer, BootRequest, DeployAnswer, DeployRequest, GrowRequest, GrowView, NodePlanView,
        PartitionView, PlacedView, PlanView, TargetView,
    },
};
use clap::{ArgGroup, Args};
use metalcast_shared::{
    fix_up::Adaptation,
    fresh::{Fresh, FreshKind, FreshLabel},
    id::{ImageRef, Revision},
    node_set::NodeSet,
    to_agent::Placed,
};

#[derive(Args)]
#[command(group = ArgGroup::new("where").args(["slot", "whole_disk", "partitions"]).required(true))]
pub(in crate::cli) struct Deploy {
    /// project/name (its newest revision) or project/name@7
    image: ImageRef,
    /// The slot: its partition number
    #[arg(long)]
    slot: Option<u16>,
    /// All of the disk: table, boot code and every partition become the image's
    #[arg(long, conflicts_with_all = ["partition", "layout"])]
    whole_disk: bool,
    /// Partitions of the image into partitions that the disk has, by number, such as sda1:1,sda2:3; all
    /// else on the disk stays as it is
    #[arg(long, value_name = "NAME:NUMBER", value_delimiter = ',',
        conflicts_with_all = ["partition", "layout", "fs", "label"])]
    partitions: Vec<Placed>,
    /// Nodes, such as node1,node7 or node[01-16]
    #[arg(long)]
    nodes: NodeSet,
    /// Partition of the image, where it has several
    #[arg(long)]
    partition: Option<String>,
    /// Serial or WWN of the disk, where a node has several
    #[arg(long)]
    disk: Option<String>,
    /// Layout, if not the nodes' own
    #[arg(long)]
    layout: Option<String>,
    #[command(flatten)]
    adapt: Adapt,
    /// Filesystem to make for a tar archive: ext4, ext3, ext2, xfs or btrfs [default: ext4]
    #[arg(long, value_name = "KIND", conflicts_with = "whole_disk")]
    fs: Option<FreshKind>,
    /// Label of that filesystem
    #[arg(long, conflicts_with = "whole_disk")]
    label: Option<FreshLabel>,
    /// Other ids than the image's for disk, partitions and filesystems, so that two copies can be in one
    /// machine; what names them follows
    #[arg(long, requires = "whole_disk")]
    fresh_ids: bool,
    /// Have filesystems fill their slot or partitions, or the partition of this number; of a whole disk the
    /// last partition, or the one of this number, and its filesystem the disk
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, require_equals = true)]
    grow: Option<Option<u16>>,
    #[command(flatten)]
    waiting: Waiting,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// What is on the disk may be lost
    #[arg(short, long)]
    yes: bool,
}

#[derive(Args)]
pub(in crate::cli) struct Boot {
    /// Nodes, such as node1,node7 or node[01-16]
    nodes: NodeSet,
    /// The slot: its partition number
    #[arg(long)]
    slot: u16,
    #[command(flatten)]
    waiting: Waiting,
}

pub(in crate::cli) async fn deploy(
    command: Deploy,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let wait = command.waiting.wait();
    let report = command.adapt.report();
    let (hostname, adaptation) = command.adapt.adaptation()?;
    let request = DeployRequest {
        image: command.image.to_string(),
        slot: command.slot,
        whole_disk: command.whole_disk,
        partitions: command.partitions,
        nodes: command.nodes.names().collect(),
        partition: command.partition,
        disk: command.disk,
        layout: command.layout,
        hostname,
        report,
        adaptation,
        fs: command.fs,
        label: command.label,
        fresh_ids: command.fresh_ids,
        grow: command.grow.map(|partition| GrowRequest { partition }),
        timeout_seconds: command.waiting.timeout,
        dry_run: command.dry_run,
        yes: command.yes,
    };
    let answer = client.post("/deployments", &request).await;
    let answer: DeployAnswer = answer.map_err(|error| shown_plan(error, printer))?;
    let plan = describe(&answer.plan, printer);
    watch::planned(&answer, answer.job, plan, wait, (client, printer)).await
}

/// Shows the plan that was refused because of what would be lost.
pub(super) fn shown_plan(error: CallError, printer: &Printer) -> CallError {
    if let CallError::Refused(problem) = &error
        && problem.code == code::NEEDS_YES
        && let Some(plan) = problem.plan.as_ref().filter(|_| !printer.is_json())
    {
        printer.talk(&describe(plan, printer));
    }
    error
}

pub(in crate::cli) async fn boot(
    command: Boot,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let Boot { nodes, slot, waiting } = command;
    let (wait, timeout_seconds) = (waiting.wait(), waiting.timeout);
    let request = BootRequest { nodes: nodes.names().collect(), slot, timeout_seconds };
    let answer: BootAnswer = client.post("/boots", &request).await?;
    watch::ordered(&answer, answer.job, wait, (client, printer)).await
}

fn describe(plan: &PlanView, printer: &Printer) -> String {
    let mut lines = describe_target(&plan.image, &plan.target);
    lines.extend(describe_nodes(plan, printer));
    lines.join("\n")
}

/// How the systems are adapted, and what happens on each node.
pub(super) fn describe_nodes(plan: &PlanView, printer: &Printer) -> Vec<String> {
    let PlanView { adaptation, nodes, .. } = plan;
    let mut lines = Vec::new();
    let Adaptation { without, authorized_keys, kernel_args, post_install } = adaptation;
    let list = |words: Vec<String>| words.join(" ");
    for (what, words) in [
        ("without", list(without.iter().map(ToString::to_string).collect())),
        ("root keys", list(authorized_keys.iter().map(ToString::to_string).collect())),
        ("kernel", list(kernel_args.iter().map(ToString::to_string).collect())),
        ("project", post_install.as_ref().map(ToString::to_string).unwrap_or_default()),
    ] {
        if !words.is_empty() {
            lines.push(format!("  {what:<9} {words}"));
        }
    }
    for node in nodes {
        describe_node(node, &mut lines, printer);
    }
    lines
}

fn describe_target(image: &Revision, target: &TargetView) -> Vec<String> {
    match target {
        TargetView::Slot { partition, filesystem, slot, fresh: None } => {
            vec![format!("{image}, partition {partition} ({filesystem}), to slot {slot}:")]
        }
        TargetView::Slot { slot, fresh: Some(Fresh { kind, label }), .. } => {
            let label =
                label.as_ref().map_or_else(String::new, |label| format!(" {}", label.as_str()));
            vec![format!("{image}, a tar archive, into a new {kind}{label} in slot {slot}:")]
        }
        TargetView::WholeDisk { table, partitions, fresh_ids } => {
            let row = |part: &PartitionView| {
                let start = part.start_bytes;
                format!(
                    "  {:>9} {}, {} from byte {start}",
                    part.number,
                    part.what,
                    bytes(part.bytes)
                )
            };
            let head = format!("{image}, to the whole disk ({table}), which will have:");
            let ids =
                "  ids       of disk, partitions and filesystems are drawn anew for each node";
            let mut lines = vec![head];
            lines.extend(partitions.iter().map(row));
            lines.extend(fresh_ids.then(|| ids.to_owned()));
            lines
        }
        TargetView::Partitions { placed } => {
            let row = |PlacedView { partition, filesystem, number }: &PlacedView| {
                format!("  {number:>9} {filesystem} of {partition}")
            };
            let head = format!("{image}, into these partitions; all else on the disk stays:");
            std::iter::once(head).chain(placed.iter().map(row)).collect()
        }
    }
}

fn describe_node(node: &NodePlanView, lines: &mut Vec<String>, printer: &Printer) {
    let state = if node.online { "connected" } else { "waits for it to netboot" };
    lines.push(format!("{} ({state}), host name {}", node.node, node.hostname));
    lines.push(format!("  disk      {} = {}", node.disk, bytes(node.disk_bytes)));
    for content in &node.contents {
        lines.push(format!("    holds   {content}"));
    }
    if node.contents.is_empty() {
        lines.push("    holds   nothing".into());
    }
    if let (Some(layout), Some(action)) = (&node.layout, node.layout_action) {
        let action = match action {
            LayoutAction::Write => "will be written",
            LayoutAction::Keep => "is kept, other slots stay",
            LayoutAction::Replace => "replaces what is there, unless it is there already",
        };
        lines.push(format!("  layout    {layout} {action}"));
    }
    for grow in &node.grow {
        describe_growth(grow, lines);
    }
    if let Some(present) = &node.present {
        lines.push(format!("  replaces  {present}"));
    }
    for lost in &node.lost {
        lines.push(format!("  {}      {lost}", printer.paint("LOST", Tone::Bad)));
    }
    for warning in &node.warnings {
        lines.push(format!("  {}   {warning}", printer.paint("WARNING", Tone::Attention)));
    }
    // Of a system that is still to be read nothing is known.
    if node.write_bytes > 0 {
        let (write, wire) = (bytes(node.write_bytes), bytes(node.wire_bytes));
        lines.push(format!("  transfer  {wire} to write {write}"));
    }
}

fn describe_growth(grow: &GrowView, lines: &mut Vec<String>) {
    let GrowView { number, filesystem, filesystem_grows, from_bytes, to_bytes, moved } = grow;
    let (from, to) = (bytes(*from_bytes), bytes(*to_bytes));
    let stays = if *filesystem_grows { "" } else { ", which stays as it is" };
    lines.push(format!("  grows     {number} from {from} to {to} ({filesystem}{stays})"));
    for number in moved {
        lines.push(format!("  moves     {number} to the end of the disk"));
    }
}
