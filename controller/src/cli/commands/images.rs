//! `metalcast image ...`

use crate::{
    api::view::{ImageView, ImportRequest, OperationState, OperationView},
    cli::{
        client::{Client, segment},
        exit::Exit,
        output::{Printer, Tone, bytes, date, table},
        watch::{Meter, patiently},
    },
};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use metalcast_shared::id::{ImageName, ImageRef, Revision};
use std::{path::PathBuf, time::Duration};

/// How often the state of an import is asked for.
const POLL: Duration = Duration::from_millis(500);

#[derive(Subcommand)]
pub(in crate::cli) enum Command {
    /// Import a Clonezilla image directory that lies on the controller's host
    Import(Import),
    /// List all images
    List,
    /// Show the revisions of an image
    Show(Name),
    /// Remove a revision
    Rm(RevisionName),
}

#[derive(Args)]
pub(in crate::cli) struct Import {
    /// The directory
    directory: PathBuf,
    /// What the image is to be called, project/name
    name: ImageName,
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
}

#[derive(Args)]
pub(in crate::cli) struct Name {
    /// project/name or project/name@7
    image: ImageRef,
}

#[derive(Args)]
pub(in crate::cli) struct RevisionName {
    /// project/name@7
    revision: Revision,
    /// Only print what would be removed
    #[arg(long)]
    dry_run: bool,
}

pub(in crate::cli) async fn run(
    command: Command,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    match command {
        Command::Import(import) => return self::import(import, client, printer).await,
        Command::List => {
            let images: Vec<ImageView> = client.get("/images").await?;
            printer.result(&images, |images| list(images, printer));
        }
        Command::Show(Name { image }) => {
            let images: Vec<ImageView> = client.get(&path(&image)).await?;
            printer
                .result(&images, |images| images.iter().map(show).collect::<Vec<_>>().join("\n\n"));
        }
        Command::Rm(RevisionName { revision, dry_run }) => {
            let Revision { image, number } = revision.clone();
            let image = ImageRef { image, number: Some(number) };
            let path = format!("{}?dry_run={dry_run}", path(&image));
            let gone: ImageView = client.delete(&path).await?;
            let size = gone.stored_bytes.map_or_else(|| "damaged".to_owned(), bytes);
            let done = if dry_run { "would be removed" } else { "is removed" };
            printer.talk(&format!("{revision} ({size}) {done}"));
            let image = revision.to_string();
            printer.value(&serde_json::json!({ "image": image, "removed": !dry_run }));
        }
    }
    Ok(Exit::Ok)
}

async fn import(import: Import, client: &Client, printer: &Printer) -> anyhow::Result<Exit> {
    let Import { directory, name, no_wait } = import;
    // The controller has a working directory of its own.
    let path = std::path::absolute(&directory)
        .with_context(|| format!("finding {}", directory.display()))?;
    let begun: OperationView = client.post("/images/import", &ImportRequest { path, name }).await?;
    if no_wait {
        printer.result(&begun, |begun| format!("operation {}", begun.id));
        return Ok(Exit::Ok);
    }
    let mut meter = Meter::new();
    let path = format!("/operations/{}", begun.id);
    loop {
        let now: OperationView = patiently(printer, || client.get(&path)).await?;
        match &now.state {
            OperationState::Running => {
                let what = format!("import {}", now.file);
                meter.show(printer, &what, now.done_bytes, now.total_bytes);
            }
            OperationState::Done(revision) => {
                meter.end(printer);
                let Revision { image, number } = revision.clone();
                let image = ImageRef { image, number: Some(number) };
                let images: Vec<ImageView> = client.get(&self::path(&image)).await?;
                for text in images.iter().filter_map(|image| image.provenance.as_deref()) {
                    printer.talk(&format!("from {text}"));
                }
                printer.result(&now, |_| revision.to_string());
                return Ok(Exit::Ok);
            }
            OperationState::Failed(cause) => {
                meter.end(printer);
                bail!("the import failed: {cause}");
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

fn path(image: &ImageRef) -> String {
    let name = match image.number {
        Some(number) => format!("{}@{number}", image.image.name()),
        None => image.image.name().to_owned(),
    };
    format!("/images/{}/{}", segment(image.image.project()), segment(&name))
}

fn list(images: &[ImageView], printer: &Printer) -> String {
    let row = |image: &ImageView| {
        let parts: Vec<String> = image
            .partitions
            .iter()
            .map(|part| format!("{} {} {}", part.name, part.filesystem, bytes(part.used_bytes)))
            .collect();
        vec![
            image.revision.to_string(),
            match image.damage {
                Some(_) => printer.paint("damaged", Tone::Bad),
                None => printer.paint("ready", Tone::Good),
            },
            image.stored_bytes.map_or_else(|| "-".into(), bytes),
            image.created_unix.map_or_else(|| "-".into(), |unix| date(unix.saturating_mul(1000))),
            parts.join(", "),
        ]
    };
    let rows: Vec<Vec<String>> = images.iter().map(row).collect();
    table(&["IMAGE", "STATE", "STORED", "IMPORTED (UTC)", "PARTITIONS"], &rows)
}

fn show(image: &ImageView) -> String {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    if let Some(damage) = &image.damage {
        row("damaged", damage.clone());
    }
    if let Some(provenance) = &image.provenance {
        row("from", provenance.clone());
    }
    if let Some(unix) = image.created_unix {
        row("imported", format!("{} UTC", date(unix.saturating_mul(1000))));
    }
    for part in &image.partitions {
        let (used, stored) = (bytes(part.used_bytes), bytes(part.stored_bytes));
        let needs = bytes(part.device_bytes);
        let text = format!("{}: {used} used, stored in {stored}, needs {needs}", part.filesystem);
        row(&part.name, text);
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name, value]).collect();
    table(&["IMAGE", &image.revision.to_string()], &rows)
}
