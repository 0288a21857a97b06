//! A connection without a certificate: one enrolment, then it is closed.

use super::{
    Close, Fleet, Library, OPEN_DEADLINE, Server,
    wire::{self, End},
};
use crate::pki::NodeRequest;
use metalcast_shared::{
    boot::EnrolmentToken,
    to_agent::EnrolReply,
    to_controller::{Enrol, Open},
};
use quinn::Connection;

/// Longest message read from a stranger: a token, a certificate request, and the fingerprint of a
/// machine with hundreds of disks.
const MAX_ENROL_BYTES: usize = 64 << 10;

/// Serves a stranger's connection to its end.
pub async fn serve<F: Fleet, L: Library>(server: &Server<F, L>, connection: Connection) {
    let close = match exchange(server, &connection).await {
        Ok(()) => {
            // The agent closes once it has the answer.
            let _ = tokio::time::timeout(OPEN_DEADLINE, connection.closed()).await;
            Close::Done
        }
        Err(End::Gone(reason)) => {
            tracing::debug!("connection ended: {reason}");
            return;
        }
        Err(End::Ours(close)) => {
            tracing::info!("connection closed: {close}");
            close
        }
    };
    close.connection(&connection);
}

async fn exchange<F: Fleet, L: Library>(
    server: &Server<F, L>,
    connection: &Connection,
) -> Result<(), End> {
    let too_slow = || End::Ours(Close::TooSlow("no request within 10 s"));
    let (mut send, mut receive) = tokio::time::timeout(OPEN_DEADLINE, connection.accept_bi())
        .await
        .map_err(|_| too_slow())?
        .map_err(|error| End::Gone(error.to_string()))?;
    let open =
        wire::read(&mut receive, MAX_ENROL_BYTES, OPEN_DEADLINE, "no request within 10 s").await?;
    let reply = match open {
        Open::Enrol(request) => decide(server, request).await,
        Open::Session(_)
        | Open::Golden(_)
        | Open::Page { .. }
        | Open::Chunks { .. }
        | Open::Packed { .. }
        | Open::Upload { .. }
        | Open::SideFile { .. }
        | Open::Record { .. }
        | Open::AsLeft { .. } => {
            return Err(End::Ours(Close::NoCertificate));
        }
    };
    wire::write(&mut send, &reply).await?;
    send.finish().map_err(|error| End::Gone(error.to_string()))
}

async fn decide<F: Fleet, L: Library>(server: &Server<F, L>, request: Enrol) -> EnrolReply {
    match grant(server, request).await {
        Ok(granted) => granted,
        Err(reason) => {
            tracing::warn!("enrolment refused: {reason}");
            EnrolReply::Refused { reason }
        }
    }
}

async fn grant<F: Fleet, L: Library>(
    server: &Server<F, L>,
    Enrol { token, request, fingerprint }: Enrol,
) -> Result<EnrolReply, String> {
    let token: EnrolmentToken = server.pki.unseal(&token).map_err(|error| error.to_string())?;
    let request = NodeRequest::read(&request).map_err(|error| error.to_string())?;
    let (boot, mac) = (token.boot, token.mac);
    let node = server
        .fleet
        .enrol(token, request.key(), fingerprint)
        .await
        .map_err(|refusal| refusal.to_string())?;
    let now = jiff::Timestamp::now().as_second();
    let certificate = server.pki.issue_node(&request, node, now).map_err(|error| {
        tracing::error!("issuing a certificate for {node}: {:#}", anyhow::Error::from(error));
        "the controller could not make a certificate; its log says why".to_owned()
    })?;
    tracing::info!(%node, %boot, %mac, "enrolled");
    Ok(EnrolReply::Granted { node, certificate, manifest_key: server.pki.manifest_public_key() })
}
