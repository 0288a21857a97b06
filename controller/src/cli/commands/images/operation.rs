//! What takes its time: import, check and export.

use super::{path, stream};
use crate::{
    api::view::{
        ExportRequest, ImageView, ImportRequest, OperationResult, OperationState, OperationView,
        StreamRequest,
    },
    cli::{
        client::Client,
        exit::Exit,
        output::{Printer, Tone, bytes},
        watch::{Meter, patiently},
    },
    images::{CheckReport, DiskOptions, ExportOptions, Packing},
};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use metalcast_shared::id::{ImageName, ImageRef, Revision};
use serde::Serialize;
use std::{
    num::{NonZeroU32, NonZeroU64},
    path::{Path, PathBuf},
    time::Duration,
};

/// How often the state of an operation is asked for.
const POLL: Duration = Duration::from_millis(500);

/// Names standard input.
const STDIN: &str = "-";

#[derive(Args)]
pub(in crate::cli) struct Import {
    /// A Clonezilla directory, a raw disk or partition (file or block device), a qcow2, VMDK, VHD, VHDX or
    /// VDI file, or - for a raw disk or partition from standard input
    path: PathBuf,
    /// What the image is to be called, project/name
    name: ImageName,
    #[command(flatten)]
    disk: Disk,
    #[command(flatten)]
    wait: NoWait,
}

/// What is said of disks and not of directories.
#[derive(Args)]
struct Disk {
    /// What the disk or partition is called in the image [default: sda]
    #[arg(long = "name", value_name = "DEVICE")]
    device: Option<String>,
    /// Save every block, whatever is in it
    #[arg(long)]
    exact: bool,
    /// Save what is in use, and every block of filesystems that were not unmounted properly
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
pub(in crate::cli) struct Check {
    /// project/name for its newest revision, or project/name@7
    image: ImageRef,
    #[command(flatten)]
    wait: NoWait,
}

#[derive(Args)]
pub(in crate::cli) struct Export {
    /// project/name for its newest revision, or project/name@7
    image: ImageRef,
    /// The directory, which must not exist yet
    directory: PathBuf,
    /// How partitions are compressed
    #[arg(long, value_enum, default_value_t)]
    compress: Compress,
    /// Cut partitions into files of so many MiB
    #[arg(long, value_name = "MIB")]
    split: Option<NonZeroU32>,
    #[command(flatten)]
    wait: NoWait,
}

#[derive(Args)]
pub(super) struct NoWait {
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Compress {
    /// gzip, which every Clonezilla reads
    #[default]
    Gz,
    /// zstd, as in the store: the fastest, but old Clonezillas do not know it
    Zst,
    /// Not at all
    None,
}

pub(super) async fn import(
    import: Import,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let Import { path: source, name, disk, wait } = import;
    let Disk { device, exact, force } = disk;
    let disk = DiskOptions { device, exact, force };
    let ended = if source == Path::new(STDIN) {
        stream::import(&StreamRequest { name, disk }, &wait, client, printer).await?
    } else {
        let request = ImportRequest { path: absolute(&source)?, name, disk };
        let begun: OperationView = client.post("/images/import", &request).await?;
        follow(begun, "import", &wait, client, printer).await?
    };
    let Some(ended) = ended else { return Ok(Exit::Ok) };
    if let OperationState::Done(OperationResult::Imported(revision)) = &ended.state {
        let Revision { image, number } = revision.clone();
        let image = ImageRef { image, number: Some(number) };
        let images: Vec<ImageView> = client.get(&path(&image)).await?;
        for text in images.iter().filter_map(|image| image.provenance.as_deref()) {
            printer.talk(&format!("from {text}"));
        }
        printer.result(&ended, |_| revision.to_string());
    }
    Ok(Exit::Ok)
}

pub(super) async fn check(
    check: Check,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let Check { image, wait } = check;
    let begun = client.post(&format!("{}/check", path(&image)), &Nothing {}).await?;
    let Some(ended) = follow(begun, "check", &wait, client, printer).await? else {
        return Ok(Exit::Ok);
    };
    let OperationState::Done(OperationResult::Checked(report)) = &ended.state else {
        return Ok(Exit::Ok);
    };
    printer.result(&ended, |_| outcome(report, printer));
    Ok(if report.damage.is_empty() { Exit::Ok } else { Exit::Failure })
}

fn outcome(report: &CheckReport, printer: &Printer) -> String {
    let CheckReport { revision, files, chunks, bytes: read, damage } = report;
    let (state, tone) =
        if damage.is_empty() { ("sound", Tone::Good) } else { ("damaged", Tone::Bad) };
    let state = printer.paint(state, tone);
    let mut lines = damage.clone();
    let read = bytes(*read);
    lines.push(format!("{revision} is {state}: {files} files, {chunks} chunks, {read} read"));
    lines.join("\n")
}

pub(super) async fn export(
    export: Export,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let Export { image, directory, compress, split, wait } = export;
    let packing = match compress {
        Compress::Gz => Packing::Gzip,
        Compress::Zst => Packing::Zstd,
        Compress::None => Packing::None,
    };
    let split_bytes = split.and_then(|mib| NonZeroU64::new(u64::from(mib.get()) << 20));
    let options = ExportOptions { packing, split_bytes };
    let request = ExportRequest { path: absolute(&directory)?, options };
    let begun = client.post(&format!("{}/export", path(&image)), &request).await?;
    let Some(ended) = follow(begun, "export", &wait, client, printer).await? else {
        return Ok(Exit::Ok);
    };
    if let OperationState::Done(OperationResult::Exported(report)) = &ended.state {
        let (files, size) = (report.files, bytes(report.bytes));
        printer.talk(&format!("{} exported: {files} files, {size}", report.revision));
        printer.result(&ended, |_| report.path.display().to_string());
    }
    Ok(Exit::Ok)
}

impl NoWait {
    pub(super) fn is_no_wait(&self) -> bool {
        self.no_wait
    }
}

/// A request that says all by its path.
#[derive(Serialize)]
struct Nothing {}

/// The controller has a working directory of its own.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("finding {}", path.display()))
}

/// Shows how far an operation is until it has ended well; `None` if its end is not waited for.
pub(super) async fn follow(
    begun: OperationView,
    what: &str,
    wait: &NoWait,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Option<OperationView>> {
    if wait.no_wait {
        printer.result(&begun, |begun| format!("operation {}", begun.id));
        return Ok(None);
    }
    let mut meter = Meter::new();
    let path = format!("/operations/{}", begun.id);
    loop {
        let now: OperationView = patiently(printer, || client.get(&path)).await?;
        match &now.state {
            OperationState::Running => {
                let what = format!("{what} {}", now.file);
                meter.show(printer, &what, now.done_bytes, now.total_bytes);
            }
            OperationState::Done(_) => {
                meter.end(printer);
                return Ok(Some(now));
            }
            OperationState::Failed(cause) => {
                meter.end(printer);
                bail!("the {what} failed: {cause}");
            }
        }
        tokio::time::sleep(POLL).await;
    }
}
