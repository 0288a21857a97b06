//! The keys of `[dhcp]`.

use super::{Wrong, wrong};
use crate::config::{Dhcp, DhcpProxy, DhcpServer, RouterSolicitations, Subnet};
use metalcast_netboot::dhcp::server::{MAX_DNS, MAX_RANGE, MAX_RELAYED};
use serde::{Deserialize, Serialize};
use std::{net::Ipv4Addr, time::Duration};

/// Shortest lease: iPXE and the agent must outlive it.
const MIN_LEASE_SECONDS: u32 = 60;

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Server,
    Proxy,
    Off,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DhcpKeys {
    mode: Mode,
    prefix_len: u8,
    range_start: Option<Ipv4Addr>,
    range_end: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    dns: Vec<Ipv4Addr>,
    lease_seconds: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    relayed: Vec<RelayedKeys>,
}

/// A subnet that DHCP relays speak for.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RelayedKeys {
    #[serde(default = "prefix_len")]
    prefix_len: u8,
    range_start: Ipv4Addr,
    range_end: Ipv4Addr,
    router: Ipv4Addr,
}

impl Default for DhcpKeys {
    fn default() -> Self {
        Self {
            mode: Mode::Server,
            prefix_len: prefix_len(),
            range_start: None,
            range_end: None,
            router: None,
            dns: Vec::new(),
            lease_seconds: 3600,
            relayed: Vec::new(),
        }
    }
}

fn prefix_len() -> u8 {
    24
}

impl DhcpKeys {
    pub(super) fn check(self, address: Ipv4Addr, answer: Option<bool>) -> Result<Dhcp, Wrong> {
        match self.mode {
            Mode::Off if answer == Some(true) => wrong(
                "boot.answer_router_solicitations",
                "needs dhcp.mode = \"server\" or \"proxy\": only machines that we gave a boot script are answered",
            ),
            Mode::Off => Ok(Dhcp::Off),
            Mode::Proxy => self.check_proxy(answer),
            Mode::Server => self.check_server(address, answer),
        }
    }

    fn check_proxy(self, answer: Option<bool>) -> Result<Dhcp, Wrong> {
        for (key, is_there) in [
            ("dhcp.range_start", self.range_start.is_some()),
            ("dhcp.range_end", self.range_end.is_some()),
            ("dhcp.router", self.router.is_some()),
            ("dhcp.dns", !self.dns.is_empty()),
            ("dhcp.relayed", !self.relayed.is_empty()),
        ] {
            if is_there {
                return wrong(
                    key,
                    "a proxy gives no addresses; leave it to the network's DHCP server",
                );
            }
        }
        Ok(Dhcp::Proxy(DhcpProxy { router_solicitations: router_solicitations(answer) }))
    }

    fn check_server(self, address: Ipv4Addr, answer: Option<bool>) -> Result<Dhcp, Wrong> {
        let (Some(range_start), Some(range_end)) = (self.range_start, self.range_end) else {
            return wrong(
                "dhcp.range_start",
                "range_start and range_end are needed; beside another DHCP server write mode = \"proxy\"",
            );
        };
        let Self { prefix_len, router, dns, .. } = self;
        let local = Subnet { prefix_len, range_start, range_end, router };
        local.check("dhcp", address)?;
        if (range_start..=range_end).contains(&address) {
            return wrong(
                "dhcp.range_start",
                format!(
                    "the range {range_start} to {range_end} holds our own address {address}; leave it out"
                ),
            );
        }
        let relayed = check_relayed(&local, self.relayed)?;
        if dns.len() > MAX_DNS {
            return wrong("dhcp.dns", format!("at most {MAX_DNS} name servers"));
        }
        if self.lease_seconds < MIN_LEASE_SECONDS {
            return wrong("dhcp.lease_seconds", format!("must be at least {MIN_LEASE_SECONDS}"));
        }
        Ok(Dhcp::Server(DhcpServer {
            local,
            relayed,
            dns,
            lease: Duration::from_secs(u64::from(self.lease_seconds)),
            router_solicitations: router_solicitations(answer),
        }))
    }
}

