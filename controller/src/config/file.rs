//! The keys of the file with their defaults, and the checks that turn them into a [`Config`].

mod dhcp;

use super::{
    Api, Approve, BootFiles, Config, DEFAULT_SOCKET, Dhcp, Network, NodePolicy, Reenrol,
    RouterSolicitations,
    projects::{self, ProjectKeys},
};
use dhcp::DhcpKeys;
use metalcast_formats::layout::compute;
use metalcast_shared::layout::Layout;
use serde::{Deserialize, Serialize};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Longest path that a Unix socket's address has room for (`sun_path` of unix(7), minus the NUL).
const MAX_SOCKET_PATH: usize = 107;

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
        Self {
            state_dir: config.state_dir.clone(),
            api: ApiKeys { socket: config.api.socket.clone() },
            network: NetworkKeys { interface, address, http_port, tftp_port, quic_port },
            dhcp: DhcpKeys::from(&config.dhcp),
            boot: BootKeys { ram_image, ipxe_dir, kernel_args, answer_router_solicitations },
            nodes: NodeKeys { name_prefix, approve, default_layout, reenrol },
            layouts: config.layouts.clone(),
            projects: projects::keys(&config.projects),
        }
    }
}
