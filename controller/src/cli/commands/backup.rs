//! `metalcast backup` and `metalcast restore`

use crate::{
    backup::{self, Contents, Restored},
    cli::{
        client::Client,
        exit::Exit,
        output::{Printer, bytes, date, now},
    },
    config::Config,
};
use anyhow::{Context, bail};
use clap::Args;
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

#[derive(Args)]
pub(in crate::cli) struct Backup {
    /// The file to write: a tar file, as secret as the keys in it
    file: PathBuf,
}

#[derive(Args)]
pub(in crate::cli) struct Restore {
    /// The file that `metalcast backup` wrote
    file: PathBuf,
    /// The configuration file; its state_dir is restored
    #[arg(long, default_value = crate::config::DEFAULT_PATH)]
    config: PathBuf,
    /// Only check the backup, and print what would be restored
    #[arg(long)]
    dry_run: bool,
}

pub(in crate::cli) async fn backup(
    Backup { file }: Backup,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    if file.exists() {
        bail!("{} exists: choose another name, or move it away", file.display());
    }
    let mut unfinished = file.clone().into_os_string();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let contents = match fetch(client, &unfinished).await {
        Ok(contents) => contents,
        Err(error) => {
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
    };
    // Never in the place of a file that was made meanwhile.
    fs::hard_link(&unfinished, &file)
        .and_then(|()| fs::remove_file(&unfinished))
        .with_context(|| format!("naming it {}", file.display()))?;
    printer.result(&contents, |contents| describe(&file, contents));
    printer.talk(&format!(
        "images are not in it: copy {} with any tool, such as rsync -a",
        contents.images_dir.display()
    ));
    Ok(Exit::Ok)
}

/// Writes a backup and reads it again.
async fn fetch(client: &Client, to: &Path) -> anyhow::Result<Contents> {
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let file = open.with_context(|| format!("making {}", to.display()))?;
    client.download("/backup", &file).await?;
    file.sync_all().with_context(|| format!("writing {}", to.display()))?;
    backup::verify(to)
}

pub(in crate::cli) async fn restore(
    Restore { file, config, dry_run }: Restore,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let config = Config::load(&config).with_context(|| {
        let file = file.display();
        format!(
            "a restore needs a configuration; `tar -xOf {file} metalcast.toml` prints the old one"
        )
    })?;
    let state_dir = &config.state_dir;
    if dry_run {
        let contents = backup::check(&file, state_dir)?;
        printer.result(&contents, |contents| {
            format!("would restore into {}\n{}", state_dir.display(), describe(&file, contents))
        });
        return Ok(Exit::Ok);
    }
    let who = format!("uid {}", nix::unistd::getuid());
    let restored = backup::restore(&file, state_dir, &who, now()).await?;
    let Restored { contents, ended_tasks } = &restored;
    printer.result(contents, |contents| describe(&file, contents));
    printer.talk(&format!("restored into {}", state_dir.display()));
    if *ended_tasks > 0 {
        printer.talk(&format!(
            "{ended_tasks} tasks had not ended when the backup was made; they are ended now: \
             look at `metalcast job list`, and ask again for what is still wanted"
        ));
    }
    printer.talk(&format!(
        "images are not in a backup: copy those of {} to {}, then start the controller",
        contents.images_dir.display(),
        config.images_dir().display()
    ));
    Ok(Exit::Ok)
}

fn describe(file: &Path, contents: &Contents) -> String {
    let made = date(contents.created_unix.saturating_mul(1000));
    let mut lines = vec![format!("{}: metalcast {}, {made} UTC", file.display(), contents.version)];
    let line = |file: &backup::Member| format!("  {:16} {}", file.name, bytes(file.bytes));
    lines.extend(contents.files.iter().map(line));
    lines.join("\n")
}
