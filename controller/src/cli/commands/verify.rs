//! `metalcast verify`

use super::waiting::Waiting;
use crate::{
    cli::{
        client::Client,
        exit::Exit,
        output::{Printer, bytes},
        watch,
    },
    service::view::{VerifyAnswer, VerifyPlanView, VerifyRequest},
};
use clap::Args;
use metalcast_shared::{
    as_left::{Comparison, Ranges},
    node_set::NodeSet,
};

#[derive(Args)]
pub(in crate::cli) struct Verify {
    /// Nodes, such as node1,node[4-6]
    #[arg(long)]
    nodes: NodeSet,
    /// The slot: its partition number
    #[arg(long, required_unless_present = "whole_disk", conflicts_with = "whole_disk")]
    slot: Option<u16>,
    /// A disk that was deployed as a whole: its table, boot code and all partitions
    #[arg(long)]
    whole_disk: bool,
    /// Serial or WWN of that disk, where a node has several
    #[arg(long, value_name = "SERIAL", requires = "whole_disk")]
    disk: Option<String>,
    /// Partition of the image, if it has several and it is not known which was deployed
    #[arg(long, conflicts_with = "whole_disk")]
    partition: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
    /// Only print what would be compared
    #[arg(long)]
    dry_run: bool,
}

pub(in crate::cli) async fn verify(
    command: Verify,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let wait = command.waiting.wait();
    let request = VerifyRequest {
        nodes: command.nodes.names().collect(),
        slot: command.slot,
        whole_disk: command.whole_disk,
        disk: command.disk,
        partition: command.partition,
        timeout_seconds: command.waiting.timeout,
        dry_run: command.dry_run,
    };
    let answer: VerifyAnswer = client.post("/verifications", &request).await?;
    let plan = describe(&answer);
    watch::planned(&answer, answer.job, plan, wait, (client, printer)).await
}

fn describe(answer: &VerifyAnswer) -> String {
    let node = |plan: &VerifyPlanView| {
        let state = if plan.online { "connected" } else { "waits for it to netboot" };
        let place = answer.slot.map_or("all".to_owned(), |slot| format!("slot {slot}"));
        let part = plan.partition.as_ref().map_or_else(String::new, |it| format!("{it} of "));
        let mut text =
            format!("{} ({state}): {place} of {}, {part}{}", plan.node, plan.disk, plan.image);
        if plan.has_reported {
            text.push_str("; its system was started, which changes journal and logs");
        }
        if !plan.has_as_left {
            text.push_str("; what the deploy left is not known, fix-ups will count as drift");
        }
        text
    };
    answer.plan.iter().map(node).collect::<Vec<_>>().join("\n")
}

/// All that a comparison found, a line each.
pub(in crate::cli) fn lines(found: &Comparison) -> Vec<String> {
    let mut lines = vec![format!("  compared      {found}")];
    lines.extend(found.remarks.iter().map(|remark| format!("                {remark}")));
    for place in &found.places {
        lines.push(format!("  drift in      {}: {}", place.what, bytes(place.bytes)));
    }
    ranges("drift", &found.drift, &mut lines);
    ranges("fix-up", &found.left, &mut lines);
    lines
}

fn ranges(name: &str, ranges: &Ranges, lines: &mut Vec<String>) {
    lines.extend(ranges.first.iter().map(|range| format!("  {name:13} {range}")));
    let more = ranges.count.saturating_sub(ranges.first.len() as u64);
    if more > 0 {
        lines.push(format!("  {name:13} and {more} more ranges"));
    }
}
