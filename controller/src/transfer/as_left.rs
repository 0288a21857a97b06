//! What deploys left: taken from the agents that deployed, given to those that compare.

use super::{
    Fleet, Library, Server,
    connection::Peer,
    wire::{self, End},
};
use metalcast_shared::{
    as_left::MAX_AS_LEFT_BYTES,
    id::TaskId,
    to_agent::{BundleReply, RecordReply},
};
use quinn::{RecvStream, SendStream};

/// Held at a time on one connection, in KiB.
const BUDGET_KIB: u32 = MAX_AS_LEFT_BYTES >> 10;

/// Takes what a deploy left, and answers when it is kept.
pub async fn take<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    (task, bytes): (TaskId, u32),
    send: &mut SendStream,
    mut receive: RecvStream,
) -> Result<(), End> {
    let budget = peer.budget.clone().acquire_many_owned(BUDGET_KIB).await;
    let _budget = budget.expect("the budget of a connection is never closed");
    let encoded = wire::read_bytes(&mut receive, bytes).await?;
    let kept = server.fleet.keep_left((peer.node, peer.key), task, encoded).await;
    let reply = match kept {
        Ok(()) => RecordReply::Kept,
        Err(error) => {
            tracing::warn!(job = %task.job, "what a deploy left is not kept: {error:#}");
            RecordReply::Refused { reason: format!("{error:#}") }
        }
    };
    wire::write(send, &reply).await
}

/// Answers a request for what a deploy left.
pub async fn give<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    task: TaskId,
    send: &mut SendStream,
) -> Result<(), End> {
    let budget = peer.budget.clone().acquire_many_owned(BUDGET_KIB).await;
    let _budget = budget.expect("the budget of a connection is never closed");
    match server.fleet.as_left((peer.node, peer.key), task).await {
        Ok(encoded) => {
            // It was not longer when it came.
            let bytes = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
            wire::write(send, &BundleReply::File { bytes }).await?;
            wire::write_bytes(send, encoded.into()).await
        }
        Err(error) => {
            let reason = format!("{error:#}");
            wire::write(send, &BundleReply::Unavailable { reason }).await
        }
    }
}
