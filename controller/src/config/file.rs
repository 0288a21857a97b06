//! The keys of the file with their defaults, and the checks that turn them into a [`Config`].

use super::{
    Api, Approve, BootFiles, Config, DEFAULT_SOCKET, Dhcp, DhcpProxy, DhcpServer, Network,
    NodePolicy, Reenrol, RouterSolicitations, Subnet,
    projects::{self, ProjectKeys},
};
use metalcast_formats::layout::compute;
use metalcast_netboot::dhcp::server::{MAX_DNS, MAX_RANGE, MAX_RELAYED};
use metalcast_shared::layout::Layout;
use serde::{Deserialize, Serialize};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest path that a Unix socket's address has room for (`sun_path` of unix(7), minus the NUL).
const MAX_SOCKET_PATH: usize = 107;

/// Shortest lease: iPXE and the agent must outlive it.
const MIN_LEASE_SECONDS: u32 = 60;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default = "state_dir")]
    state_dir: PathBuf,
    #[serde(default)]
    api: ApiKeys,
    network: NetworkKeys,
    #[serde(default)]
    dhcp: DhcpKeys,
    #[serde(default)]
    boot: BootKeys,
    #[serde(default)]
    nodes: NodeKeys,
    #[serde(default = "layouts")]
    layouts: Vec<Layout>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    projects: Vec<ProjectKeys>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ApiKeys {
    socket: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkKeys {
    interface: String,
    address: Ipv4Addr,
    #[serde(default = "http_port")]
    http_port: u16,
    #[serde(default = "tftp_port")]
    tftp_port: u16,
    #[serde(default = "quic_port")]
    quic_port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Server,
    Proxy,
    Off,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DhcpKeys {
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BootKeys {
    ram_image: PathBuf,
    ipxe_dir: PathBuf,
    kernel_args: String,
    /// Left out, it is true unless dhcp.mode is off: then we do not know who boots from us.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_router_solicitations: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NodeKeys {
    name_prefix: String,
    approve: Approve,
    default_layout: String,
    reenrol: Reenrol,
}

fn state_dir() -> PathBuf {
    "/var/lib/metalcast".into()
}

fn http_port() -> u16 {
    80
}

fn tftp_port() -> u16 {
    69
}

fn quic_port() -> u16 {
    7777
}

fn prefix_len() -> u8 {
    24
}

/// CentMesh's own scheme: 21 slots of 20 GB.
fn layouts() -> Vec<Layout> {
    vec![Layout {
        name: "centmesh".into(),
        boot_mib: 512,
        swap_mib: 8192,
        reserve_mib: 1024,
        slots: 21,
        slot_mib: 19073,
    }]
}

impl Default for ApiKeys {
    fn default() -> Self {
        Self { socket: DEFAULT_SOCKET.into() }
    }
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

impl Default for BootKeys {
    fn default() -> Self {
        Self {
            ram_image: "/usr/share/metalcast/ram-image".into(),
            ipxe_dir: "/usr/lib/ipxe".into(),
            kernel_args: "console=ttyS0,115200n8".into(),
            answer_router_solicitations: None,
        }
    }
}

impl Default for NodeKeys {
    fn default() -> Self {
        Self {
            name_prefix: "node".into(),
            approve: Approve::Manual,
            default_layout: "centmesh".into(),
            reenrol: Reenrol::Expected,
        }
    }
}

/// A key and what is wrong with it.
pub(super) struct Wrong {
    pub(super) key: String,
    pub(super) what: String,
}

pub(super) fn wrong<T>(key: &str, what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { key: key.to_owned(), what: what.into() })
}

impl File {
    pub(super) fn check(self) -> Result<Config, Wrong> {
        absolute("state_dir", &self.state_dir)?;
        absolute("api.socket", &self.api.socket)?;
        if self.api.socket.as_os_str().len() > MAX_SOCKET_PATH {
            return wrong(
                "api.socket",
                format!(
                    "longer than the {MAX_SOCKET_PATH} bytes that a socket's path may have; choose a shorter one"
                ),
            );
        }
        let network = self.network.check()?;
        let dhcp = self.dhcp.check(network.address, self.boot.answer_router_solicitations)?;
        absolute("boot.ram_image", &self.boot.ram_image)?;
        absolute("boot.ipxe_dir", &self.boot.ipxe_dir)?;
        if self.boot.kernel_args.chars().any(char::is_control) {
            return wrong("boot.kernel_args", "must be one line without control characters");
        }
        check_layouts(&self.layouts)?;
        let nodes = self.nodes.check(&self.layouts)?;
        let BootKeys { ram_image, ipxe_dir, kernel_args, answer_router_solicitations: _ } =
            self.boot;
        Ok(Config {
            state_dir: self.state_dir,
            api: Api { socket: self.api.socket },
            network,
            dhcp,
            boot: BootFiles { ram_image, ipxe_dir, kernel_args },
            nodes,
            layouts: self.layouts,
            projects: projects::check(self.projects)?,
        })
    }
}

pub(super) fn absolute(key: &str, path: &Path) -> Result<(), Wrong> {
    if path.is_absolute() { Ok(()) } else { wrong(key, "must be an absolute path") }
}

impl NetworkKeys {
    fn check(self) -> Result<Network, Wrong> {
        let Self { interface, address, http_port, tftp_port, quic_port } = self;
        // IFNAMSIZ is 16 with the NUL (netdevice(7)).
        if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ' ']) {
            return wrong("network.interface", "must be the name of an interface, such as eth1");
        }
        if address.is_unspecified() || address.is_broadcast() || address.is_multicast() {
            return wrong(
                "network.address",
                format!("{address} is not an address of one host; write ours on {interface}"),
            );
        }
        for (key, port) in [
            ("network.http_port", http_port),
            ("network.tftp_port", tftp_port),
            ("network.quic_port", quic_port),
        ] {
            if port == 0 {
                return wrong(key, "must be 1 to 65535");
            }
        }
        if tftp_port == quic_port {
            return wrong("network.quic_port", "is the same UDP port as tftp_port; choose another");
        }
        Ok(Network { interface, address, http_port, tftp_port, quic_port })
    }
}

impl DhcpKeys {
    fn check(self, address: Ipv4Addr, answer: Option<bool>) -> Result<Dhcp, Wrong> {
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

impl NodeKeys {
    fn check(self, layouts: &[Layout]) -> Result<NodePolicy, Wrong> {
        let Self { name_prefix, approve, default_layout, reenrol } = self;
        if name_prefix.len() > 40 || !crate::service::is_host_name(&format!("{name_prefix}1")) {
            return wrong(
                "nodes.name_prefix",
                "must be 1 to 40 of a-z, 0-9 and '-', starting with a letter: nodes are named after it",
            );
        }
        if !layouts.iter().any(|layout| layout.name == default_layout) {
            let names: Vec<&str> = layouts.iter().map(|layout| layout.name.as_str()).collect();
            return wrong(
                "nodes.default_layout",
                format!("no layout is called {default_layout}; there is {}", names.join(", ")),
            );
        }
        Ok(NodePolicy { name_prefix, approve, default_layout, reenrol })
    }
}

fn check_layouts(layouts: &[Layout]) -> Result<(), Wrong> {
    if layouts.is_empty() {
        return wrong("layouts", "at least one is needed; leave the key out for centmesh");
    }
    for (position, layout) in layouts.iter().enumerate() {
        let key = |field: &str| format!("layouts[{position}].{field}");
        if !crate::service::is_host_name(&layout.name) {
            return wrong(&key("name"), "must be 1 to 63 of a-z, 0-9 and '-'");
        }
        if layouts[..position].iter().any(|other| other.name == layout.name) {
            return wrong(&key("name"), format!("{} is there twice", layout.name));
        }
        if let Err(error) = compute(layout, u64::MAX, 512) {
            return wrong(&format!("layouts[{position}]"), error.to_string());
        }
    }
    Ok(())
}

impl RelayedKeys {
    /// `None` for a subnet without a router, which no file can say.
    fn of(subnet: &Subnet) -> Option<Self> {
        let Subnet { prefix_len, range_start, range_end, router } = *subnet;
        Some(Self { prefix_len, range_start, range_end, router: router? })
    }
}

impl From<&Config> for File {
    fn from(config: &Config) -> Self {
        let Network { interface, address, http_port, tftp_port, quic_port } =
            config.network.clone();
        let NodePolicy { name_prefix, approve, default_layout, reenrol } = config.nodes.clone();
        let BootFiles { ram_image, ipxe_dir, kernel_args } = config.boot.clone();
        let answer_router_solicitations = match &config.dhcp {
            Dhcp::Off => None,
            Dhcp::Server(_) | Dhcp::Proxy(_) => {
                Some(config.dhcp.router_solicitations() == RouterSolicitations::Answered)
            }
        };
        let dhcp = match config.dhcp.clone() {
            Dhcp::Off => DhcpKeys { mode: Mode::Off, ..DhcpKeys::default() },
            Dhcp::Proxy(_) => DhcpKeys { mode: Mode::Proxy, ..DhcpKeys::default() },
            Dhcp::Server(DhcpServer { local, relayed, dns, lease, router_solicitations: _ }) => {
                DhcpKeys {
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
        };
        Self {
            state_dir: config.state_dir.clone(),
            api: ApiKeys { socket: config.api.socket.clone() },
            network: NetworkKeys { interface, address, http_port, tftp_port, quic_port },
            dhcp,
            boot: BootKeys { ram_image, ipxe_dir, kernel_args, answer_router_solicitations },
            nodes: NodeKeys { name_prefix, approve, default_layout, reenrol },
            layouts: config.layouts.clone(),
            projects: projects::keys(&config.projects),
        }
    }
}
