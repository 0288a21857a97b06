//! HTTP for machines that boot, and for the reports of deployed systems.
//!
//! | path | answer |
//! |---|---|
//! | `/boot/{mac}.ipxe` | the boot script, by the boot table |
//! | `/boot/{link}/segment.cpio` | this boot's own archive with its sealed token |
//! | `/golden/{mac}/segment.cpio` | the same for a machine that runs its own system and offers that |
//! | `/boot/{file}`, `/ipxe/{file}` | iPXE itself |
//! | `/ram/vmlinuz`, `/ram/initramfs` | the RAM image; `?mac=` says for whom |
//! | `POST /report` | the report of a deployed system |
//! | `/healthz` | `ok` |
//!
//! It is plain HTTP: PXE has nothing better, so nothing in here is worth stealing for longer than
//! an enrolment takes.

mod connection;
mod handlers;
mod ram;

use super::{Nodes, Protocol, bind_error, events::Events, files::BootFiles};
use crate::{
    config::{Config, Network},
    pki::Pki,
};
use anyhow::Context;
use metalcast_netboot::table::BootTable;
use metalcast_shared::id::{BootId, Mac};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

/// The server with its socket bound.
pub struct Driver<N> {
    listener: TcpListener,
    state: Arc<State<N>>,
}

/// What all requests share.
struct State<N> {
    nodes: N,
    table: watch::Receiver<Arc<BootTable>>,
    pki: Arc<Pki>,
    files: Arc<BootFiles>,
    events: Events,
    base_url: String,
    quic: SocketAddr,
    ram_image: Arc<BootFiles>,
    kernel_args: String,
}

impl<N: Nodes> Driver<N> {
    /// Binds the TCP port on our address.
    pub async fn bind(
        config: &Config,
        nodes: N,
        pki: Arc<Pki>,
        files: Arc<BootFiles>,
        events: Events,
    ) -> anyhow::Result<Self> {
        let (address, port) = (config.network.address, config.network.http_port);
        let state = State {
            table: nodes.boot_table(),
            nodes,
            pki,
            files,
            events,
            base_url: base_url(&config.network),
            quic: (address, config.network.quic_port).into(),
            ram_image: Arc::new(BootFiles::ram_image(&config.boot.ram_image)),
            kernel_args: config.boot.kernel_args.clone(),
        };
        let nobody = Mac([2, 0, 0, 0, 0, 0]);
        handlers::ram_image_script(&state, nobody, BootId(uuid::Uuid::nil()), 0)
            .context("making a boot script (see boot.kernel_args)")?;
        let listener = TcpListener::bind((address, port)).await.map_err(|error| {
            bind_error(error, &format!("TCP {address}:{port} for HTTP"), Protocol::Tcp, port)
        })?;
        Ok(Self { listener, state: Arc::new(state) })
    }

    /// Serves until `shutdown`, which breaks off what is under way: boot programs try again.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        connection::accept(self.listener, &handlers::router(self.state), shutdown).await
    }
}

/// `http://10.77.0.1`, with the port if it is not 80.
pub fn base_url(network: &Network) -> String {
    let Network { address, http_port, .. } = network;
    match http_port {
        80 => format!("http://{address}"),
        port => format!("http://{address}:{port}"),
    }
}

/// The client's address, of a connection's requests.
#[derive(Clone, Copy)]
struct Peer(Ipv4Addr);
