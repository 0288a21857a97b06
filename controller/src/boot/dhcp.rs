//! DHCP's sockets: the server of the nodes' networks, or a proxy beside another server.

mod proxy;
mod server;

use super::{
    Protocol, bind_error,
    events::Events,
    files::{BIOS_FILE, X64_FILE},
    ndp::Scripts,
};
use crate::config::{Config, Dhcp};
use metalcast_netboot::dhcp::boot::BootSettings;
use metalcast_shared::id::Mac;
use socket2::{Domain, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// One of the two, with its sockets bound.
pub enum Driver {
    /// We give the addresses.
    Server(Box<server::Driver>),
    /// Another server does.
    Proxy(Box<proxy::Driver>),
}

impl Driver {
    /// Binds the sockets; `None` if DHCP is not ours to do.
    pub async fn bind(
        config: &Config,
        events: Events,
        scripts: Scripts,
    ) -> anyhow::Result<Option<Self>> {
        Ok(match &config.dhcp {
            Dhcp::Off => None,
            Dhcp::Server(dhcp) => {
                let driver = server::Driver::bind(config, dhcp, events, scripts).await?;
                Some(Self::Server(Box::new(driver)))
            }
            Dhcp::Proxy(_) => {
                let driver = proxy::Driver::bind(config, events, scripts)?;
                Some(Self::Proxy(Box::new(driver)))
            }
        })
    }

    /// Serves until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        match self {
            Self::Server(driver) => driver.run(shutdown).await,
            Self::Proxy(driver) => driver.run(shutdown).await,
        }
    }
}

/// A socket of our interface alone. Two such sockets on different interfaces do not disturb each
/// other, and without SO_REUSEADDR a second server on ours is an error instead of a riddle: with
/// it both would hear broadcasts, but only one of them, and not always the same, what is sent to
/// the host's address.
fn socket(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
    UdpSocket::from_std(socket.into())
}

fn socket_error(error: io::Error, interface: &str, port: u16) -> anyhow::Error {
    bind_error(error, &format!("UDP port {port} on {interface} for DHCP"), Protocol::Udp, port)
}

fn boot_settings(config: &Config) -> BootSettings {
    BootSettings {
        http_base: super::http::base_url(&config.network),
        tftp_server: config.network.address,
        bios_file: BIOS_FILE.to_owned(),
        x64_file: X64_FILE.to_owned(),
        arm64_file: None,
    }
}

/// The client's address in a datagram that was not understood otherwise: `chaddr`, 28 bytes in.
fn sender(datagram: &[u8]) -> Option<Mac> {
    Some(Mac(*datagram.get(28..34)?.first_chunk()?))
}
