//! The boot services of one subnet: DHCP, TFTP and HTTP, and a word about IPv6 routers.
//!
//! What is answered is decided by `metalcast_netboot`, which does no I/O; here are the sockets,
//! the clock, the files and the lease journal. Nothing in here waits for the store: machines boot
//! by a table in memory, and what happened is noted in a bounded queue that drops what it cannot
//! hold.
//!
//! ```text
//! UDP 67 ── dhcp ── lease journal (fdatasync before the ACK); or a proxy, with UDP 4011
//!            └─ who got a script ─> ndp ── ICMPv6: no router here, go on booting
//! UDP 69 ── tftp ──┐
//! TCP 80 ── http ──┴ boot files, scripts by the boot table, RAM image, reports
//!    └──────── all ── events ──> the node's timeline
//! ```

mod dhcp;
mod events;
mod files;
mod http;
mod journal;
mod link;
mod ndp;
mod neighbour;
mod range;
mod tftp;

pub use link::BootLink;

use crate::{
    config::{Config, RouterSolicitations},
    pki::Pki,
    service::{BootEvent, ReportRefusal, Service},
};
use anyhow::Context;
use files::BootFiles;
use metalcast_netboot::table::BootTable;
use metalcast_shared::boot::{ReportToken, SystemReport};
use std::{io, net::IpAddr, sync::Arc};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// What the boot services ask about nodes and tell of them; [`Service`] answers.
pub trait Nodes: Clone + Send + Sync + 'static {
    /// What a MAC address boots, kept up to date.
    fn boot_table(&self) -> watch::Receiver<Arc<BootTable>>;

    /// Something happened; called from a task of its own, in order.
    fn boot_event(&self, event: BootEvent) -> impl Future<Output = ()> + Send;

    /// A deployed system reports in with an authentic token.
    fn system_report(
        &self,
        token: ReportToken,
        report: SystemReport,
        from: IpAddr,
    ) -> impl Future<Output = Result<(), ReportRefusal>> + Send;
}

impl Nodes for Service {
    fn boot_table(&self) -> watch::Receiver<Arc<BootTable>> {
        Service::boot_table(self)
    }

    async fn boot_event(&self, event: BootEvent) {
        Service::boot_event(self, event).await;
    }

    async fn system_report(
        &self,
        token: ReportToken,
        report: SystemReport,
        from: IpAddr,
    ) -> Result<(), ReportRefusal> {
        Service::system_report(self, token, report, from).await
    }
}

/// The boot services with their sockets bound and their leases read.
pub struct Boot<N> {
    dhcp: Option<dhcp::Driver>,
    ndp: Option<ndp::Driver>,
    tftp: tftp::Driver,
    http: http::Driver<N>,
    recorder: events::Recorder<N>,
}

impl<N: Nodes> Boot<N> {
    /// Binds all sockets. To be called within a tokio runtime.
    ///
    /// # Errors
    /// A port that is taken or forbidden, an address that no interface has, a lease journal that
    /// cannot be read, settings that do not fit into a boot script.
    pub async fn bind(config: &Config, nodes: N, pki: Arc<Pki>) -> anyhow::Result<Self> {
        let (events, recorder) = events::queue(nodes.clone());
        let files = Arc::new(BootFiles::ipxe(&config.boot.ipxe_dir));
        let (scripts, given) = ndp::queue();
        let dhcp = dhcp::Driver::bind(config, events.clone(), scripts).await?;
        let ndp = match config.dhcp.router_solicitations() {
            RouterSolicitations::Answered => {
                ndp::Driver::bind_or_warn(&config.network.interface, given)
            }
            RouterSolicitations::Ignored => None,
        };
        let tftp = tftp::Driver::bind(&config.network, files.clone(), events.clone()).await?;
        let http = http::Driver::bind(config, nodes, pki, files, events).await?;
        Ok(Self { dhcp, ndp, tftp, http, recorder })
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// The first service that cannot go on; the others end with it.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut services = JoinSet::new();
        if let Some(dhcp) = self.dhcp {
            services.spawn(dhcp.run(shutdown.clone()));
        }
        if let Some(ndp) = self.ndp {
            services.spawn(ndp.run(shutdown.clone()));
        }
        services.spawn(self.tftp.run(shutdown.clone()));
        services.spawn(self.http.run(shutdown.clone()));
        // Ends when the other services are gone and with them their ends of the queue.
        services.spawn(self.recorder.run());
        while let Some(ended) = services.join_next().await {
            ended.context("a boot service broke down")??;
        }
        Ok(())
    }
}

/// Puts into words why a socket cannot be bound, and what to look at.
fn bind_error(error: io::Error, what: &str, protocol: Protocol, port: u16) -> anyhow::Error {
    let (option, example) = match protocol {
        Protocol::Udp => ("u", "another DHCP or TFTP server"),
        Protocol::Tcp => ("t", "a web server"),
    };
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{example} on this host? `ss -{option}lpn sport = :{port}`")
        }
        io::ErrorKind::AddrNotAvailable => {
            "does the interface have network.address? `ip address`".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned()
        }
        _ if error.raw_os_error() == Some(NO_SUCH_DEVICE) => {
            "does network.interface exist? `ip link`".to_owned()
        }
        _ => "unexpected".to_owned(),
    };
    anyhow::Error::new(error).context(format!("listening on {what} ({hint})"))
}

/// ENODEV, which `std::io::ErrorKind` has no name for.
const NO_SUCH_DEVICE: i32 = 19;

#[derive(Clone, Copy)]
enum Protocol {
    Udp,
    Tcp,
}

/// The present, in seconds since 1970-01-01 UTC.
fn now_unix() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests;
