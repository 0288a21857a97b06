//! Network and mount namespaces without a name: they belong to a holder process and are gone when it and the programs in
//! them are, so nothing stays behind however a run ends, and parallel runs cannot meet. Files and Unix sockets are the
//! host's; only the network and `/sys` differ.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{self, Background, bound, run};

/// How long the holder may take to make its namespaces (milliseconds on an idle machine).
const HOLDER_START: Duration = Duration::from_secs(20);

/// Namespaces and the process that holds them.
#[derive(Debug)]
pub struct Namespace {
    holder: Background,
    dir: PathBuf,
}

impl Namespace {
    /// Makes them; programs run in `dir`, and the holder's log `<name>.log` lies there.
    ///
    /// # Errors
    /// Without root, or when unshare(1) or setpriv(1) are missing.
    pub fn new(name: &str, dir: &Path) -> Result<Self> {
        let mut command = bound("unshare");
        command.args(["--net", "--mount", "--propagation", "slave", "sh", "-c"]);
        // /sys shows the network of the namespace that mounted it.
        command.arg("mount -t sysfs mc-sys /sys && echo ready && exec sleep infinity");
        let log = dir.join(format!("{name}.log"));
        let holder = Background::spawn("namespace holder", &mut command, &log)?;
        let mut namespace = Self { holder, dir: dir.to_owned() };
        namespace.wait_for_holder()?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The process id whose namespaces they are, for `nsenter --target PID --net --mount`.
    pub fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// A command inside, that dies with the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = bound("nsenter");
        command.arg(format!("--target={}", self.pid()));
        command.args(["--net", "--mount"]).arg(format!("--wd={}", self.dir.display()));
        command.arg("--").arg(program);
        command
    }

    /// Runs ip(8) inside.
    ///
    /// # Errors
    /// As [`run`].
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        run(self.command("ip").args(arguments))
    }

    fn wait_for_holder(&mut self) -> Result<()> {
        let deadline = Instant::now() + HOLDER_START;
        while !self.holder.log_tail().contains("ready") {
            self.holder.check_running().context("making a namespace (this needs root)")?;
            if Instant::now() >= deadline {
                bail!("no namespace within {HOLDER_START:?}: {}", self.holder.log_tail());
            }
            process::pause()?;
        }
        Ok(())
    }
}
