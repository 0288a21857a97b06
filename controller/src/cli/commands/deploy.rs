//! `metalcast deploy` and `metalcast boot`

use crate::{
    api::code,
    cli::{
        client::{CallError, Client},
        exit::Exit,
        output::{Printer, Tone, bytes},
        watch::{self, Wait},
    },
    jobs::plan::LayoutAction,
    service::view::{
        BootAnswer, BootRequest, DeployAnswer, DeployRequest, GrowRequest, GrowView, NodePlanView,
        PartitionView, PlacedView, PlanView, ReportMode, TargetView,
    },
};
use anyhow::Context;
use clap::{ArgGroup, Args, ValueEnum};
use metalcast_shared::{
    fix_up::{Adaptation, AuthorizedKey, FixUpStep, KernelArg},
    fresh::{Fresh, FreshKind, FreshLabel},
    id::{ImageRef, Revision},
    node_set::NodeSet,
    to_agent::Placed,
};
use std::path::{Path, PathBuf};

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
    /// Host name, if not the node's name; for one node only
    #[arg(long)]
    hostname: Option<String>,
    /// How the deployed system reports that it is up
    #[arg(long, value_enum, default_value_t)]
    report: Report,
    /// Fix-ups to leave out, such as hostname,ssh-host-keys
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    without: Vec<FixUpStep>,
    /// File with public keys that may log in as root
    #[arg(long, value_name = "FILE")]
    authorized_keys: Option<PathBuf>,
    /// Word to add to the kernel's command line, such as console=ttyS0,115200
    #[arg(long = "kernel-arg", value_name = "WORD")]
    kernel_args: Vec<KernelArg>,
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
    /// Seconds that nodes may take to netboot [default: 1800]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Wait for the end, or for that many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    wait: Option<Option<u64>>,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
    /// What is on the disk may be lost
    #[arg(short, long)]
    yes: bool,
}

/// How the deployed system reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Report {
    /// A systemd unit reports at the first start
    #[default]
    Unit,
    /// It cannot: the deployment ends as "done (unconfirmed)"
    None,
}

#[derive(Args)]
pub(in crate::cli) struct Boot {
    /// Nodes, such as node1,node7 or node[01-16]
    nodes: NodeSet,
    /// The slot: its partition number
    #[arg(long)]
    slot: u16,
    /// Seconds that nodes may take to netboot [default: 1800]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Wait for the end, or for that many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    wait: Option<Option<u64>>,
}

pub(in crate::cli) async fn deploy(
    command: Deploy,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let wait = Wait::from(command.wait);
    let adaptation = Adaptation {
        without: command.without,
        authorized_keys: authorized_keys(command.authorized_keys.as_deref())?,
        kernel_args: command.kernel_args,
        post_install: None,
    };
    let request = DeployRequest {
        image: command.image.to_string(),
        slot: command.slot,
        whole_disk: command.whole_disk,
        partitions: command.partitions,
        nodes: command.nodes.names().collect(),
        partition: command.partition,
        disk: command.disk,
        layout: command.layout,
        hostname: command.hostname,
        report: match command.report {
            Report::Unit => ReportMode::Unit,
            Report::None => ReportMode::None,
        },
        adaptation,
        fs: command.fs,
        label: command.label,
        fresh_ids: command.fresh_ids,
        grow: command.grow.map(|partition| GrowRequest { partition }),
        timeout_seconds: command.timeout,
        dry_run: command.dry_run,
        yes: command.yes,
    };
    let answer: DeployAnswer = match client.post("/deployments", &request).await {
        Err(CallError::Refused(problem)) if problem.code == code::NEEDS_YES => {
            if let Some(plan) = problem.plan.as_ref().filter(|_| !printer.is_json()) {
                printer.talk(&describe(plan, printer));
            }
            return Err(CallError::Refused(problem).into());
        }
        answer => answer?,
    };
    let plan = describe(&answer.plan, printer);
    watch::planned(&answer, answer.job, plan, wait, (client, printer)).await
}

pub(in crate::cli) async fn boot(
    command: Boot,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let wait = Wait::from(command.wait);
    let Boot { nodes, slot, timeout: timeout_seconds, .. } = command;
    let request = BootRequest { nodes: nodes.names().collect(), slot, timeout_seconds };
    let answer: BootAnswer = client.post("/boots", &request).await?;
    watch::ordered(&answer, answer.job, wait, (client, printer)).await
}

fn authorized_keys(file: Option<&Path>) -> anyhow::Result<Vec<AuthorizedKey>> {
    let Some(path) = file else { return Ok(Vec::new()) };
    let keys = std::fs::read_to_string(path)
        .map_err(anyhow::Error::from)
        .and_then(|text| Ok(AuthorizedKey::all_of(&text)?));
    keys.with_context(|| format!("reading {}", path.display()))
}

fn describe(plan: &PlanView, printer: &Printer) -> String {
    let PlanView { image, target, adaptation, nodes } = plan;
    let mut lines = describe_target(image, target);
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
    lines.join("\n")
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
    let (write, wire) = (bytes(node.write_bytes), bytes(node.wire_bytes));
    lines.push(format!("  transfer  {wire} to write {write}"));
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
