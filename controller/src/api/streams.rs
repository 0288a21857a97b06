//! Streams that clients send: from the body of a request to a thread that may block.
//!
//! An operation that wants one is begun first, so that how it fares is known however its stream ends.

use super::{Problem, Shared, code};
use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::StatusCode,
};
use http_body_util::BodyExt;
use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{runtime::Handle, sync::mpsc, time::timeout};

/// Pieces that wait to be read: the connection's own buffers are behind them.
const QUEUED: usize = 4;

/// How long it may take until a stream begins.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);

/// How long a stream may stand still.
const STANDS_STILL: Duration = Duration::from_secs(600);

/// A part of a stream.
enum Piece {
    Begun,
    Data(Bytes),
    End,
}

/// Where the pieces of a stream go.
pub(super) struct Sender(mpsc::Sender<Piece>);

/// The stream as a thread reads it, which must not be one of the runtime's own.
pub(super) struct Stream {
    pieces: mpsc::Receiver<Piece>,
    runtime: Handle,
    state: StreamState,
}

enum StreamState {
    Expected,
    Begun { rest: Bytes },
    Ended,
}

/// The streams that operations wait for, by the operation.
#[derive(Default)]
pub(super) struct Streams {
    expected: Mutex<BTreeMap<u64, Sender>>,
}

/// Both ends. Called on the runtime.
pub(super) fn channel() -> (Sender, Stream) {
    let (sender, pieces) = mpsc::channel(QUEUED);
    let stream = Stream { pieces, runtime: Handle::current(), state: StreamState::Expected };
    (Sender(sender), stream)
}

impl Streams {
    /// A stream for this operation may come.
    pub(super) fn expect(&self, operation: u64, sender: Sender) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        // Of operations that have given up.
        expected.retain(|_, sender| !sender.0.is_closed());
        expected.insert(operation, sender);
    }

    fn take(&self, operation: u64) -> Option<Sender> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).remove(&operation)
    }
}

/// Takes the stream for an operation.
pub(super) async fn send(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    mut body: Body,
) -> Result<StatusCode, Problem> {
    let ended = || {
        let detail = "the operation does not take a stream, or not any more";
        Problem::new(StatusCode::CONFLICT, code::INVALID, detail)
    };
    let Sender(pieces) =
        id.parse().ok().and_then(|id| shared.streams.take(id)).ok_or_else(ended)?;
    pieces.send(Piece::Begun).await.map_err(|_| ended())?;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = pieces.closed() => return Err(ended()),
        };
        match frame {
            // Without an end, which is how the reader is told.
            Some(Err(error)) => {
                let detail = format!("the stream broke off: {error}");
                return Err(Problem::new(StatusCode::BAD_REQUEST, code::INVALID, detail));
            }
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                pieces.send(Piece::Data(data)).await.map_err(|_| ended())?;
            }
            None => {
                pieces.send(Piece::End).await.map_err(|_| ended())?;
                return Ok(StatusCode::NO_CONTENT);
            }
        }
    }
}

impl Stream {
    fn next(&mut self) -> io::Result<Piece> {
        let (limit, what) = match self.state {
            StreamState::Expected => (BEGINS_WITHIN, "nobody sent it"),
            StreamState::Begun { .. } | StreamState::Ended => (STANDS_STILL, "it stood still"),
        };
        match self.runtime.block_on(timeout(limit, self.pieces.recv())) {
            Ok(Some(piece)) => Ok(piece),
            Ok(None) => {
                let what = "the connection to whoever sent it was lost";
                Err(io::Error::new(io::ErrorKind::BrokenPipe, what))
            }
            Err(_) => {
                let what = format!("{what} for {} s", limit.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, what))
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.state {
                StreamState::Ended => return Ok(0),
                StreamState::Begun { rest } if !rest.is_empty() => {
                    let bytes = rest.len().min(buffer.len());
                    buffer[..bytes].copy_from_slice(&rest.split_to(bytes));
                    return Ok(bytes);
                }
                StreamState::Begun { .. } | StreamState::Expected => {}
            }
            self.state = match self.next()? {
                Piece::Begun => StreamState::Begun { rest: Bytes::new() },
                Piece::Data(rest) => StreamState::Begun { rest },
                Piece::End => StreamState::Ended,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a thread reads of a stream of these pieces, after which its sender is gone.
    async fn read(pieces: Vec<Piece>) -> (Vec<u8>, io::Result<usize>) {
        let (sender, mut stream) = channel();
        let reader = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            let ended = stream.read_to_end(&mut bytes);
            (bytes, ended)
        });
        for piece in pieces {
            sender.0.send(piece).await.map_err(|_| "nobody reads").unwrap();
        }
        drop(sender);
        reader.await.unwrap()
    }

    #[tokio::test]
    async fn only_a_stream_that_has_an_end_is_whole() {
        let data = |text: &'static str| Piece::Data(Bytes::from_static(text.as_bytes()));
        let pieces = || vec![Piece::Begun, data("one "), data(""), data("two")];
        let (bytes, ended) = read(pieces().into_iter().chain([Piece::End]).collect()).await;
        assert_eq!((&bytes[..], ended.unwrap()), (&b"one two"[..], 7));
        let (bytes, ended) = read(pieces()).await;
        assert_eq!(bytes, b"one two");
        assert!(ended.unwrap_err().to_string().contains("was lost"));
        assert!(read(vec![]).await.1.is_err());
    }

    #[tokio::test]
    async fn streams_that_nobody_waits_for_any_more_are_forgotten() {
        let streams = Streams::default();
        let (sender, stream) = channel();
        streams.expect(1, sender);
        drop(stream);
        let (sender, _stream) = channel();
        streams.expect(2, sender);
        assert!(streams.take(1).is_none());
        assert!(streams.take(2).is_some());
        assert!(streams.take(2).is_none());
    }
}
