//! One connection from handshake to end.

use super::{
    Close, FRAME_BUDGET_BYTES, Fleet, Library, OPEN_DEADLINE, Server, as_left, chunks, enrol,
    packed, session, side_files, uploads,
    wire::{self, End},
};
use crate::{pki, service::Role};
use metalcast_shared::{
    as_left::MAX_AS_LEFT_BYTES,
    codec::MAX_MESSAGE_BYTES,
    hash::Hash,
    id::NodeId,
    to_controller::{MAX_CHUNKS_PER_REQUEST, Open},
};
use quinn::{Connection, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

/// A handshake has to be complete within this time.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// A node's connection, shared by its streams.
pub struct Peer {
    /// Its node, by its certificate.
    pub node: NodeId,
    /// Hash of the key that it holds, by its certificate.
    pub key: Hash,
    /// The connection itself.
    pub connection: Connection,
    /// [`FRAME_BUDGET_BYTES`] in KiB.
    pub budget: Arc<Semaphore>,
    has_session: AtomicBool,
}

/// Who is at the other end.
enum Identity {
    Stranger,
    Node(NodeId, Hash),
    Unreadable,
}

/// Carries a connection through. Never fails: what goes wrong is logged and told to the peer.
/// `turn` is held for the handshake.
pub async fn serve<F: Fleet, L: Library>(
    server: Arc<Server<F, L>>,
    incoming: quinn::Incoming,
    turn: Option<OwnedSemaphorePermit>,
) {
    let address = incoming.remote_address();
    let shutdown = server.shutdown.clone();
    let handshake = async {
        let connecting = incoming.accept()?;
        connecting.await
    };
    let connection = tokio::select! {
        () = shutdown.cancelled() => return,
        result = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake) => match result {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                tracing::info!(peer = %address, "connection refused: {error}");
                return;
            }
            Err(_) => {
                tracing::info!(peer = %address, "connection given up: no handshake in 10 s");
                return;
            }
        },
    };
    drop(turn);
    match identify(&connection) {
        Identity::Stranger => {
            let span = tracing::info_span!("enrolment", peer = %address);
            enrol::serve(&server, connection).instrument(span).await;
        }
        Identity::Node(node, key) => {
            let span = tracing::info_span!("agent", peer = %address, %node);
            streams(server, connection, node, key).instrument(span).await;
        }
        Identity::Unreadable => {
            tracing::warn!(peer = %address, "a certificate of ours names no node");
            Close::NoCertificate.connection(&connection);
        }
    }
}

fn identify(connection: &Connection) -> Identity {
    let Some(identity) = connection.peer_identity() else { return Identity::Stranger };
    let Ok(chain) = identity.downcast::<Vec<CertificateDer<'static>>>() else {
        return Identity::Unreadable;
    };
    match chain.first().and_then(|certificate| pki::holder_of(certificate)) {
        Some((node, key)) => Identity::Node(node, key),
        None => Identity::Unreadable,
    }
}

/// Accepts a node's streams until the connection ends.
async fn streams<F: Fleet, L: Library>(
    server: Arc<Server<F, L>>,
    connection: Connection,
    node: NodeId,
    key: Hash,
) {
    tracing::debug!("connected");
    let peer = Arc::new(Peer {
        node,
        key,
        connection: connection.clone(),
        budget: Arc::new(Semaphore::new((FRAME_BUDGET_BYTES >> 10) as usize)),
        has_session: AtomicBool::new(false),
    });
    let reason = loop {
        tokio::select! {
            () = server.shutdown.cancelled() => {
                Close::Stopping.connection(&connection);
                break "the controller is stopping".to_owned();
            }
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => {
                    let span = tracing::Span::current();
                    let task = stream_task(server.clone(), peer.clone(), send, receive);
                    server.tasks.spawn(task.instrument(span));
                }
                Err(error) => break error.to_string(),
            }
        }
    };
    tracing::debug!("connection ended: {reason}");
}

/// One stream from its [`Open`] on.
async fn stream_task<F: Fleet, L: Library>(
    server: Arc<Server<F, L>>,
    peer: Arc<Peer>,
    mut send: SendStream,
    mut receive: RecvStream,
) {
    let open =
        wire::read(&mut receive, MAX_MESSAGE_BYTES, OPEN_DEADLINE, "no request within 10 s").await;
    let end = match open {
        Ok(open) => dispatch(&server, &peer, open, &mut send, receive).await,
        Err(end) => Err(end),
    };
    match end {
        // The peer may have stopped reading meanwhile, which is its right.
        Ok(()) => drop(send.finish()),
        Err(End::Gone(reason)) => tracing::debug!("stream ended: {reason}"),
        Err(End::Ours(close @ Close::TooSlow(_))) => {
            tracing::warn!("stream given up: {close}");
            let _ = send.reset(close.code());
        }
        Err(End::Ours(close)) => {
            tracing::warn!("connection closed: {close}");
            close.connection(&peer.connection);
        }
    }
}

async fn dispatch<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    open: Open,
    send: &mut SendStream,
    receive: RecvStream,
) -> Result<(), End> {
    let protocol = |what: &'static str| Err(End::Ours(Close::Protocol(what.into())));
    match open {
        Open::Enrol(_) => protocol("this connection has a certificate already"),
        Open::Session(_) | Open::Golden(_) if peer.has_session.swap(true, Ordering::Relaxed) => {
            protocol("this connection has a session already")
        }
        Open::Session(hello) => {
            session::serve(server, peer, (hello, Role::Node), send, receive).await
        }
        Open::Golden(hello) => {
            session::serve(server, peer, (hello, Role::Golden), send, receive).await
        }
        Open::Page { revision, partition, page } => {
            chunks::page(server, peer, revision, partition, page, send).await
        }
        Open::Chunks { positions, .. } if positions.len() > MAX_CHUNKS_PER_REQUEST => {
            protocol("too many chunks in one request")
        }
        Open::Chunks { revision, partition, page, positions } => {
            let request = chunks::Request { revision, partition, page, positions };
            chunks::serve(server, peer, request, send).await
        }
        Open::Upload { task, survey } => {
            uploads::serve(server, peer, task, *survey, send, receive).await
        }
        Open::Record { bytes, .. } if bytes > MAX_AS_LEFT_BYTES => {
            protocol("what a deploy left is too long")
        }
        Open::Record { task, bytes } => {
            as_left::take(server, peer, (task, bytes), send, receive).await
        }
        Open::AsLeft { task } => as_left::give(server, peer, task, send).await,
        Open::Packed { hash } => packed::serve(server, hash, send).await,
        Open::SideFile { revision, name } => {
            side_files::serve(server, peer, revision, name, send).await
        }
    }
}
