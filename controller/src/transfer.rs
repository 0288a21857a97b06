//! The QUIC server that agents talk to: enrolment, sessions, pages, chunks, tools and captures.
//!
//! ```text
//! connection without certificate ── Enrol ──> certificate, and the agent connects again
//! connection of a node ─┬─ Session ── messages both ways, one per connection
//!                       ├─ Page ───── one page of a manifest
//!                       ├─ Chunks ─── up to 64 frames, read ahead by two
//!                       ├─ Packed ─── tools that belong to the RAM image, what a project adds
//!                       ├─ SideFile ─ a small file beside an image
//!                       ├─ Upload ─── what a task captures, into the store
//!                       └─ Record, AsLeft ── what a deploy left, in and out
//! ```
//!
//! What is decided about nodes is the [`Fleet`]'s business, what is in an image the [`Library`]'s.
//! Memory per connection is bounded: [`SEND_WINDOW_BYTES`] on the wire and unacknowledged,
//! [`FRAME_BUDGET_BYTES`] read ahead (or one larger frame), [`RECEIVE_WINDOW_BYTES`] received. An
//! agent that stops reading loses its stream after [`WRITE_PROGRESS`] and holds up nobody else.

mod as_left;
mod chunks;
mod close;
mod connection;
mod enrol;
mod packed;
mod session;
mod side_files;
mod uploads;
mod wire;

pub use chunks::Library;
pub use close::Close;

use crate::pki::{OnRefused, Pki, RefusedCertificate};
use anyhow::Context;
use metalcast_shared::{
    boot::EnrolmentToken,
    hash::Hash,
    id::{NodeId, Revision, TaskId},
    inventory::Fingerprint,
    to_agent::ToAgent,
    to_controller::{Hello, ToController},
    transfer::SEND_WINDOW_BYTES,
};
use quinn::crypto::rustls::QuicServerConfig;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, mpsc},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::service::{EnrolRefusal, Role, Service, SessionId, UploadAnswer};

/// Most connections at a time, handshakes included.
pub const MAX_CONNECTIONS: usize = 4096;
/// With more handshakes under way than this, a peer has to prove its address first.
const MAX_UNVALIDATED_HANDSHAKES: usize = 128;
/// Most streams that an agent may have open: the session and several requests.
const MAX_STREAMS: u32 = 16;
/// Received and unread bytes of one connection; agents send little, the longest message has 1 MiB.
pub const RECEIVE_WINDOW_BYTES: u32 = 4 << 20;
/// The same of one stream: a whole message and its length.
const STREAM_WINDOW_BYTES: u32 = (1 << 20) + (64 << 10);
/// Frames read from the disk and not yet handed to QUIC, per connection.
pub const FRAME_BUDGET_BYTES: u32 = 32 << 20;
/// A peer that is silent for this long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A stream has to say what it is for within this time.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// Within this time a peer has to take 64 KiB or one message.
pub const WRITE_PROGRESS: Duration = Duration::from_secs(30);
/// Certificates that were refused and not told of yet: anyone can show any number.
const REFUSED_CERTIFICATES: usize = 16;
/// How often the server gets a new certificate, which lives for a year.
const RENEWAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How often uploads of tasks that have ended are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How long connections get to close when the controller stops.
const CLOSING: Duration = Duration::from_secs(2);

