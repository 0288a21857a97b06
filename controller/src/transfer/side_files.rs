//! Small files beside images, to nodes whose task needs the image.

use super::{
    FRAME_BUDGET_BYTES, Fleet, Library, Server,
    chunks::{blocking, not_needed},
    connection::Peer,
    wire::{self, End},
};
use anyhow::Context;
use metalcast_shared::{id::Revision, to_agent::BundleReply, whole_disk::MAX_GAP_BYTES};
use quinn::SendStream;

/// Read at a time on one connection, in KiB: two files of the largest kind.
const BUDGET_KIB: u32 = MAX_GAP_BYTES >> 10;
const _: () = assert!(MAX_GAP_BYTES <= FRAME_BUDGET_BYTES);

/// Answers a request for a file. Whether it is the right one the agent finds by its hash.
pub async fn serve<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    revision: Revision,
    name: String,
    send: &mut SendStream,
) -> Result<(), End> {
    let budget = peer.budget.clone().acquire_many_owned(BUDGET_KIB).await;
    let _budget = budget.expect("the budget of a connection is never closed");
    match read(server, peer, revision, name).await {
        Ok((content, bytes)) => {
            wire::write(send, &BundleReply::File { bytes }).await?;
            wire::write_bytes(send, content.into()).await
        }
        Err(error) => {
            tracing::warn!("file beside an image not sent: {error:#}");
            let reason = format!("{error:#}");
            wire::write(send, &BundleReply::Unavailable { reason }).await
        }
    }
}

async fn read<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    revision: Revision,
    name: String,
) -> anyhow::Result<(Vec<u8>, u32)> {
    if !server.fleet.may_read(peer.node, peer.key, &revision) {
        return Err(not_needed(&revision));
    }
    let content = blocking(server, move |library| {
        library.side_file(&revision, &name).with_context(|| format!("reading {name} of {revision}"))
    })
    .await?;
    let bytes = u32::try_from(content.len()).ok().filter(|bytes| *bytes <= MAX_GAP_BYTES);
    let bytes = bytes.with_context(|| format!("{} bytes are too many", content.len()))?;
    Ok((content, bytes))
}
