//! `metalcast capture`

use super::waiting::Waiting;
use crate::{
    cli::{
        client::Client,
        exit::Exit,
        output::{Printer, bytes},
        watch,
    },
    service::view::{CaptureAnswer, CapturePlanView, CaptureRequest},
};
use clap::{ArgGroup, Args};
use metalcast_shared::{id::ImageName, to_agent::CaptureSource};

#[derive(Args)]
#[command(group = ArgGroup::new("what").args(["slot", "disk"]).required(true).multiple(true))]
pub(in crate::cli) struct Capture {
    /// The node
    node: String,
    /// project/name: what is saved becomes its next revision
    image: ImageName,
    /// The slot: its partition number
    #[arg(long)]
    slot: Option<u16>,
    /// Serial or WWN of the disk: all of it, without --slot; or where a node has several
    #[arg(long, value_name = "SERIAL")]
    disk: Option<String>,
    /// Partitions of the disk instead of all of it, such as sda1,sda2 or 1,2
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "slot")]
    partitions: Vec<String>,
    /// Layout of the slot's disk, if not the one that it was deployed with or the node's own
    #[arg(long)]
    layout: Option<String>,
    /// What the slot or disk is called in the image; otherwise sda5 or sda
    #[arg(long)]
    name: Option<String>,
    /// Save what was not unmounted properly, or not deployed completely: every block of what its own
    /// records are not to be trusted of
    #[arg(long)]
    force: bool,
    /// Save every block as it is, whatever is in it
    #[arg(long)]
    raw: bool,
    /// Save the slot's files as a tar archive, which goes into a fresh filesystem of any kind and size
    #[arg(long, requires = "slot", conflicts_with_all = ["raw", "name"])]
    tar: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(in crate::cli) async fn capture(
    command: Capture,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let wait = command.waiting.wait();
    let request = CaptureRequest {
        image: command.image.to_string(),
        node: command.node,
        slot: command.slot,
        disk: command.disk,
        partitions: command.partitions,
        layout: command.layout,
        name: command.name,
        force: command.force,
        raw: command.raw,
        tar: command.tar,
        timeout_seconds: command.waiting.timeout,
        dry_run: command.dry_run,
    };
    let answer: CaptureAnswer = client.post("/captures", &request).await?;
    let plan = describe(&answer.plan);
    watch::planned(&answer, answer.job, plan, wait, (client, printer)).await
}

fn describe(plan: &CapturePlanView) -> String {
    let state = if plan.online { "connected" } else { "waits for it to netboot" };
    let mut lines = vec![
        format!("{} ({state}) as the next revision of {}:", plan.node, plan.image),
        format!("  disk      {} = {}", plan.disk, bytes(plan.disk_bytes)),
    ];
    lines.extend(plan.contents.iter().map(|content| format!("    holds   {content}")));
    let what = match &plan.source {
        CaptureSource::Slot { layout, slot } => format!("slot {slot} of layout {}", layout.name),
        CaptureSource::Disk => "all of it, with its partition table".to_owned(),
        CaptureSource::Partitions(numbers) => {
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            format!("partitions {}", numbers.join(", "))
        }
    };
    let how = match (plan.raw, plan.force) {
        (true, _) => ", every block",
        (false, true) => ", unclean or not",
        (false, false) => "",
    };
    let form = if plan.tar { "a tar archive of its files" } else { &plan.name };
    lines.push(format!("  saved     {what}{how}, as {form}"));
    if let Some(present) = &plan.present {
        lines.push(format!("  deployed  {present}"));
    }
    lines.push("  nothing is written to the disk; the node starts from it afterwards".to_owned());
    lines.join("\n")
}
