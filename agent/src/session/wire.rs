//! Framed messages on QUIC streams.

use anyhow::Context;
use metalcast_shared::codec;
use quinn::{RecvStream, SendStream};
use serde::{Serialize, de::DeserializeOwned};

pub(super) async fn send<T: Serialize>(stream: &mut SendStream, message: &T) -> anyhow::Result<()> {
    stream.write_all(&codec::encode_framed(message)).await.context("sending")
}

/// Reads a message of at most `limit` bytes.
pub(super) async fn receive<T: DeserializeOwned>(
    stream: &mut RecvStream,
    limit: usize,
) -> anyhow::Result<T> {
    let mut length = [0; codec::LENGTH_BYTES];
    stream.read_exact(&mut length).await.context("waiting for a message")?;
    let bytes = codec::decode_length(length, limit)?;
    let mut body = vec![0; bytes];
    stream.read_exact(&mut body).await.context("receiving a message")?;
    Ok(codec::decode(&body, limit)?)
}
