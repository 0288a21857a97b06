//! `join`: takes a running machine to a controller, as if it had netbooted the agent. For machines that
//! cannot netboot: start any Linux, from a stick for instance, and join.

use super::{
    controller::{Controller, with_uplink},
    print,
};
use crate::{
    inventory,
    session::{self, Config, Ending, LogRing, Role},
    task::Machine,
};
use anyhow::{bail, ensure};
use clap::Args;
use metalcast_shared::disk::Disk;
use std::{net::SocketAddr, sync::Arc};

/// Which controller, and what it may see of this machine.
#[derive(Debug, Args)]
pub(super) struct JoinArgs {
    /// The controller's address and HTTP port, such as 10.77.0.1:80
    controller: SocketAddr,
    /// Serial numbers or world wide names of the disks that the controller may see and write
    #[arg(long, required = true, value_delimiter = ',', value_name = "SERIAL")]
    disks: Vec<String>,
}

impl JoinArgs {
    /// Serves the controller until it wants this machine restarted, which is left to the caller.
    pub(super) fn run(&self, machine: &Machine, logs: &Arc<LogRing>) -> anyhow::Result<()> {
        ensure!(nix::unistd::geteuid().is_root(), "this needs the rights of root");
        self.check_disks()?;
        let controller = Controller(self.controller);
        let uplink = controller.uplink()?;
        let boot = controller.netboot(uplink.mac)?;
        let chosen = self.disks.clone();
        let machine =
            Machine { disks: Box::new(move || Ok(of(&chosen))), ..Machine::this(&machine.grub) };
        let chosen = self.disks.clone();
        let inventory = move || {
            let found = inventory::collect(|disk| is_of(&chosen, disk));
            with_uplink(found, &uplink)
        };
        let config = Config {
            boot,
            phases: Vec::new(),
            machine: Arc::new(machine),
            inventory: Arc::new(inventory),
            logs: logs.clone(),
            role: Role::Node,
        };
        match session::block_on(config)? {
            Ending::Reboot { reason } => {
                print(&format!("the controller wants this machine restarted: {reason}"));
                Ok(())
            }
            Ending::Refused { reason } => bail!("the controller refuses this machine: {reason}"),
            Ending::Stopped => Ok(()),
        }
    }

    /// A name that fits no disk is a mistake that the controller could not explain.
    fn check_disks(&self) -> anyhow::Result<()> {
        let found = inventory::disks();
        for name in &self.disks {
            let fits = found.iter().any(|disk| is_of(std::slice::from_ref(name), disk));
            ensure!(
                fits,
                "no disk has serial number or WWN {name}; `metalcast-agent scan` shows all"
            );
        }
        Ok(())
    }
}

fn is_of(chosen: &[String], disk: &Disk) -> bool {
    let is_named = |id: &Option<String>| id.as_ref().is_some_and(|id| chosen.contains(id));
    is_named(&disk.serial) || is_named(&disk.wwn)
}

fn of(chosen: &[String]) -> Vec<Disk> {
    inventory::disks().into_iter().filter(|disk| is_of(chosen, disk)).collect()
}