/// The ranges are told apart by the subnets that they lie in, and bounded together.
fn check_relayed(local: &Subnet, keys: Vec<RelayedKeys>) -> Result<Vec<Subnet>, Wrong> {
    if keys.len() > MAX_RELAYED {
        return wrong("dhcp.relayed", format!("at most {MAX_RELAYED} relayed subnets"));
    }
    let mut addresses = local.len();
    let mut relayed: Vec<Subnet> = Vec::new();
    for (position, keys) in keys.into_iter().enumerate() {
        let RelayedKeys { prefix_len, range_start, range_end, router } = keys;
        let subnet = Subnet { prefix_len, range_start, range_end, router: Some(router) };
        let key = format!("dhcp.relayed[{position}]");
        subnet.check(&key, range_start)?;
        if let Some(other) = relayed.iter().chain([local]).find(|other| other.overlaps(&subnet)) {
            return wrong(
                &key,
                format!("the subnet of {range_start} overlaps that of {}", other.range_start),
            );
        }
        addresses += subnet.len();
        if addresses > MAX_RANGE {
            return wrong(&key, format!("at most {MAX_RANGE} addresses in all ranges together"));
        }
        relayed.push(subnet);
    }
    Ok(relayed)
}

fn router_solicitations(answer: Option<bool>) -> RouterSolicitations {
    match answer {
        Some(true) | None => RouterSolicitations::Answered,
        Some(false) => RouterSolicitations::Ignored,
    }
}

impl Subnet {
    /// Checks that all of it lies in the subnet of `within`.
    fn check(&self, key: &str, within: Ipv4Addr) -> Result<(), Wrong> {
        let Self { prefix_len, range_start: start, range_end: end, router } = self;
        if !(8..=30).contains(prefix_len) {
            return wrong(&format!("{key}.prefix_len"), "must be 8 to 30");
        }
        for (name, address) in [("range_start", start), ("range_end", end)] {
            self.check_host(&format!("{key}.{name}"), *address, within)?;
        }
        if end < start {
            let key = format!("{key}.range_end");
            return wrong(&key, format!("{end} is below range_start {start}"));
        }
        if let Some(router) = router {
            let key = format!("{key}.router");
            self.check_host(&key, *router, within)?;
            if (start..=end).contains(&router) {
                return wrong(&key, format!("{router} lies in the range; leave it out"));
            }
        }
        if self.len() > MAX_RANGE {
            let key = format!("{key}.range_end");
            return wrong(&key, format!("at most {MAX_RANGE} addresses in a range"));
        }
        Ok(())
    }

    fn check_host(&self, key: &str, candidate: Ipv4Addr, within: Ipv4Addr) -> Result<(), Wrong> {
        let (hosts, prefix_len) = (self.hosts(), self.prefix_len);
        let network = within.to_bits() & !hosts;
        let host = candidate.to_bits() & hosts;
        if candidate.to_bits() & !hosts != network {
            let network = Ipv4Addr::from_bits(network);
            return wrong(
                key,
                format!("{candidate} is not in {network}/{prefix_len}, the subnet of {within}"),
            );
        }
        if host == 0 || host == hosts {
            return wrong(key, format!("{candidate} is the subnet's own or its broadcast address"));
        }
        Ok(())
    }

    /// The bits that differ between its hosts.
    fn hosts(&self) -> u32 {
        u32::MAX >> self.prefix_len
    }

    /// Addresses in its range, which does not end before it begins.
    fn len(&self) -> u32 {
        (self.range_end.to_bits() - self.range_start.to_bits()).saturating_add(1)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let shared = !(self.hosts() | other.hosts());
        (self.range_start.to_bits() ^ other.range_start.to_bits()) & shared == 0
    }
}

impl RelayedKeys {
    /// `None` for a subnet without a router, which no file can say.
    fn of(subnet: &Subnet) -> Option<Self> {
        let Subnet { prefix_len, range_start, range_end, router } = *subnet;
        Some(Self { prefix_len, range_start, range_end, router: router? })
    }
}

impl From<&Dhcp> for DhcpKeys {
    fn from(dhcp: &Dhcp) -> Self {
        match dhcp.clone() {
            Dhcp::Off => Self { mode: Mode::Off, ..Self::default() },
            Dhcp::Proxy(_) => Self { mode: Mode::Proxy, ..Self::default() },
            Dhcp::Server(DhcpServer { local, relayed, dns, lease, router_solicitations: _ }) => {
                Self {
                    mode: Mode::Server,
                    prefix_len: local.prefix_len,
                    range_start: Some(local.range_start),
                    range_end: Some(local.range_end),
                    router: local.router,
                    dns,
                    lease_seconds: u32::try_from(lease.as_secs()).unwrap_or(u32::MAX),
                    relayed: relayed.iter().filter_map(RelayedKeys::of).collect(),
                }
            }
        }
    }
}
