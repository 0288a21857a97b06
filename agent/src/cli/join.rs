//! `join`: takes a running machine to a controller, as if it had netbooted the agent. For machines that
//! cannot netboot: start any Linux, from a stick for instance, and join.

mod http;

use super::print;
use crate::{
    inventory,
    session::{self, Config, Ending, LogRing},
    task::Machine,
};
use anyhow::{Context, bail, ensure};
use clap::Args;
use metalcast_shared::{
    boot::{BOOT_CONFIG_PATH, BootConfig},
    disk::Disk,
    id::Mac,
    inventory::{Inventory, Nic},
};
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

/// The interface that reaches the controller.
struct Uplink {
    name: String,
    mac: Mac,
}

impl JoinArgs {
    /// Serves the controller until it wants this machine restarted, which is left to the caller.
    pub(super) fn run(&self, machine: &Machine, logs: &Arc<LogRing>) -> anyhow::Result<()> {
        ensure!(nix::unistd::geteuid().is_root(), "this needs the rights of root");
        self.check_disks()?;
        let uplink = self.uplink()?;
        let boot = self.boot_config(uplink.mac)?;
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
        };
        match session::block_on(config)? {
            Ending::Reboot { reason } => {
                print(&format!("the controller wants this machine restarted: {reason}"));
                Ok(())
            }
            Ending::Refused { reason } => bail!("the controller refuses this machine: {reason}"),
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

    fn uplink(&self) -> anyhow::Result<Uplink> {
        let address = http::local_address(self.controller)?;
        let entries = std::fs::read_dir("/sys/class/net").context("listing /sys/class/net")?;
        for entry in entries {
            let path = entry.context("listing /sys/class/net")?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let Some(name) = name else { continue };
            if metalcast_sys::link::address(&name).ok().flatten() == Some(address) {
                let file = path.join("address");
                let mac = std::fs::read_to_string(&file)
                    .with_context(|| format!("reading {}", file.display()))?;
                let mac = mac.trim().parse().with_context(|| format!("the address of {name}"))?;
                return Ok(Uplink { name, mac });
            }
        }
        bail!("no network interface has {address}, by which {} is reached", self.controller)
    }

    /// What a netboot would have brought: the script names the segment, the segment holds it.
    fn boot_config(&self, mac: Mac) -> anyhow::Result<BootConfig> {
        let mac = mac.to_string().replace(':', "-");
        let script = http::get(self.controller, &format!("/boot/{mac}.ipxe"))?;
        let script = String::from_utf8_lossy(&script);
        let segment = script
            .split_whitespace()
            .find(|word| word.ends_with("/segment.cpio"))
            .and_then(|url| url.strip_prefix("http://")?.split_once('/'));
        let Some((_, segment)) = segment else {
            bail!(
                "the controller does not want this machine in its agent now: {}",
                script.lines().nth(1).unwrap_or("its boot script is empty")
            );
        };
        let archive = http::get(self.controller, &format!("/{segment}"))?;
        let json = file_in(&archive, BOOT_CONFIG_PATH)
            .with_context(|| format!("the boot segment has no {BOOT_CONFIG_PATH}"))?;
        serde_json::from_slice(json).context("understanding the boot segment")
    }
}

fn is_of(chosen: &[String], disk: &Disk) -> bool {
    let is_named = |id: &Option<String>| id.as_ref().is_some_and(|id| chosen.contains(id));
    is_named(&disk.serial) || is_named(&disk.wwn)
}

fn of(chosen: &[String]) -> Vec<Disk> {
    inventory::disks().into_iter().filter(|disk| is_of(chosen, disk)).collect()
}

/// A bridge or a virtual interface is none of the hardware's, but stands for the machine here.
fn with_uplink(mut inventory: Inventory, uplink: &Uplink) -> Inventory {
    inventory.nics.iter_mut().for_each(|nic| nic.boot = nic.mac == uplink.mac);
    if !inventory.nics.iter().any(|nic| nic.boot) {
        inventory.nics.push(Nic {
            name: uplink.name.clone(),
            mac: uplink.mac,
            driver: None,
            link: true,
            speed_mbit: None,
            pci_id: None,
            boot: true,
        });
    }
    inventory
}

/// A file of a cpio archive in the `newc` form: headers of 13 numbers in base 16 behind a magic, name
/// and contents each filled up to 4 bytes.
fn file_in<'a>(archive: &'a [u8], path: &str) -> Option<&'a [u8]> {
    const HEADER: usize = 110;
    let mut rest = archive;
    loop {
        let header = str::from_utf8(rest.get(..HEADER)?).ok()?;
        let field = |index: usize| {
            let at = 6 + index * 8;
            usize::from_str_radix(header.get(at..at + 8)?, 16).ok()
        };
        let (bytes, name_bytes) = (field(6)?, field(11)?);
        let body = HEADER.checked_add(name_bytes)?.checked_next_multiple_of(4)?;
        let name = rest.get(HEADER..HEADER + name_bytes)?.strip_suffix(b"\0")?;
        let end = body.checked_add(bytes)?;
        if name == path.as_bytes() {
            return rest.get(body..end);
        }
        rest = rest.get(end.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_in_a_segment_and_in_no_damaged_one() {
        let files = [("etc/other", &b"12345"[..], 0o644), (BOOT_CONFIG_PATH, b"{}", 0o600)];
        let archive = metalcast_initramfs::segment(&files).unwrap();
        assert_eq!(file_in(&archive, BOOT_CONFIG_PATH), Some(&b"{}"[..]));
        assert_eq!(file_in(&archive, "etc/other"), Some(&b"12345"[..]));
        assert_eq!(file_in(&archive, "no"), None);
        for cut in 0..archive.len() {
            let found = file_in(&archive[..cut], BOOT_CONFIG_PATH);
            assert!(found.is_none_or(|found| found == b"{}"));
            let mut damaged = archive.clone();
            damaged[cut] ^= 0x55;
            let _ = file_in(&damaged, BOOT_CONFIG_PATH);
        }
    }
}
