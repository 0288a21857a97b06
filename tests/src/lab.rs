//! A network of its own for a controller and its machines: a network namespace with one bridge.
//!
//! ```text
//!   namespace (no name, no way out)
//!     br0 10.77.N.1/24 ── tap0 ── machine      programs started with `command`
//!        │              └ tap1 ── machine      share the namespace and see br0
//!        └ keep0 ─ keep1   (a carrier, so that br0 is up before the first machine is)
//! ```

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::namespace::Namespace;
use crate::paths::{self, Scratch};
use crate::process::Background;

/// The bridge's name inside the namespace.
pub const BRIDGE: &str = "br0";

/// A running lab network and the directory that its logs, disks and sockets lie in.
#[derive(Debug)]
pub struct Lab {
    namespace: Namespace,
    subnet: u8,
    taps: u8,
    dir: Scratch,
}

impl Lab {
    /// Makes the network `10.77.<subnet>.0/24` with the controller's address `.1` on the bridge.
    ///
    /// # Errors
    /// Without root, or when ip(8), unshare(1) or setpriv(1) are missing.
    pub fn new(name: &str, subnet: u8) -> Result<Self> {
        let dir = paths::scratch(name)?;
        let namespace = Namespace::new("namespace", dir.path())?;
        let lab = Self { namespace, subnet, taps: 0, dir };
        lab.make_bridge().context("making the lab's network")?;
        Ok(lab)
    }

    /// The directory of this run; it goes with the lab.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A log file in the lab's directory.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    /// The bridge's address: where the controller listens.
    pub fn address(&self) -> Ipv4Addr {
        self.host(1)
    }

    /// The address with this last byte in the lab's network (a /24).
    pub fn host(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.subnet, last)
    }

    /// The process id whose namespaces are the lab's, for `nsenter --target PID --net --mount`.
    pub fn holder_pid(&self) -> u32 {
        self.namespace.pid()
    }

    /// A command inside the lab, in the lab's directory, that dies with the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// Starts a program inside the lab with the log `<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started; one that ends at once shows only in [`Background::check_running`].
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Background> {
        Background::spawn(name, command, &self.log(name))
    }

    /// Adds a port to the bridge for one machine and returns its name.
    ///
    /// # Errors
    /// When ip(8) cannot make it (no /dev/net/tun).
    pub fn add_tap(&mut self) -> Result<String> {
        let tap = format!("tap{}", self.taps);
        self.ip(&["tuntap", "add", "dev", &tap, "mode", "tap"])?;
        self.ip(&["link", "set", &tap, "master", BRIDGE, "up"])?;
        self.taps = self.taps.checked_add(1).context("a lab has at most 255 machines")?;
        Ok(tap)
    }

    /// Runs ip(8) inside the lab.
    ///
    /// # Errors
    /// When it fails, with its words.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        self.namespace.ip(arguments)
    }

    fn make_bridge(&self) -> Result<()> {
        // No snooping: with one and no querier, multicast stops after some minutes.
        self.ip(&["link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"])?;
        self.ip(&["link", "add", "keep0", "type", "veth", "peer", "name", "keep1"])?;
        self.ip(&["link", "set", "keep1", "up"])?;
        self.ip(&["link", "set", "keep0", "master", BRIDGE, "up"])?;
        let address = format!("{}/24", self.address());
        self.ip(&["address", "add", &address, "dev", BRIDGE])?;
        self.ip(&["link", "set", BRIDGE, "up"])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::run;

    #[test]
    fn two_labs_with_one_subnet_do_not_meet() {
        let first = Lab::new("twin", 9).unwrap();
        let mut second = Lab::new("twin", 9).unwrap();
        assert_eq!(second.add_tap().unwrap(), "tap0");
        assert_eq!(second.add_tap().unwrap(), "tap1");
        let links = first.ip(&["-brief", "link"]).unwrap();
        assert!(links.contains(BRIDGE) && !links.contains("tap0"), "{links}");
        let seen = run(second.command("ls").arg("/sys/class/net")).unwrap();
        assert!(seen.contains("tap1"), "/sys is not the lab's: {seen}");
    }

    #[test]
    fn a_lab_leaves_neither_process_nor_directory() {
        let lab = Lab::new("gone", 9).unwrap();
        let (pid, dir) = (lab.holder_pid(), lab.dir().to_owned());
        let program = lab.spawn("sleeper", lab.command("sleep").arg("600")).unwrap();
        let inside = program.pid();
        drop(program);
        drop(lab);
        assert!(!dir.exists());
        for pid in [pid, inside] {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
        }
    }
}