/// What the server asks about nodes; [`Service`] answers.
pub trait Fleet: Clone + Send + Sync + 'static {
    /// Recognises a machine whose token is authentic. `key` is the hash of its key.
    fn enrol(
        &self,
        token: EnrolmentToken,
        key: Hash,
        fingerprint: Fingerprint,
    ) -> impl Future<Output = Result<NodeId, EnrolRefusal>> + Send;

    /// A session of the node with this key began; it ends when `to_agent` is dropped.
    fn session_opened(
        &self,
        node: NodeId,
        key: Hash,
        hello: Hello,
        role: Role,
        to_agent: mpsc::Sender<ToAgent>,
    ) -> impl Future<Output = anyhow::Result<SessionId>> + Send;

    /// A message of a session. An error ends the session.
    fn received(
        &self,
        node: NodeId,
        session: SessionId,
        message: ToController,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// A session ended; called once for each that was opened.
    fn session_closed(
        &self,
        node: NodeId,
        session: SessionId,
        reason: String,
    ) -> impl Future<Output = ()> + Send;

    /// A certificate was refused that names a node. Nothing of it is proven.
    fn certificate_refused(&self, refused: RefusedCertificate) -> impl Future<Output = ()> + Send;

    /// Whether an active task of this node needs the revision, and the key is the node's.
    fn may_read(&self, node: NodeId, key: Hash, revision: &Revision) -> bool;

    /// Whether the node's agent has this task, may send what it captures, and the key is the node's.
    fn may_upload(&self, node: NodeId, key: Hash, task: TaskId) -> bool;

    /// What such an agent is to send. An error says why it may not.
    fn upload_order(
        &self,
        node: NodeId,
        key: Hash,
        task: TaskId,
    ) -> impl Future<Output = anyhow::Result<UploadAnswer>> + Send;

    /// All of it is in the store. To be called until it succeeds.
    fn uploaded(
        &self,
        node: NodeId,
        task: TaskId,
        revision: &Revision,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Keeps what a deploy of this node, with this key, left in its slot.
    fn keep_left(
        &self,
        agent: (NodeId, Hash),
        task: TaskId,
        encoded: Vec<u8>,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// What a deploy left in the slot that this task compares.
    fn as_left(
        &self,
        agent: (NodeId, Hash),
        task: TaskId,
    ) -> impl Future<Output = anyhow::Result<Vec<u8>>> + Send;
}

impl Fleet for Service {
    async fn enrol(
        &self,
        token: EnrolmentToken,
        key: Hash,
        fingerprint: Fingerprint,
    ) -> Result<NodeId, EnrolRefusal> {
        Service::enrol(self, token, key, fingerprint).await
    }

    async fn session_opened(
        &self,
        node: NodeId,
        key: Hash,
        hello: Hello,
        role: Role,
        to_agent: mpsc::Sender<ToAgent>,
    ) -> anyhow::Result<SessionId> {
        Service::session_opened(self, node, key, hello, role, to_agent).await
    }

    async fn received(
        &self,
        node: NodeId,
        session: SessionId,
        message: ToController,
    ) -> anyhow::Result<()> {
        Service::from_agent(self, node, session, message).await
    }

    async fn session_closed(&self, node: NodeId, session: SessionId, reason: String) {
        Service::session_closed(self, node, session, reason).await;
    }

    async fn certificate_refused(&self, refused: RefusedCertificate) {
        Service::certificate_refused(self, refused).await;
    }

    fn may_read(&self, node: NodeId, key: Hash, revision: &Revision) -> bool {
        Service::may_read(self, node, key, revision)
    }

    fn may_upload(&self, node: NodeId, key: Hash, task: TaskId) -> bool {
        Service::may_upload(self, node, key, task)
    }

    async fn upload_order(
        &self,
        node: NodeId,
        key: Hash,
        task: TaskId,
    ) -> anyhow::Result<UploadAnswer> {
        Service::upload_order(self, node, key, task).await
    }

    async fn uploaded(
        &self,
        node: NodeId,
        task: TaskId,
        revision: &Revision,
    ) -> anyhow::Result<()> {
        Service::uploaded(self, node, task, revision).await
    }

    async fn keep_left(
        &self,
        agent: (NodeId, Hash),
        task: TaskId,
        encoded: Vec<u8>,
    ) -> anyhow::Result<()> {
        Service::keep_left(self, agent, task, encoded).await
    }

    async fn as_left(&self, agent: (NodeId, Hash), task: TaskId) -> anyhow::Result<Vec<u8>> {
        Service::as_left(self, agent, task).await
    }
}

/// Everything that connections share.
struct Server<F, L> {
    fleet: F,
    library: Arc<L>,
    pages: chunks::PageCache,
    uploads: uploads::Uploads,
    /// Directories of packed files.
    packed: [PathBuf; 2],
    pki: Arc<Pki>,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// A bound socket for agents.
pub struct Listener {
    endpoint: quinn::Endpoint,
    on_refused: OnRefused,
    refused: mpsc::Receiver<RefusedCertificate>,
}

impl Listener {
    /// Binds the QUIC endpoint (UDP) under a certificate made now.
    ///
    /// # Errors
    /// When the port cannot be had, with what to do.
    pub fn bind(pki: &Pki, address: SocketAddr) -> anyhow::Result<Self> {
        let (sender, refused) = mpsc::channel(REFUSED_CERTIFICATES);
        // One more that cannot be told of is not worth a handshake's time.
        let on_refused: OnRefused = Arc::new(move |certificate| drop(sender.try_send(certificate)));
        let config = server_config(pki, on_refused.clone())?;
        let endpoint = quinn::Endpoint::server(config, address).with_context(|| {
            format!(
                "listening for agents on UDP {address} (is another controller running? \
                 `ss -ulpn sport = :{}`)",
                address.port()
            )
        })?;
        Ok(Self { endpoint, on_refused, refused })
    }
}

/// Serves agents until `shutdown`, then closes all connections with a reason. `packed` are the
/// directories of the files that are asked for by their hash: bundles of tools, and what projects add.
pub async fn run<F: Fleet, L: Library>(
    listener: Listener,
    fleet: F,
    library: Arc<L>,
    packed: [PathBuf; 2],
    pki: Arc<Pki>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Listener { endpoint, on_refused, mut refused } = listener;
    let server = Arc::new(Server {
        fleet,
        library,
        pages: chunks::PageCache::default(),
        uploads: uploads::Uploads::default(),
        packed,
        pki,
        connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        handshakes: Arc::new(Semaphore::new(MAX_UNVALIDATED_HANDSHAKES)),
        tasks: TaskTracker::new(),
        shutdown: shutdown.clone(),
    });
    let mut renewal = tokio::time::interval(RENEWAL);
    renewal.tick().await;
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = renewal.tick() => match server_config(&server.pki, on_refused.clone()) {
                Ok(config) => endpoint.set_server_config(Some(config)),
                Err(error) => tracing::error!("keeping the old server certificate: {error:#}"),
            },
            _ = sweep.tick() => server.uploads.sweep(&server.fleet),
            Some(certificate) = refused.recv() => {
                let fleet = server.fleet.clone();
                let told = async move { fleet.certificate_refused(certificate).await };
                server.tasks.spawn(told);
            }
            incoming = endpoint.accept() => {
                let incoming = incoming.context("the QUIC endpoint stopped accepting")?;
                admit(&server, incoming);
            }
        }
    }
    endpoint.set_server_config(None);
    server.tasks.close();
    let (code, reason) = Close::Stopping.parts();
    // Sessions close their own connections and report; this catches whatever does not.
    if tokio::time::timeout(CLOSING, server.tasks.wait()).await.is_err() {
        tracing::warn!("some agents' connections did not close in time");
    }
    endpoint.close(code, &reason);
    let _ = tokio::time::timeout(CLOSING, endpoint.wait_idle()).await;
    server.uploads.clear();
    Ok(())
}

/// Takes a connection on, or refuses it.
fn admit<F: Fleet, L: Library>(server: &Arc<Server<F, L>>, incoming: quinn::Incoming) {
    let peer = incoming.remote_address();
    let Ok(slot) = server.connections.clone().try_acquire_owned() else {
        tracing::warn!(%peer, "refused: {MAX_CONNECTIONS} connections are open");
        incoming.refuse();
        return;
    };
    let handshake = server.handshakes.clone().try_acquire_owned().ok();
    if handshake.is_none() && !incoming.remote_address_validated() && incoming.may_retry() {
        if let Err(error) = incoming.retry() {
            tracing::debug!(%peer, "address check could not be sent: {error}");
        }
        return;
    }
    let task = connection::serve(server.clone(), incoming, handshake);
    server.tasks.spawn(async move {
        task.await;
        drop(slot);
    });
}

fn server_config(pki: &Pki, on_refused: OnRefused) -> anyhow::Result<quinn::ServerConfig> {
    let now = jiff::Timestamp::now().as_second();
    let tls =
        pki.server_tls(now, on_refused).context("making the certificate of the QUIC server")?;
    let tls = QuicServerConfig::try_from(tls).context("setting up TLS for QUIC")?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        .max_concurrent_uni_streams(0u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(RECEIVE_WINDOW_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().context("idle time-out")?));
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport)).max_incoming(MAX_CONNECTIONS);
    Ok(config)
}

#[cfg(test)]
mod tests;
