//! Which ports a configuration has the controller open.

use super::{Config, Dhcp};
use serde::Serialize;
use std::{fmt, net::Ipv4Addr};

/// Port of DHCP servers (RFC 2131, section 4.1).
const DHCP: u16 = 67;

/// Port of proxyDHCP (PXE specification 2.1, section 2.2.3).
const PXE: u16 = 4011;

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Of which protocol.
    pub protocol: Protocol,
    /// Where it is open.
    pub at: At,
    /// What for.
    pub purpose: &'static str,
    /// Whether the controller starts without it.
    pub optional: bool,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// Where a port is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// On one of our addresses.
    Address(Ipv4Addr),
    /// On an interface, whatever the address: machines without one ask.
    Interface(String),
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

impl Config {
    /// The ports that the controller opens.
    pub fn ports(&self) -> Vec<Port> {
        let network = &self.network;
        let dhcp = |number, purpose, optional| Port {
            number,
            protocol: Protocol::Udp,
            at: At::Interface(network.interface.clone()),
            purpose,
            optional,
        };
        let mut ports = match &self.dhcp {
            Dhcp::Off => Vec::new(),
            Dhcp::Server(_) => vec![dhcp(DHCP, "DHCP: addresses and boot files", false)],
            Dhcp::Proxy(_) => vec![
                dhcp(DHCP, "proxyDHCP: boot files beside another DHCP server", true),
                dhcp(PXE, "proxyDHCP: boot files, when they are asked for again", false),
            ],
        };
        for (number, protocol, purpose) in [
            (network.tftp_port, Protocol::Udp, "TFTP: iPXE for firmware that is not iPXE"),
            (network.http_port, Protocol::Tcp, "HTTP: boot scripts, RAM image, reports"),
            (network.quic_port, Protocol::Udp, "QUIC: agents"),
        ] {
            let at = At::Address(network.address);
            ports.push(Port { number, protocol, at, purpose, optional: false });
        }
        ports
    }
}
