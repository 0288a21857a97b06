//! How much of one image is in another.

use super::path;
use crate::{
    cli::{
        client::{Client, segment},
        output::{Printer, bytes, table},
    },
    images::{self, Extent, PartitionDiff},
};
use clap::Args;
use metalcast_shared::id::ImageRef;

#[derive(Args)]
pub(in crate::cli) struct Diff {
    /// project/name for its newest revision, or project/name@7
    a: ImageRef,
    /// The other one
    b: ImageRef,
}

pub(super) async fn run(diff: &Diff, client: &Client, printer: &Printer) -> anyhow::Result<()> {
    let with = segment(&diff.b.to_string());
    let found: images::Diff = client.get(&format!("{}/diff?with={with}", path(&diff.a))).await?;
    printer.result(&found, show);
    Ok(())
}

fn show(diff: &images::Diff) -> String {
    let (a, b) = (diff.a.to_string(), diff.b.to_string());
    let rows: Vec<Vec<String>> = diff.partitions.iter().map(row).collect();
    table(&["PARTITION", &a, &b, "SHARED", "LEFT TO SEND"], &rows)
}

fn row(partition: &PartitionDiff) -> Vec<String> {
    let PartitionDiff { name, a, b, shared, to_send_bytes } = partition;
    let percent = u128::from(shared.bytes) * 100 / u128::from(b.bytes.max(1));
    vec![
        name.clone(),
        extent(a),
        extent(b),
        format!("{} ({percent} %)", extent(shared)),
        bytes(*to_send_bytes),
    ]
}

/// `369.0 MB in 352 chunks`
fn extent(extent: &Extent) -> String {
    match extent.chunks {
        0 => "-".to_owned(),
        chunks => format!("{} in {chunks} chunks", bytes(extent.bytes)),
    }
}
