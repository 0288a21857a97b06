//! What each command asks and prints.

pub(super) mod deploy;
pub(super) mod images;
pub(super) mod jobs;
pub(super) mod nodes;

use super::{
    client::Client,
    exit::Exit,
    output::{Printer, date, table},
};
use crate::service::view::StatusView;

pub(super) async fn status(client: &Client, printer: &Printer) -> anyhow::Result<Exit> {
    let status: StatusView = client.get("/status").await?;
    printer.result(&status, |status| {
        let rows = [
            ("version", status.version.clone()),
            ("started", format!("{} UTC", date(status.started_unix_ms))),
            ("nodes", status.nodes.to_string()),
            ("  awaiting approval", status.nodes_awaiting_approval.to_string()),
            ("  connected", status.nodes_online.to_string()),
            ("unfinished tasks", status.active_tasks.to_string()),
        ];
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        table(&["CONTROLLER", ""], &rows)
    });
    Ok(Exit::Ok)
}
