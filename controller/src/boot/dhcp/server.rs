//! The DHCP server's socket and journal around `metalcast_netboot::dhcp::server`.
//!
//! **Invariant:** an ACK is sent after its lease is on the disk, and not at all if it could not be
//! written. Requests that came together are written together, so a rack that powers on at once
//! costs a few flushes.

use super::{CLIENT_PORT, SERVER_PORT, sender, socket, socket_error};
use crate::{
    boot::{events::Events, journal::Journal, ndp::Scripts, now_unix},
    config::{Config, DhcpServer, Subnet},
    service::BootEventKind,
};
use anyhow::Context;
use metalcast_netboot::dhcp::{
    boot::BootFile,
    lease::{Holder, LeaseRecord},
    server::{self, Destination, Ignored, Outcome, Reply, ReplyKind, Server},
    wire,
};
use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddrV4},
};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// Requests written to the journal together.
const MAX_BATCH: usize = 64;

/// The server with its socket bound.
pub struct Driver {
    socket: UdpSocket,
    server: Server,
    journal: Journal,
    events: Events,
    scripts: Scripts,
}

impl Driver {
    /// Reads the leases and binds UDP 67 on the interface.
    pub async fn bind(
        config: &Config,
        dhcp: &DhcpServer,
        events: Events,
        scripts: Scripts,
    ) -> anyhow::Result<Self> {
        let (path, interface) = (config.lease_journal(), &config.network.interface);
        let settings = settings(config, dhcp)?;
        let (journal, leases) = tokio::task::spawn_blocking(move || Journal::open(&path))
            .await
            .context("reading the lease journal was interrupted")??;
        let server = Server::new(settings, leases).context("setting up the DHCP server")?;
        let socket = socket(interface, SERVER_PORT)
            .map_err(|error| socket_error(error, interface, SERVER_PORT))?;
        Ok(Self { socket, server, journal, events, scripts })
    }

    /// Serves until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ready = self.socket.readable() => ready.context("waiting for DHCP requests")?,
            }
            self = self.serve_batch().await?;
        }
    }

    /// Answers what has come in.
    async fn serve_batch(mut self) -> anyhow::Result<Self> {
        let (mut replies, mut records) = (Vec::new(), Vec::new());
        // One byte more than is valid, so that what is too long is seen to be.
        let mut buffer = [0; wire::MAX_LEN + 1];
        for _ in 0..MAX_BATCH {
            let datagram = match self.socket.try_recv(&mut buffer) {
                Ok(bytes) => &buffer[..bytes],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error about an earlier reply, or an interface that went down.
                Err(error) => {
                    tracing::debug!("DHCP socket: {error}");
                    break;
                }
            };
            let now = u64::try_from(now_unix()).unwrap_or(0);
            match self.server.handle(now, datagram) {
                Outcome::Reply(reply) => {
                    records.extend(reply.lease_change.clone());
                    replies.push(reply);
                }
                Outcome::Recorded(record) => {
                    trace_record(&record);
                    records.push(record);
                }
                Outcome::Ignored(reason @ Ignored::Exhausted(mac)) => {
                    tracing::warn!(%mac, "DHCP request not answered: {reason}");
                }
                Outcome::Ignored(reason) => {
                    let mac = sender(datagram).map(tracing::field::display);
                    tracing::debug!(mac, "DHCP request ignored: {reason}");
                }
            }
        }
        let is_written = if records.is_empty() {
            true
        } else {
            let (written, driver) = self.write(records).await?;
            self = driver;
            written
        };
        for reply in replies {
            if reply.lease_change.is_some() && !is_written {
                let mac = reply.summary.mac;
                tracing::error!(%mac, "DHCP ACK held back: its lease could not be written");
                self.events.note(mac, BootEventKind::DhcpAckHeld);
            } else {
                self.send(&reply).await;
            }
        }
        Ok(self)
    }

    /// Whether the records are durable. Takes the driver along to the blocking thread.
    async fn write(mut self, records: Vec<LeaseRecord>) -> anyhow::Result<(bool, Self)> {
        tokio::task::spawn_blocking(move || {
            let result = self.journal.append(&records, self.server.leases());
            if let Err(error) = &result {
                tracing::error!("writing the lease journal: {error}; clients will ask again");
            }
            (result.is_ok(), self)
        })
        .await
        .context("writing the lease journal was interrupted")
    }

    async fn send(&self, reply: &Reply) {
        let destination = match reply.destination {
            Destination::Relay(ip) => SocketAddrV4::new(ip, SERVER_PORT),
            Destination::Client(ip) => SocketAddrV4::new(ip, CLIENT_PORT),
            Destination::Broadcast => SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT),
        };
        let mac = reply.summary.mac;
        if let Err(error) = self.socket.send_to(&reply.bytes, destination).await {
            // The client repeats its request; an interface that is down comes back.
            tracing::warn!(%mac, %destination, "DHCP reply not sent: {error}");
            return;
        }
        let boot = &reply.summary.boot;
        match reply.summary.kind {
            ReplyKind::Offer(ip) => {
                tracing::debug!(%mac, %ip, ?boot, "DHCP offer");
                self.events.note(mac, BootEventKind::DhcpOffer);
            }
            ReplyKind::Ack(ip) => {
                tracing::info!(%mac, %ip, ?boot, "DHCP ACK");
                self.events.note(mac, BootEventKind::DhcpAck { ip });
                if let BootFile::Script { .. } = boot {
                    self.scripts.given(mac);
                }
            }
            ReplyKind::Informed => tracing::debug!(%mac, "DHCP answer to an INFORM"),
            ReplyKind::Nak(reason) => tracing::info!(%mac, "DHCP NAK: {reason}"),
        }
    }
}

fn settings(config: &Config, dhcp: &DhcpServer) -> anyhow::Result<server::Config> {
    let address = config.network.address;
    Ok(server::Config {
        server: address,
        local: subnet_of(&dhcp.local),
        relayed: dhcp.relayed.iter().map(subnet_of).collect(),
        dns: dhcp.dns.clone(),
        domain: None,
        lease_secs: u32::try_from(dhcp.lease.as_secs()).context("dhcp.lease_seconds")?,
        boot: super::boot_settings(config),
        reservations: BTreeMap::new(),
    })
}

fn subnet_of(subnet: &Subnet) -> server::Subnet {
    let Subnet { prefix_len, range_start, range_end, router } = *subnet;
    server::Subnet { prefix_len, range_first: range_start, range_last: range_end, router }
}

fn trace_record(record: &LeaseRecord) {
    let ip = record.ip;
    match &record.holder {
        Holder::Client { mac, .. } => tracing::info!(%mac, %ip, "DHCP release"),
        Holder::Quarantine => {
            tracing::warn!(%ip, "DHCP decline: a client found the address in use by another");
        }
    }
}
