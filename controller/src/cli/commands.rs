//! What each command asks and prints.

pub(super) mod deploy;
pub(super) mod images;
pub(super) mod jobs;
pub(super) mod nodes;

use super::{
    client::{CallError, Client},
    exit::Exit,
    output::{Printer, date, table},
};
use crate::service::view::{DeedView, StatusView};
use serde::Serialize;

/// Does the same to each of several things. Those that fail are told, and the others done.
async fn each<T: Serialize>(
    names: &[String],
    printer: &Printer,
    act: impl AsyncFn(&str) -> Result<T, CallError>,
) -> anyhow::Result<Exit> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for name in names {
        match act(name).await {
            Ok(value) => done.push(value),
            Err(error) => failed.push(anyhow::Error::from(error)),
        }
    }
    printer.value(&done);
    let exit = match failed.first() {
        None => Exit::Ok,
        Some(first) if done.is_empty() => Exit::of(first),
        Some(_) => Exit::Partial,
    };
    failed.iter().for_each(|error| printer.failure(error));
    Ok(exit)
}

pub(super) async fn audit(client: &Client, printer: &Printer) -> anyhow::Result<Exit> {
    let deeds: Vec<DeedView> = client.get("/audit").await?;
    printer.result(&deeds, |deeds| {
        let row =
            |deed: &DeedView| vec![date(deed.at_unix_ms), deed.who.clone(), deed.what.clone()];
        table(&["WHEN (UTC)", "WHO", "WHAT"], &deeds.iter().map(row).collect::<Vec<_>>())
    });
    Ok(Exit::Ok)
}

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
