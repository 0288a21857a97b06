//! The configuration file: TOML, read once at start, checked as a whole.
//!
//! What is written and what is meant are two types: [`mod@file`] mirrors the keys and their defaults,
//! [`Config`] is what the rest of the controller works with and cannot hold contradictions.

mod file;
pub mod ports;
mod projects;
#[cfg(test)]
mod tests;

use metalcast_shared::layout::Layout;
use std::{
    collections::BTreeMap,
    fmt,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the configuration is looked for unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/metalcast/metalcast.toml";

/// Where the API's socket lies unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/metalcast/api.sock";

/// Most bytes of a configuration file: a mistaken path must not fill the memory.
const MAX_BYTES: u64 = 1 << 20;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of the database, the lease journal, the keys and the images.
    pub state_dir: PathBuf,
    /// The operators' interface.
    pub api: Api,
    /// Where nodes reach us.
    pub network: Network,
    /// Our part in DHCP.
    pub dhcp: Dhcp,
    /// Files that nodes boot from.
    pub boot: BootFiles,
    /// How nodes are taken in.
    pub nodes: NodePolicy,
    /// Partition schemes, by distinct names; never empty.
    pub layouts: Vec<Layout>,
    /// What is set for projects, by their names.
    pub projects: BTreeMap<String, Project>,
}

/// What is set for a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Project {
    /// Bytes that it may occupy in the image store; `None` for as many as the disk has.
    pub quota_bytes: Option<u64>,
    /// Directory of what is added to every system that is deployed from its images.
    pub post_install: Option<PathBuf>,
}

/// The operators' interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Path of the Unix socket.
    pub socket: PathBuf,
}

/// Where nodes reach us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The interface that nodes are on.
    pub interface: String,
    /// Our address on it.
    pub address: Ipv4Addr,
    /// TCP port of the boot files and reports.
    pub http_port: u16,
    /// UDP port of TFTP.
    pub tftp_port: u16,
    /// UDP port of the agents' sessions.
    pub quic_port: u16,
}

/// Our part in DHCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dhcp {
    /// None: another server gives addresses and names our boot files.
    Off,
    /// We are the subnet's server.
    Server(DhcpServer),
    /// Another server gives the addresses, we tell what to boot.
    Proxy(DhcpProxy),
}

impl Dhcp {
    /// Without DHCP we do not know who boots from us, and tell nobody anything.
    pub fn router_solicitations(&self) -> RouterSolicitations {
        match self {
            Self::Off => RouterSolicitations::Ignored,
            Self::Server(server) => server.router_solicitations,
            Self::Proxy(proxy) => proxy.router_solicitations,
        }
    }
}

/// What a proxy does beside telling what to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpProxy {
    /// What machines hear that ask for an IPv6 router while they boot from us.
    pub router_solicitations: RouterSolicitations,
}

/// The addresses that we hand out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpServer {
    /// The subnet of our own address.
    pub local: Subnet,
    /// Subnets that DHCP relays speak for; none overlaps another.
    pub relayed: Vec<Subnet>,
    /// Name servers of the nodes.
    pub dns: Vec<Ipv4Addr>,
    /// How long an address is lent.
    pub lease: Duration,
    /// What machines hear that ask for an IPv6 router while they boot from us.
    pub router_solicitations: RouterSolicitations,
}

/// A subnet: the one that its range lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Length of its prefix in bits.
    pub prefix_len: u8,
    /// First address to hand out.
    pub range_start: Ipv4Addr,
    /// Last address to hand out; not below the first.
    pub range_end: Ipv4Addr,
    /// Default router of the nodes. Relayed ones have one, or they could not reach us.
    pub router: Option<Ipv4Addr>,
}

/// What machines hear that ask for an IPv6 router while they boot from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterSolicitations {
    /// That there is none. iPXE configures IPv6 beside DHCP and waits 16 s for an answer before it
    /// fetches its boot script; this ends the wait. Only machines that our DHCP gave a
    /// script within the last minute are answered, each alone, and get no IPv6 address by it.
    Answered,
    /// Nothing: the network has an IPv6 router of its own, or is to see no such packets of ours.
    Ignored,
}

/// Files that nodes boot from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFiles {
    /// Directory with `vmlinuz` and `initramfs`.
    pub ram_image: PathBuf,
    /// Directory with iPXE's boot files.
    pub ipxe_dir: PathBuf,
    /// Arguments for the RAM image's kernel.
    pub kernel_args: String,
}

/// How nodes are taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePolicy {
    /// Names of new nodes are this and a number.
    pub name_prefix: String,
    /// Who approves new nodes.
    pub approve: Approve,
    /// Layout of nodes for which none was chosen; one of [`Config::layouts`].
    pub default_layout: String,
    /// When a known node may enrol again.
    pub reenrol: Reenrol,
}

/// Who approves new nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Approve {
    /// An operator, one by one.
    Manual,
    /// Every machine that netboots is taken in: for closed networks only.
    Auto,
}

/// When a known node may enrol again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reenrol {
    /// After a netboot that was expected of it.
    Expected,
    /// After any netboot.
    Any,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read; give its path with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("{}: it has more than {MAX_BYTES} bytes and is hardly a configuration", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, key and what was expected.
        message: String,
    },
    /// A value that cannot be, or values that contradict each other.
    #[error("{}: {key}: {what}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, such as `dhcp.range_start`.
        key: String,
        /// What is wrong and what to write instead.
        what: String,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Names the file, the key and what to do.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
            return Err(ConfigError::TooLong { path: path.to_owned() });
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(read)?)
    }

    /// Checks the text of a file; `path` is for the messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: file::File = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        file.check().map_err(|file::Wrong { key, what }| ConfigError::Value {
            path: path.to_owned(),
            key,
            what,
        })
    }

    /// Where deployed systems report, `http://10.77.0.1:80/report`.
    pub fn report_url(&self) -> String {
        format!("http://{}:{}/report", self.network.address, self.network.http_port)
    }

    /// The database's file.
    pub fn database(&self) -> PathBuf {
        self.state_dir.join("metalcast.db")
    }

    /// The lease journal's file.
    pub fn lease_journal(&self) -> PathBuf {
        self.state_dir.join("leases.journal")
    }

    /// Directory of keys and certificates.
    pub fn pki_dir(&self) -> PathBuf {
        self.state_dir.join("pki")
    }

    /// Directory of images.
    pub fn images_dir(&self) -> PathBuf {
        self.state_dir.join("images")
    }

    /// Directory of what projects add, for as long as tasks need it.
    pub fn post_install_dir(&self) -> PathBuf {
        self.state_dir.join("post-install")
    }

    /// Bytes that projects may occupy in the image store; those that are not named may fill the disk.
    pub fn quotas(&self) -> BTreeMap<String, u64> {
        let quota =
            |(name, project): (&String, &Project)| Some((name.clone(), project.quota_bytes?));
        self.projects.iter().filter_map(quota).collect()
    }
}

/// The effective configuration as TOML, defaults filled in.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = toml::to_string(&file::File::from(self)).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}
