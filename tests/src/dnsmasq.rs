//! A DHCP server that is not ours: dnsmasq on a lab's network, on the controller's host or on one of its own.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::{BRIDGE, Lab};
use crate::namespace::Namespace;
use crate::process::{self, Background};

/// The interface of a host of its own.
const OWN: &str = "ext0";

/// The last byte of the address of a host of its own.
const OWN_ADDRESS: u8 = 2;

/// A running dnsmasq. It gives out the lab's addresses from .100 to .199.
#[derive(Debug)]
pub struct Dnsmasq {
    server: Background,
    // After the server, which runs on it.
    _host: Option<Namespace>,
}

impl Dnsmasq {
    /// On the bridge, that is on the controller's own host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn on_our_host(lab: &Lab, options: &[&str]) -> Result<Self> {
        let mut command = lab.command("dnsmasq");
        configure(&mut command, lab, BRIDGE, options);
        Ok(Self { server: lab.spawn("dnsmasq", &mut command)?, _host: None })
    }

    /// On another host of the lab's network, with the address .2.
    ///
    /// # Errors
    /// When the host cannot be made or the program not be started.
    pub fn on_another_host(lab: &Lab, options: &[&str]) -> Result<Self> {
        let host = Namespace::new("dhcp-host", lab.dir())?;
        let pid = host.pid().to_string();
        let peer = ["peer", "name", OWN, "netns", &pid];
        lab.ip(&[&["link", "add", "dhcp0", "type", "veth"], &peer[..]].concat())?;
        lab.ip(&["link", "set", "dhcp0", "master", BRIDGE, "up"])?;
        let address = format!("{}/24", lab.host(OWN_ADDRESS));
        host.ip(&["address", "add", &address, "dev", OWN])?;
        host.ip(&["link", "set", OWN, "up"])?;
        let mut command = host.command("dnsmasq");
        configure(&mut command, lab, OWN, options);
        Ok(Self { server: lab.spawn("dnsmasq", &mut command)?, _host: Some(host) })
    }

    /// Waits until a line of its log holds all the words, and returns the line.
    ///
    /// # Errors
    /// With the log when there is none within `timeout`.
    pub fn wait_for(&self, words: &[&str], timeout: Duration) -> Result<String> {
        wait_for_line(self.server.log_path(), words, timeout)
    }
}

fn configure(command: &mut Command, lab: &Lab, interface: &str, options: &[&str]) {
    // Changing the user would clear the parent-death signal.
    command.args(["--user=root", "--keep-in-foreground", "--log-facility=-"]);
    command.args(["--port=0", "--conf-file=/dev/null", "--no-ping"]);
    command.arg(format!("--dhcp-leasefile={}", lab.dir().join("dnsmasq.leases").display()));
    command.args(["--bind-interfaces", "--pid-file=", &format!("--interface={interface}")]);
    command.arg(format!("--dhcp-range={},{},1h", lab.host(100), lab.host(199))).args(options);
}

/// Waits until a line of a program's log holds all the words, and returns the line.
///
/// # Errors
/// With the log when there is none within `timeout`.
pub fn wait_for_line(log: &Path, words: &[&str], timeout: Duration) -> Result<String> {
    let deadline = Instant::now() + timeout;
    loop {
        let text = std::fs::read_to_string(log).context("reading a log")?;
        if let Some(line) = text.lines().find(|line| words.iter().all(|word| line.contains(word))) {
            return Ok(line.to_owned());
        }
        ensure!(Instant::now() < deadline, "no {words:?} within {timeout:?}:\n{text}");
        process::pause()?;
    }
}
