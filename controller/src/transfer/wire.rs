//! Framed messages on QUIC streams, each with a limit and a deadline.

use super::{Close, WRITE_PROGRESS};
use bytes::Bytes;
use metalcast_shared::codec::{self, LENGTH_BYTES};
use quinn::{ReadExactError, RecvStream, SendStream};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// A frame is handed to QUIC in pieces of this size, so that progress is seen between them.
const PIECE_BYTES: usize = 64 << 10;

/// Why nothing more comes or goes on a stream.
#[derive(Debug)]
pub enum End {
    /// The peer ended it in an orderly way, or the connection is gone.
    Gone(String),
    /// We end it.
    Ours(Close),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone(reason) => f.write_str(reason),
            Self::Ours(close) => close.fmt(f),
        }
    }
}

/// Reads one message of at most `limit` bytes that has to be complete within `deadline`; `what`
/// names it in the reason for closing.
pub async fn read<T: DeserializeOwned>(
    stream: &mut RecvStream,
    limit: usize,
    deadline: Duration,
    what: &'static str,
) -> Result<T, End> {
    match tokio::time::timeout(deadline, read_unhurried(stream, limit)).await {
        Ok(result) => result,
        Err(_) => Err(End::Ours(Close::TooSlow(what))),
    }
}

async fn read_unhurried<T: DeserializeOwned>(
    stream: &mut RecvStream,
    limit: usize,
) -> Result<T, End> {
    let protocol = |error: codec::CodecError| End::Ours(Close::Protocol(error.to_string().into()));
    let mut length = [0; LENGTH_BYTES];
    stream.read_exact(&mut length).await.map_err(ended)?;
    let length = codec::decode_length(length, limit).map_err(protocol)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(ended)?;
    codec::decode(&body, limit).map_err(protocol)
}

/// Reads bytes that belong to a message, as long as some come every [`WRITE_PROGRESS`].
pub async fn read_bytes(stream: &mut RecvStream, bytes: u32) -> Result<Vec<u8>, End> {
    let mut all = vec![0; bytes as usize];
    for piece in all.chunks_mut(PIECE_BYTES) {
        match tokio::time::timeout(WRITE_PROGRESS, stream.read_exact(piece)).await {
            Ok(read) => read.map_err(ended)?,
            Err(_) => return Err(End::Ours(Close::TooSlow("nothing was sent for 30 s"))),
        }
    }
    Ok(all)
}

fn ended(error: ReadExactError) -> End {
    match error {
        ReadExactError::FinishedEarly(0) => End::Gone("the agent ended the stream".into()),
        ReadExactError::FinishedEarly(_) => {
            End::Ours(Close::Protocol("the stream ended within a message".into()))
        }
        ReadExactError::ReadError(error) => End::Gone(error.to_string()),
    }
}

/// Sends one message.
pub async fn write<T: Serialize>(stream: &mut SendStream, message: &T) -> Result<(), End> {
    write_bytes(stream, codec::encode_framed(message).into()).await
}

/// Sends bytes, as long as the peer takes some of them every [`WRITE_PROGRESS`].
pub async fn write_bytes(stream: &mut SendStream, mut bytes: Bytes) -> Result<(), End> {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
        match tokio::time::timeout(WRITE_PROGRESS, stream.write_chunk(piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(End::Gone(error.to_string())),
            Err(_) => return Err(End::Ours(Close::TooSlow("nothing was read for 30 s"))),
        }
    }
    Ok(())
}
