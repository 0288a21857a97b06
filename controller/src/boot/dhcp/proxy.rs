//! The proxy's sockets around `metalcast_netboot::dhcp::proxy`: UDP 67 and 4011.
//!
//! A DHCP server on this very host has port 67 already. Then only 4011 is served, which works as
//! long as that server's offers send machines there; what it must say is logged.

use super::{SERVER_PORT, sender, socket, socket_error};
use crate::{
    boot::{events::Events, ndp::Scripts},
    config::Config,
    service::BootEventKind,
};
use anyhow::Context;
use metalcast_netboot::dhcp::{
    boot::BootFile,
    proxy::{Ignored, Outcome, Port, Proxy, Reply, ReplyKind},
    wire,
};
use std::{io, net::SocketAddr};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

const PXE_PORT: u16 = 4011;

/// The proxy with its sockets bound.
pub struct Driver {
    /// Absent if a server on this host has the port.
    dhcp: Option<UdpSocket>,
    pxe: UdpSocket,
    proxy: Proxy,
    events: Events,
    scripts: Scripts,
}

impl Driver {
    /// Binds UDP 4011 on the interface, and 67 unless it is taken.
    pub fn bind(config: &Config, events: Events, scripts: Scripts) -> anyhow::Result<Self> {
        let interface = &config.network.interface;
        let proxy = Proxy::new(config.network.address, super::boot_settings(config))
            .context("setting up the DHCP proxy")?;
        let pxe = socket(interface, PXE_PORT)
            .map_err(|error| socket_error(error, interface, PXE_PORT))?;
        let dhcp = match socket(interface, SERVER_PORT) {
            Ok(socket) => Some(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let address = config.network.address;
                tracing::warn!(
                    interface,
                    "UDP port {SERVER_PORT} is taken: a DHCP server runs on this host, so the \
                     proxy serves port {PXE_PORT} only. That server must answer machines whose \
                     option 60 begins with PXEClient with option 60 = \"PXEClient\", with \
                     {address} as its own address, and with no boot file; otherwise they never \
                     ask here. See docs/beside-your-dhcp.md, \"On the same host\""
                );
                None
            }
            Err(error) => return Err(socket_error(error, interface, SERVER_PORT)),
        };
        Ok(Self { dhcp, pxe, proxy, events, scripts })
    }

    /// Serves until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        // One byte more than is valid, so that what is too long is seen to be.
        let (mut dhcp_buffer, mut pxe_buffer) = ([0; wire::MAX_LEN + 1], [0; wire::MAX_LEN + 1]);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                received = receive(self.dhcp.as_ref(), &mut dhcp_buffer) => {
                    self.serve(Port::Dhcp, received, &dhcp_buffer).await;
                }
                received = receive(Some(&self.pxe), &mut pxe_buffer) => {
                    self.serve(Port::Pxe, received, &pxe_buffer).await;
                }
            }
        }
    }

    async fn serve(&self, port: Port, received: io::Result<(usize, SocketAddr)>, buffer: &[u8]) {
        let (bytes, from) = match received {
            Ok((bytes, SocketAddr::V4(from))) => (bytes, from),
            Ok((_, SocketAddr::V6(_))) => return,
            // An ICMP error about an earlier reply, or an interface that went down.
            Err(error) => return tracing::debug!("DHCP proxy's socket: {error}"),
        };
        let datagram = &buffer[..bytes];
        match self.proxy.handle(port, from, datagram) {
            Outcome::Reply(reply) => self.send(port, &reply).await,
            Outcome::Ignored(reason @ Ignored::NoBootFile(_)) => {
                let mac = sender(datagram).map(tracing::field::display);
                tracing::debug!(mac, "DHCP proxy is silent: {reason}");
            }
            Outcome::Ignored(reason) => {
                let mac = sender(datagram).map(tracing::field::display);
                tracing::trace!(mac, "DHCP proxy is silent: {reason}");
            }
        }
    }

    async fn send(&self, port: Port, reply: &Reply) {
        let socket = match port {
            Port::Dhcp => self.dhcp.as_ref().unwrap_or(&self.pxe),
            Port::Pxe => &self.pxe,
        };
        let (mac, destination, boot) = (reply.mac, reply.destination, &reply.boot);
        if let Err(error) = socket.send_to(&reply.bytes, destination).await {
            // The client repeats its request; an interface that is down comes back.
            return tracing::warn!(%mac, %destination, "DHCP proxy's reply not sent: {error}");
        }
        match reply.kind {
            ReplyKind::Offer => {
                tracing::info!(%mac, ?boot, "DHCP proxy offer");
                self.events.note(mac, BootEventKind::DhcpOffer);
            }
            ReplyKind::Ack(ip) => {
                tracing::info!(%mac, %ip, ?boot, "DHCP proxy ACK");
                self.events.note(mac, BootEventKind::DhcpAck { ip });
            }
        }
        if let BootFile::Script { .. } = boot {
            self.scripts.given(mac);
        }
    }
}

/// Waits for ever without a socket.
async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}
