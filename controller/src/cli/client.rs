//! HTTP/1.1 over the controller's socket, one connection per request.

use crate::api::Problem;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming},
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::UnixStream, sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;

/// Most bytes of an answer: the events of a job over thousands of nodes.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Longest time that a request may take; longer than any that the controller lets wait.
const TIMEOUT: Duration = Duration::from_secs(90);

/// The controller, as the command line reaches it.
#[derive(Clone, Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

/// A body that comes piece by piece; an error instead of a piece breaks it off.
#[derive(Debug)]
pub(super) struct Pieces(pub(super) mpsc::Receiver<std::io::Result<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The socket may not be opened.
    #[error("no permission to open {}: run as root, or join the socket's group", socket.display())]
    Denied { socket: PathBuf },
    /// Nobody listens.
    #[error("no controller answers on {}: is `metalcast serve` running? (--socket or METALCAST_SOCKET names another socket)", socket.display())]
    Unreachable { socket: PathBuf, source: std::io::Error },
    /// The connection broke.
    #[error("the controller broke off the connection")]
    Broken { source: Box<dyn std::error::Error + Send + Sync> },
    /// It took too long.
    #[error("the controller did not answer within {} s", TIMEOUT.as_secs())]
    TooSlow,
    /// The answer is not what it should be.
    #[error("the controller's answer cannot be read; is it of another version?")]
    Unreadable { source: serde_json::Error },
    /// What was received cannot be written.
    #[error("the controller's answer cannot be written")]
    Unwritable { source: std::io::Error },
    /// The controller says no.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
}

impl CallError {
    /// Whether a controller that is being restarted would look like this.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::TooSlow => true,
            Self::Denied { .. }
            | Self::Unreadable { .. }
            | Self::Unwritable { .. }
            | Self::Refused(_) => false,
        }
    }
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        read(&self.call(Method::GET, path, Bytes::new()).await?)
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        read(&self.call(Method::POST, path, json(body)).await?)
    }

    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        read(&self.call(Method::PATCH, path, json(body)).await?)
    }

    /// The answer says what was, or would be, removed.
    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        read(&self.call(Method::DELETE, path, Bytes::new()).await?)
    }

    /// Writes an answer of any length.
    pub(super) async fn download(&self, path: &str, mut to: &File) -> Result<(), CallError> {
        let slow = |_| CallError::TooSlow;
        let begun = timeout(TIMEOUT, self.begin(Method::GET, path, Bytes::new()));
        let (response, _connection) = begun.await.map_err(slow)??;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            return Err(refused(status, &timeout(TIMEOUT, whole(body)).await.map_err(slow)??));
        }
        while let Some(frame) = timeout(TIMEOUT, body.frame()).await.map_err(slow)? {
            let frame = frame.map_err(broken)?;
            let data = frame.data_ref().map(AsRef::as_ref).unwrap_or_default();
            to.write_all(data).map_err(|source| CallError::Unwritable { source })?;
        }
        Ok(())
    }

    /// Sends a stream of any length, for as long as it takes.
    pub(super) async fn upload(&self, path: &str, stream: Pieces) -> Result<(), CallError> {
        let (response, _connection) = self.send(Method::PUT, path, stream).await?;
        let status = response.status();
        let bytes = whole(response.into_body()).await?;
        if status.is_success() { Ok(()) } else { Err(refused(status, &bytes)) }
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CallError> {
        let exchange = async {
            let (response, _connection) = self.begin(method, path, body).await?;
            let status = response.status();
            let bytes = whole(response.into_body()).await?;
            if status.is_success() { Ok(bytes) } else { Err(refused(status, &bytes)) }
        };
        timeout(TIMEOUT, exchange).await.map_err(|_| CallError::TooSlow)?
    }

    /// Asks, and waits for the beginning of the answer. The connection ends when it is dropped.
    async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), CallError> {
        self.send(method, path, Full::new(body)).await
    }

    async fn send<B>(
        &self,
        method: Method,
        path: &str,
        body: B,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), CallError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            let socket = self.socket.clone();
            match source.kind() {
                ErrorKind::PermissionDenied => CallError::Denied { socket },
                _ => CallError::Unreachable { socket, source },
            }
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // What goes wrong in it shows in the answer.
        let connection = AbortOnDropHandle::new(tokio::spawn(async { drop(connection.await) }));
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(HOST, "metalcast")
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .expect("paths are escaped");
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((response, connection))
    }
}

fn broken(source: hyper::Error) -> CallError {
    CallError::Broken { source: source.into() }
}

async fn whole(body: Incoming) -> Result<Bytes, CallError> {
    let collected = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    Ok(collected.map_err(|source| CallError::Broken { source })?.to_bytes())
}

fn refused(status: StatusCode, bytes: &[u8]) -> CallError {
    let problem = serde_json::from_slice(bytes).unwrap_or_else(|_| {
        let text: String = String::from_utf8_lossy(bytes).chars().take(200).collect();
        Problem::new(status, "", format!("the controller answered {status}: {text}"))
    });
    CallError::Refused(Box::new(problem))
}

fn json(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("requests are plain data").into()
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(bytes).map_err(|source| CallError::Unreadable { source })
}

/// A piece of text as one segment of a path (RFC 3986, unreserved characters stay).
pub(super) fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_one_segment() {
        assert_eq!(segment("debian-12@7"), "debian-12%407");
        assert_eq!(segment("../a b/é"), "..%2Fa%20b%2F%C3%A9");
    }
}
