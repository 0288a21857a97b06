//! What each command asks and prints.

mod adapt;
pub(super) mod backup;
pub(super) mod capture;
pub(super) mod clone;
pub(super) mod deploy;
pub(super) mod images;
pub(super) mod jobs;
pub(super) mod nodes;
pub(super) mod ports;
pub(super) mod verify;
mod waiting;

use super::{
    client::{CallError, Client},
    exit::Exit,
    output::{Printer, Tone, bytes, date, day, table},
};
use crate::{
    api::view::{CertificateView, ControllerView},
    images::ProjectUse,
    service::view::DeedView,
};
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
    let status: ControllerView = client.get("/status").await?;
    printer.result(&status, |ControllerView { fleet, certificates, projects }| {
        let mut rows = vec![
            ("version".to_owned(), fleet.version.clone()),
            ("started".to_owned(), format!("{} UTC", date(fleet.started_unix_ms))),
            ("nodes".to_owned(), fleet.nodes.to_string()),
            ("  awaiting approval".to_owned(), fleet.nodes_awaiting_approval.to_string()),
            ("  connected".to_owned(), fleet.nodes_online.to_string()),
            ("unfinished tasks".to_owned(), fleet.active_tasks.to_string()),
        ];
        if let Some(why) = &fleet.records_trouble {
            let text = format!("cannot be written: {why}");
            rows.push(("records".to_owned(), printer.paint(&text, Tone::Bad)));
        }
        rows.extend(certificates.iter().map(|view| certificate(view, printer)));
        rows.extend(projects.iter().map(project));
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|(name, value)| vec![name, value]).collect();
        table(&["CONTROLLER", ""], &rows)
    });
    Ok(Exit::Ok)
}

fn project(ProjectUse { name, used_bytes, quota_bytes }: &ProjectUse) -> (String, String) {
    let used = bytes(*used_bytes);
    let value = match quota_bytes {
        None => used,
        Some(quota) => {
            let percent = u128::from(*used_bytes) * 100 / u128::from((*quota).max(1));
            format!("{used} of {} ({percent} %)", bytes(*quota))
        }
    };
    (format!("images of {name}"), value)
}

fn certificate(view: &CertificateView, printer: &Printer) -> (String, String) {
    let CertificateView { name, ends_unix, days_left, warning } = view;
    let ends = format!("ends {}, {days_left} days left", day(*ends_unix));
    let value = match warning {
        None => ends,
        Some(warning) => format!("{}: {warning}", printer.paint(&ends, Tone::Bad)),
    };
    (format!("certificate of the {name}"), value)
}
