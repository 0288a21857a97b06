//! TFTP: one socket for requests, and for each transfer a socket and a task of its own.

use super::{Protocol, bind_error, events::Events, files::BootFiles, neighbour};
use crate::{config::Network, service::BootEventKind};
use anyhow::Context;
use metalcast_netboot::tftp::{Caps, Ended, Request, Transfer, error_packet};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::net::UdpSocket;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Transfers at a time.
const MAX_TRANSFERS: usize = 256;
/// Transfers of one client at a time; UEFI asks for a file's size and then for the file.
const MAX_TRANSFERS_OF_CLIENT: usize = 8;
/// A transfer takes no longer, however slowly its client acknowledges.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(600);
/// RFC 1350: file not found.
const NOT_FOUND: u16 = 1;
/// RFC 1350: see the message.
const UNDEFINED: u16 = 0;

/// The server with its socket bound.
pub struct Driver {
    socket: UdpSocket,
    shared: Arc<Shared>,
}

struct Shared {
    address: Ipv4Addr,
    files: Arc<BootFiles>,
    events: Events,
    running: Mutex<HashMap<IpAddr, usize>>,
}

/// A place among the running transfers.
struct Slot {
    shared: Arc<Shared>,
    client: IpAddr,
}

impl Driver {
    /// Binds the UDP port on our address.
    pub async fn bind(
        network: &Network,
        files: Arc<BootFiles>,
        events: Events,
    ) -> anyhow::Result<Self> {
        let (address, port) = (network.address, network.tftp_port);
        let socket = UdpSocket::bind((address, port)).await.map_err(|error| {
            bind_error(error, &format!("UDP {address}:{port} for TFTP"), Protocol::Udp, port)
        })?;
        let shared = Shared { address, files, events, running: Mutex::default() };
        Ok(Self { socket, shared: Arc::new(shared) })
    }

    /// Serves until `shutdown`, which also ends the transfers.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let tasks = TaskTracker::new();
        let mut buffer = [0; 1024];
        loop {
            let received = tokio::select! {
                () = shutdown.cancelled() => break,
                received = self.socket.recv_from(&mut buffer) => received,
            };
            match received {
                Ok((bytes, client)) => {
                    if let Some(transfer) = self.request(client, &buffer[..bytes]).await {
                        let shutdown = shutdown.clone();
                        tasks.spawn(async move {
                            tokio::select! {
                                () = shutdown.cancelled() => {}
                                () = transfer => {}
                            }
                        });
                    }
                }
                // ICMP about an earlier answer.
                Err(error) => tracing::debug!("TFTP socket: {error}"),
            }
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    }

    /// The transfer that a datagram asks for, if it is to be had.
    async fn request(
        &self,
        client: SocketAddr,
        datagram: &[u8],
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let request = match Request::parse(datagram) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(%client, "TFTP request refused: {error}");
                if let Some(reply) = error.reply() {
                    self.answer(client, &reply).await;
                }
                return None;
            }
        };
        let Some(name) = BootFiles::known(&request.filename) else {
            tracing::info!(%client, file = request.filename, "TFTP: no such file");
            self.answer(client, &error_packet(NOT_FOUND, "file not found")).await;
            return None;
        };
        let Some(slot) = Shared::slot(&self.shared, client.ip()) else {
            tracing::warn!(%client, "TFTP request refused: too many transfers");
            self.answer(client, &error_packet(UNDEFINED, "too many transfers")).await;
            return None;
        };
        Some(transfer(slot, client, request, name))
    }

    async fn answer(&self, client: SocketAddr, packet: &[u8]) {
        if let Err(error) = self.socket.send_to(packet, client).await {
            tracing::debug!(%client, "TFTP answer not sent: {error}");
        }
    }
}

impl Shared {
    fn slot(shared: &Arc<Self>, client: IpAddr) -> Option<Slot> {
        let mut running = shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = running.get(&client).copied().unwrap_or(0);
        if of_client >= MAX_TRANSFERS_OF_CLIENT || running.values().sum::<usize>() >= MAX_TRANSFERS
        {
            return None;
        }
        running.insert(client, of_client + 1);
        Some(Slot { shared: shared.clone(), client })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        match running.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(running.remove(&self.client)),
        }
    }
}

/// One file to one client; whatever happens is logged.
async fn transfer(slot: Slot, client: SocketAddr, request: Request, file: &'static str) {
    let files = slot.shared.files.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mac = match client.ip() {
            IpAddr::V4(ip) => neighbour::mac_of(ip),
            IpAddr::V6(_) => None,
        };
        (files.read(file), mac)
    });
    let Ok((content, mac)) = read.await else { return };
    let sent = async {
        let socket = UdpSocket::bind((slot.shared.address, 0)).await.context("binding a socket")?;
        socket.connect(client).await.context("connecting to the client")?;
        match content {
            Ok(content) => {
                let transfer = Transfer::new(Instant::now(), &request, content, Caps::default());
                drive(&socket, transfer).await.context("sending")
            }
            Err(error) => {
                socket.send(&error_packet(NOT_FOUND, "file cannot be read")).await?;
                Err(anyhow::Error::new(error).context("reading the file"))
            }
        }
    };
    let ended = tokio::time::timeout(TRANSFER_DEADLINE, sent).await;
    let mac_shown = mac.map(tracing::field::display);
    match ended {
        Ok(Ok(Ended::Done { bytes, repeated })) => {
            tracing::info!(%client, mac = mac_shown, file, bytes, repeated, "TFTP: sent");
            if let Some(mac) = mac {
                slot.shared.events.note(mac, BootEventKind::BootFile { name: file.to_owned() });
            }
        }
        Ok(Ok(Ended::Probed)) => tracing::debug!(%client, mac = mac_shown, file, "TFTP: size"),
        Ok(Ok(Ended::Refused { code, message })) => {
            tracing::info!(%client, mac = mac_shown, file, code, "TFTP: client gave up: {message}");
        }
        Ok(Ok(Ended::Silent { all_sent, bytes })) => {
            tracing::info!(%client, mac = mac_shown, file, all_sent, bytes, "TFTP: client silent");
        }
        Ok(Err(error)) => tracing::warn!(%client, mac = mac_shown, file, "TFTP: {error:#}"),
        Err(_) => tracing::warn!(%client, mac = mac_shown, file, "TFTP: not done in 600 s"),
    }
}

async fn drive(socket: &UdpSocket, mut transfer: Transfer) -> io::Result<Ended> {
    let mut buffer = [0; 1024];
    loop {
        while let Some(datagram) = transfer.poll_transmit() {
            socket.send(&datagram).await?;
        }
        if let Some(ended) = transfer.poll_event() {
            return Ok(ended);
        }
        let Some((deadline, _)) = transfer.poll_timeout() else {
            return Err(io::Error::other("the transfer neither ended nor waits"));
        };
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                transfer.handle_input(Instant::now(), &buffer[..received?]);
            }
            () = tokio::time::sleep_until(deadline.into()) => {
                transfer.handle_timeout(Instant::now());
            }
        }
    }
}
