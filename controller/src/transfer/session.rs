//! A node's session: messages both ways until either side ends it.

use super::{
    Close, Fleet, Library, Server,
    connection::Peer,
    wire::{self, End},
};
use crate::service::{AGENT_QUEUE, Role, SessionId};
use metalcast_shared::{
    codec::MAX_MESSAGE_BYTES,
    to_agent::ToAgent,
    to_controller::{Hello, ToController},
    version::PROTOCOL,
};
use quinn::{RecvStream, SendStream};
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages received and not yet handled.
const RECEIVED_MESSAGES: usize = 8;
/// Agents send a heartbeat every 5 s.
const SILENCE: Duration = Duration::from_secs(30);
/// Before chunks, which have priority 0.
const PRIORITY: i32 = 1;

/// Carries the session to its end; the service hears of the end whatever the reason is.
pub async fn serve<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    (hello, role): (Hello, Role),
    send: &mut SendStream,
    mut receive: RecvStream,
) -> Result<(), End> {
    if hello.protocol != PROTOCOL {
        let what = format!(
            "the agent speaks version {}, this controller {PROTOCOL}: netboot the node again, or \
             update the RAM image",
            hello.protocol
        );
        return Err(End::Ours(Close::Protocol(what.into())));
    }
    // Only fails on a stream that is gone, which the first write will say.
    let _ = send.set_priority(PRIORITY);
    let (to_agent, outgoing) = mpsc::channel(AGENT_QUEUE);
    let session = server
        .fleet
        .session_opened(peer.node, peer.key, hello, role, to_agent)
        .await
        .map_err(|error| End::Ours(Close::Internal(format!("{error:#}"))))?;
    tracing::info!("session began");
    let (queue, received) = mpsc::channel(RECEIVED_MESSAGES);
    // Owns the queue, so that `handle` ends once this has ended and all of it is handled.
    let wire = async move {
        tokio::select! {
            end = read(&mut receive, &queue) => end,
            end = forward(outgoing, send) => end,
            error = peer.connection.closed() => End::Gone(error.to_string()),
            () = queue.closed() => End::Gone("a message could not be handled".into()),
            () = server.shutdown.cancelled() => End::Ours(Close::Stopping),
        }
    };
    let (end, handled) = tokio::join!(wire, handle(server, peer, session, received));
    let end = match handled.err().unwrap_or(end) {
        // A stream only says that its connection is gone; the connection knows why.
        End::Gone(reason) => {
            End::Gone(peer.connection.close_reason().map_or(reason, |why| why.to_string()))
        }
        End::Ours(close) => End::Ours(close),
    };
    tracing::info!("session ended: {end}");
    server.fleet.session_closed(peer.node, session, end.to_string()).await;
    // Without its session a connection is of no use to the agent: it reconnects.
    match &end {
        End::Gone(_) => Close::Done.connection(&peer.connection),
        End::Ours(close) => close.connection(&peer.connection),
    }
    Err(End::Gone(end.to_string()))
}

async fn read(receive: &mut RecvStream, queue: &mpsc::Sender<ToController>) -> End {
    loop {
        match wire::read(receive, MAX_MESSAGE_BYTES, SILENCE, "no heartbeat for 30 s").await {
            Ok(message) => drop(queue.send(message).await),
            Err(end) => return end,
        }
    }
}

/// What was received is handled to its end even if the connection breaks meanwhile.
async fn handle<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    session: SessionId,
    mut received: mpsc::Receiver<ToController>,
) -> Result<(), End> {
    while let Some(message) = received.recv().await {
        server
            .fleet
            .received(peer.node, session, message)
            .await
            .map_err(|error| End::Ours(Close::Internal(format!("{error:#}"))))?;
    }
    Ok(())
}

async fn forward(mut outgoing: mpsc::Receiver<ToAgent>, send: &mut SendStream) -> End {
    while let Some(message) = outgoing.recv().await {
        if let Err(end) = wire::write(send, &message).await {
            return end;
        }
    }
    End::Ours(Close::Superseded)
}
