//! How deployed systems are adapted, as an operator says it.

use crate::service::view::ReportMode;
use anyhow::Context;
use clap::{Args, ValueEnum};
use metalcast_shared::fix_up::{Adaptation, AuthorizedKey, FixUpStep, KernelArg};
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(super) struct Adapt {
    /// Host name, if not the node's name; for one node only
    #[arg(long)]
    hostname: Option<String>,
    /// How the deployed system reports that it is up
    #[arg(long, value_enum, default_value_t)]
    report: Report,
    /// Fix-ups to leave out, such as hostname,ssh-host-keys
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    without: Vec<FixUpStep>,
    /// File with public keys that may log in as root
    #[arg(long, value_name = "FILE")]
    authorized_keys: Option<PathBuf>,
    /// Word to add to the kernel's command line, such as console=ttyS0,115200
    #[arg(long = "kernel-arg", value_name = "WORD")]
    kernel_args: Vec<KernelArg>,
}

/// How the deployed system reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Report {
    /// A systemd unit reports at the first start
    #[default]
    Unit,
    /// It cannot: the deployment ends as "done (unconfirmed)"
    None,
}

impl Adapt {
    pub(super) fn report(&self) -> ReportMode {
        match self.report {
            Report::Unit => ReportMode::Unit,
            Report::None => ReportMode::None,
        }
    }

    /// The host name, and all else.
    pub(super) fn adaptation(self) -> anyhow::Result<(Option<String>, Adaptation)> {
        let adaptation = Adaptation {
            without: self.without,
            authorized_keys: authorized_keys(self.authorized_keys.as_deref())?,
            kernel_args: self.kernel_args,
            post_install: None,
        };
        Ok((self.hostname, adaptation))
    }
}

fn authorized_keys(file: Option<&Path>) -> anyhow::Result<Vec<AuthorizedKey>> {
    let Some(path) = file else { return Ok(Vec::new()) };
    let keys = std::fs::read_to_string(path)
        .map_err(anyhow::Error::from)
        .and_then(|text| Ok(AuthorizedKey::all_of(&text)?));
    keys.with_context(|| format!("reading {}", path.display()))
}
