//! Packed files, to any node that knows their hash: bundles of tools that lie beside the RAM image, and what projects
//! add to deployed systems.

use super::{
    Fleet, Library, Server,
    wire::{self, End},
};
use anyhow::Context;
use bytes::BytesMut;
use metalcast_initramfs::bundle;
use metalcast_shared::{hash::Hash, to_agent::BundleReply};
use quinn::SendStream;
use std::path::Path;
use tokio::{
    fs::File,
    io::{AsyncReadExt, Take},
};

/// Read and sent at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Answers a request for a file. Whether it is the right one the agent finds by its hash.
pub async fn serve<F: Fleet, L: Library>(
    server: &Server<F, L>,
    hash: Hash,
    send: &mut SendStream,
) -> Result<(), End> {
    let name = bundle::file_name(hash);
    let paths = server.packed.each_ref().map(|dir| dir.join(&name));
    let path = paths.iter().find(|path| path.exists()).unwrap_or(&paths[0]);
    let (mut file, bytes) = match open(path).await {
        Ok(opened) => opened,
        Err(error) => {
            tracing::warn!("packed file not sent: {error:#}");
            let reason = format!(
                "{error:#}; the node may have booted another RAM image than the one that is there"
            );
            return wire::write(send, &BundleReply::Unavailable { reason }).await;
        }
    };
    wire::write(send, &BundleReply::File { bytes }).await?;
    loop {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        match file.read_buf(&mut piece).await {
            Ok(0) => return Ok(()),
            Ok(_) => wire::write_bytes(send, piece.freeze()).await?,
            Err(error) => {
                tracing::warn!("reading {}: {error}", path.display());
                return Err(End::Gone(error.to_string()));
            }
        }
    }
}

/// The file, and how much of it is sent.
async fn open(path: &Path) -> anyhow::Result<(Take<File>, u32)> {
    let file = File::open(path).await.with_context(|| format!("opening {}", path.display()))?;
    let length = file.metadata().await.context("asking for its length")?.len();
    let bytes = u32::try_from(length).ok().filter(|bytes| *bytes <= bundle::PACKED_LIMIT);
    let bytes = bytes.with_context(|| format!("{} is too long to be sent", path.display()))?;
    Ok((file.take(length), bytes))
}
