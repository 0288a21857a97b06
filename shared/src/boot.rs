//! What the controller puts beside the RAM image at each netboot, and the report of a deployed
//! system.

use crate::id::{BootId, Mac, TaskId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Path of the JSON form of [`BootConfig`] in the per-boot cpio segment.
pub const BOOT_CONFIG_PATH: &str = "metalcast/boot.json";

/// All an agent must know before it can speak to its controller. It is fetched over plain HTTP, so
/// it holds nothing that would let a stranger reach an image: see the enrolment token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootConfig {
    /// This boot.
    pub boot: BootId,
    /// Address of the interface that asked.
    pub mac: Mac,
    /// Where the controller listens for QUIC, in order of preference.
    pub controllers: Vec<SocketAddr>,
    /// The controller's certificate authority, PEM.
    pub ca_pem: String,
    /// The controller's time when this was written, seconds since 1970-01-01 UTC.
    pub unix_time: i64,
    /// Sealed enrolment token, base16; opaque to the agent.
    pub token: String,
}

/// What a deployed system needs to report in once; written into the slot with file mode 0600.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportConfig {
    /// Where to POST the [`SystemReport`], `http://host:port/report`.
    pub url: String,
    /// Good for one report of this one deployment.
    pub token: String,
}

/// What a deployed system says of itself at its first start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemReport {
    /// The token it was given.
    pub token: String,
    /// Its host name.
    pub hostname: String,
    /// Its `/etc/machine-id`.
    pub machine_id: String,
    /// Its kernel release.
    pub kernel: String,
    /// Device of its root filesystem, such as `/dev/vda5`.
    pub root: String,
    /// Seconds since its kernel started.
    pub uptime_seconds: u64,
}

/// Sealed into [`BootConfig::token`]: only the controller reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentToken {
    /// The boot it was made for.
    pub boot: BootId,
    /// The address that asked for it.
    pub mac: Mac,
    /// When it ends, seconds since 1970-01-01 UTC.
    pub expires_unix: i64,
    /// Whether it is for a machine that runs its own system, which did not netboot.
    pub golden: bool,
}

/// Sealed into [`ReportConfig::token`]: only the controller reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportToken {
    /// The deployment it reports on.
    pub task: TaskId,
}
