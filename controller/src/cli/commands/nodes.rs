//! `metalcast node ...`

use crate::{
    cli::{
        client::{Client, segment},
        exit::Exit,
        output::{Printer, Tone, bytes, date, now, span, table},
    },
    jobs::plan::{DiskUse, PartitionUse},
    service::view::{LogView, NodeChange, NodeView},
    store::DefaultBoot,
};
use clap::{Args, Subcommand};
use metalcast_shared::node_set::NodeSet;

#[derive(Subcommand)]
pub(in crate::cli) enum Command {
    /// List all nodes
    List,
    /// Show a node with its hardware and slots
    Show(Name),
    /// Take nodes in, or accept that they changed
    Approve(Names),
    /// Forget nodes; those that netboot again are new
    Rm(Forget),
    /// Give a node another name
    Rename(Rename),
    /// Change a node
    Set(Set),
    /// Print the log of a node's agent
    Logs(Name),
}

#[derive(Args)]
pub(in crate::cli) struct Name {
    /// Name, id or MAC address
    node: String,
}

#[derive(Args)]
pub(in crate::cli) struct Names {
    /// Names, such as node1,node7 or node[01-16], ids or MAC addresses
    #[arg(required = true)]
    nodes: Vec<NodeSet>,
}

#[derive(Args)]
pub(in crate::cli) struct Forget {
    #[command(flatten)]
    names: Names,
    /// Only print what would be forgotten
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub(in crate::cli) struct Rename {
    /// Name, id or MAC address
    old: String,
    /// The new name: 1 to 63 of a-z, 0-9 and '-'; what is deployed on the node keeps its host name
    new: String,
}

#[derive(Args)]
pub(in crate::cli) struct Set {
    /// Name, id or MAC address
    node: String,
    /// Layout that its disks get
    #[arg(long)]
    layout: String,
}

pub(in crate::cli) async fn run(
    command: Command,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    match command {
        Command::List => {
            let nodes: Vec<NodeView> = client.get("/nodes").await?;
            printer.result(&nodes, |nodes| list(nodes, printer));
        }
        Command::Show(Name { node }) => {
            let node: NodeView = client.get(&path(&node)).await?;
            printer.result(&node, |node| show(node, printer));
        }
        Command::Approve(Names { nodes }) => {
            let approve = async |node: &str| {
                let node: NodeView = client.post(&format!("{}/approve", path(node)), &()).await?;
                let reason = node.reason.as_ref().map_or_else(String::new, |it| format!(": {it}"));
                printer.talk(&format!("{} is {}{reason}", node.name, node.state));
                Ok(node)
            };
            return super::each(&names(nodes), printer, approve).await;
        }
        Command::Rm(Forget { names: Names { nodes }, dry_run }) => {
            let forget = async |node: &str| {
                let path = format!("{}?dry_run={dry_run}", path(node));
                let gone: NodeView = client.delete(&path).await?;
                let done = if dry_run { "would be forgotten" } else { "is forgotten" };
                printer.talk(&format!("{} {done}", about(&gone)));
                Ok(serde_json::json!({ "node": gone.name, "id": gone.id, "forgotten": !dry_run }))
            };
            return super::each(&self::names(nodes), printer, forget).await;
        }
        Command::Rename(Rename { old, new }) => {
            let change = NodeChange { name: Some(new), layout: None };
            let node: NodeView = client.patch(&path(&old), &change).await?;
            printer.talk(&format!("{old} is called {} now", node.name));
            printer.value(&node);
        }
        Command::Set(Set { node, layout }) => {
            let change = NodeChange { name: None, layout: Some(layout) };
            let node: NodeView = client.patch(&path(&node), &change).await?;
            printer.result(&node, |node| show(node, printer));
        }
        Command::Logs(Name { node }) => {
            let lines: Vec<LogView> = client.get(&format!("{}/logs", path(&node))).await?;
            printer.result(&lines, |lines| logs(lines));
        }
    }
    Ok(Exit::Ok)
}

/// All names, each once.
fn names(sets: Vec<NodeSet>) -> Vec<String> {
    let mut all = NodeSet::default();
    sets.into_iter().for_each(|set| all.extend(set));
    all.names().collect()
}

/// A node with what goes when it is forgotten.
fn about(node: &NodeView) -> String {
    let addresses: Vec<String> = node.macs.iter().map(ToString::to_string).collect();
    let slots = node.slots.iter().map(|used| format!("slot {} with {}", used.slot, used.image));
    let disks = node.whole_disks.iter().map(|used| format!("a whole disk with {}", used.image));
    let partitions = node.partitions.iter().map(|used| {
        let PartitionUse { number, partition, image, .. } = used;
        format!("partition {number} with {partition} of {image}")
    });
    let slots: Vec<String> = slots.chain(disks).chain(partitions).collect();
    let slots = if slots.is_empty() { "no slots".to_owned() } else { slots.join(", ") };
    format!("{} ({}; {}; {slots})", node.name, node.id, addresses.join(" "))
}

fn path(node: &str) -> String {
    format!("/nodes/{}", segment(node))
}

pub(in crate::cli) fn logs(lines: &[LogView]) -> String {
    let line = |line: &LogView| {
        let level = format!("{:?}", line.level).to_lowercase();
        format!("{} {} {level:5} {}", date(line.at_unix_ms), line.node, line.line)
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn state(node: &NodeView, printer: &Printer) -> String {
    let tone = match node.state.as_str() {
        "ready" => Tone::Good,
        "identity-changed" => Tone::Bad,
        _ => Tone::Attention,
    };
    printer.paint(&node.state, tone)
}

fn seen(node: &NodeView) -> String {
    if node.golden {
        return "connected (golden)".into();
    }
    if node.online {
        return "connected".into();
    }
    format!("{} ago", span(now() - node.last_seen_unix_ms))
}

fn next_boot(node: &NodeView) -> &'static str {
    match node.next_boot {
        DefaultBoot::RamImage => "ram-image",
        DefaultBoot::LocalDisk => "local-disk",
    }
}

fn list(nodes: &[NodeView], printer: &Printer) -> String {
    let row = |node: &NodeView| {
        let disks = node.inventory.iter().flat_map(|inventory| &inventory.disks);
        let disks: Vec<String> = disks
            .map(|disk| {
                let serial = disk.serial.as_deref().or(disk.wwn.as_deref()).unwrap_or("no serial");
                format!("{} {serial} {}", disk.name, bytes(disk.bytes))
            })
            .collect();
        vec![
            node.name.clone(),
            state(node, printer),
            seen(node),
            next_boot(node).to_owned(),
            node.job.map_or_else(|| "-".into(), |job| job.to_string()),
            node.macs.first().map_or_else(|| "-".into(), ToString::to_string),
            disks.join(", "),
        ]
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    table(&["NODE", "STATE", "SEEN", "NEXT BOOT", "JOB", "MAC", "DISKS"], &rows)
}

fn show(node: &NodeView, printer: &Printer) -> String {
    let mut rows: Vec<(&str, String)> = vec![
        ("id", node.id.to_string()),
        ("state", state(node, printer)),
        ("seen", seen(node)),
        ("next boot", next_boot(node).to_owned()),
        ("layout", node.layout.clone()),
    ];
    if let Some(reason) = &node.reason {
        rows.insert(2, ("reason", reason.clone()));
    }
    if let Some(job) = node.job {
        rows.push(("job", job.to_string()));
    }
    if let Some(alarm) = &node.alarm {
        let text = format!("{} UTC {}", date(alarm.at_unix_ms), alarm.line);
        rows.push(("latest alarm", printer.paint(&text, Tone::Bad)));
    }
    for mac in &node.macs {
        rows.push(("address", mac.to_string()));
    }
    if let Some(inventory) = &node.inventory {
        let smbios = &inventory.smbios;
        let texts = [&smbios.vendor, &smbios.product, &smbios.serial];
        let texts: Vec<&str> = texts.into_iter().flatten().map(String::as_str).collect();
        rows.push(("machine", texts.join(" ")));
        let (cores, threads) = (inventory.cpu_cores, inventory.cpu_threads);
        rows.push((
            "processor",
            format!("{} ({cores} cores, {threads} threads)", inventory.cpu_model),
        ));
        rows.push(("memory", bytes(inventory.memory_bytes)));
        for disk in &inventory.disks {
            rows.push(("disk", disk.to_string()));
            rows.extend(disk.contents.iter().map(|content| ("  holds", content.to_string())));
        }
    }
    for used in &node.whole_disks {
        let stage = format!("{:?}", used.stage).to_lowercase();
        let DiskUse { disk, image, table, at_unix_ms, .. } = used;
        let text = format!("all of {disk}: {image} ({table}), {stage} {}", date(*at_unix_ms));
        rows.push(("whole disk", text));
    }
    for used in &node.slots {
        let stage = format!("{:?}", used.stage).to_lowercase();
        let at = date(used.at_unix_ms);
        let text = format!("{} of {}: {}, {stage} {at}", used.slot, used.disk, used.image);
        rows.push(("slot", text));
    }
    for used in &node.partitions {
        let stage = format!("{:?}", used.stage).to_lowercase();
        let PartitionUse { disk, number, image, partition, at_unix_ms, .. } = used;
        let at = date(*at_unix_ms);
        let text = format!("{number} of {disk}: {partition} of {image}, {stage} {at}");
        rows.push(("partition", text));
    }
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    table(&["NODE", &node.name], &rows)
}
