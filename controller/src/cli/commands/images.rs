//! `metalcast image ...`

mod diff;
mod operation;
mod stream;

use crate::{
    api::view::ImageView,
    cli::{
        client::{Client, segment},
        exit::Exit,
        output::{Printer, Tone, bytes, date, table},
    },
};
use clap::{Args, Subcommand};
use metalcast_shared::id::{ImageRef, Revision};

#[derive(Subcommand)]
pub(in crate::cli) enum Command {
    /// Import a Clonezilla image directory or a disk that lies on the controller's host, or a disk from
    /// standard input
    Import(operation::Import),
    /// List all images
    List,
    /// Show the revisions of an image
    Show(Name),
    /// Read all of an image and prove every checksum and hash
    Check(operation::Check),
    /// Make a Clonezilla image directory of an image, on the controller's host
    Export(operation::Export),
    /// How much of one image is in another
    Diff(diff::Diff),
    /// Remove a revision
    Rm(RevisionName),
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
        Command::Import(import) => return operation::import(import, client, printer).await,
        Command::Check(check) => return operation::check(check, client, printer).await,
        Command::Export(export) => return operation::export(export, client, printer).await,
        Command::Diff(diff) => diff::run(&diff, client, printer).await?,
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
