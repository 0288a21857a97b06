//! `golden`: offers the system that runs on this machine to a controller, which can put it on others.

use super::{
    controller::{Controller, with_uplink},
    print,
};
use crate::{
    inventory,
    session::{self, Config, Ending, LogRing, Role},
    task::Machine,
};
use anyhow::{Context, bail, ensure};
use clap::Args;
use metalcast_shared::disk::Disk;
use std::{future::Future, io, net::SocketAddr, path::Path, sync::Arc};
use tokio::signal::unix::{SignalKind, signal};

/// Which controller.
#[derive(Debug, Args)]
pub(super) struct GoldenArgs {
    /// The controller's address and HTTP port, such as 10.77.0.1:80
    controller: SocketAddr,
}

impl GoldenArgs {
    /// Serves the controller until a signal ends it.
    pub(super) fn run(&self, logs: &Arc<LogRing>) -> anyhow::Result<()> {
        ensure!(nix::unistd::geteuid().is_root(), "this needs the rights of root");
        let controller = Controller(self.controller);
        let uplink = controller.uplink()?;
        let config = Config {
            boot: controller.golden(uplink.mac)?,
            phases: Vec::new(),
            // Whatever is asked for, it has no disk to write to.
            machine: Arc::new(Machine {
                disks: Box::new(|| Ok(inventory::disks().into_iter().filter(is_real).collect())),
                tap: Some(Box::new(|_| Err(io::Error::other("this machine is not written to")))),
                ..Machine::this(Path::new(super::LOADERS))
            }),
            inventory: Arc::new(move || with_uplink(inventory::collect(is_real), &uplink)),
            logs: logs.clone(),
            role: Role::Golden,
        };
        match session::block_on_until(config, signals)? {
            Ending::Stopped => {
                print("ended: this machine is not offered any more");
                Ok(())
            }
            Ending::Reboot { reason } | Ending::Refused { reason } => {
                bail!("the controller refuses this machine: {reason}")
            }
        }
    }
}

/// Files that a running system uses as disks say nothing about the machine: others have the same.
fn is_real(disk: &Disk) -> bool {
    !disk.name.starts_with("loop")
}

/// Ends with the first signal that ends a program.
fn signals() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
