//! Pages, chunks and packed files over the connection that there is, or the next one.

use super::wire;
use crate::task::{
    Cancel, ChunkSource, Closed, Delivery, DiskSource, Loss, PackedFile, Request, Sink, Wanted,
};
use anyhow::{Context, bail, ensure};
use metalcast_shared::{
    codec::MAX_MESSAGE_BYTES,
    hash::Hash,
    id::Revision,
    manifest::MAX_PAGE_BYTES,
    to_agent::{BundleReply, ChunkHeader, PageReply},
    to_controller::Open,
    transfer::MAX_ATTEMPTS,
    whole_disk::{MAX_GAP_BYTES, SideFile},
};
use quinn::{Connection, RecvStream};
use std::{collections::VecDeque, future::Future, sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::watch};

/// How long the next page or chunk may take on a connection that lives.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Pause before something that the controller could not give is asked for again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How often a request to stop is looked for.
const CANCEL_POLL: Duration = Duration::from_millis(200);

/// Slack for what postcard puts around a page.
const PAGE_REPLY_BYTES: usize = MAX_PAGE_BYTES + 64;

/// The connections of one task.
#[derive(Clone)]
pub(super) struct Line {
    links: watch::Receiver<Option<Connection>>,
    cancel: Arc<Cancel>,
}

/// All of one revision, from the controller.
pub(super) struct QuicDisk {
    pub(super) line: Line,
    pub(super) runtime: Handle,
    pub(super) revision: Revision,
}

impl DiskSource for QuicDisk {
    fn partition(&self, name: &str) -> Box<dyn ChunkSource + '_> {
        let part = (self.revision.clone(), name.to_owned());
        Box::new(QuicSource::new(self.line.clone(), self.runtime.clone(), part))
    }

    fn side_file(&self, file: &SideFile) -> anyhow::Result<Vec<u8>> {
        ensure!(file.bytes <= MAX_GAP_BYTES, "{} bytes are too many", file.bytes);
        let mismatch = "it is not what the order names";
        let wanted = WantedFile { bytes: file.bytes, hash: file.hash, mismatch };
        let (revision, name) = (self.revision.clone(), file.name.clone());
        let open = Open::SideFile { revision, name };
        self.runtime.block_on(self.line.file(&file.name, &open, wanted))
    }
}

/// One partition of one revision, from the controller.
pub(super) struct QuicSource {
    fetcher: Arc<Fetcher>,
    runtime: Handle,
}

struct Fetcher {
    line: Line,
    revision: Revision,
    partition: String,
}

impl QuicSource {
    pub(super) fn new(
        line: Line,
        runtime: Handle,
        (revision, partition): (Revision, String),
    ) -> Self {
        Self { fetcher: Arc::new(Fetcher { line, revision, partition }), runtime }
    }
}

impl ChunkSource for QuicSource {
    fn page(&self, number: u32) -> anyhow::Result<Vec<u8>> {
        self.runtime.block_on(self.fetcher.page(number))
    }

    fn request(&self, request: Request, sink: Sink) {
        let fetcher = self.fetcher.clone();
        self.runtime.spawn(async move {
            // Closed says that nobody wants any more.
            let _ = fetcher.chunks(request, &sink).await;
        });
    }
}

impl Fetcher {
    async fn page(&self, number: u32) -> anyhow::Result<Vec<u8>> {
        let ask = |connection| self.ask_page(connection, number);
        self.line.insist(&format!("page {number}"), ask).await
    }

    async fn ask_page(
        &self,
        connection: Connection,
        page: u32,
    ) -> anyhow::Result<Result<Vec<u8>, String>> {
        let (revision, partition) = (self.revision.clone(), self.partition.clone());
        let mut stream = open(&connection, Open::Page { revision, partition, page }).await?;
        match limited(wire::receive(&mut stream, PAGE_REPLY_BYTES)).await? {
            PageReply::Page(bytes) => Ok(Ok(bytes)),
            PageReply::Unavailable { reason } => Ok(Err(reason)),
        }
    }

    /// Answers every chunk of the request through the sink.
    async fn chunks(&self, request: Request, sink: &Sink) -> Result<(), Closed> {
        let connection = tokio::select! {
            connection = self.line.connection() => connection,
            () = sink.closed() => return Err(Closed),
        };
        let Ok(connection) = connection else { return Err(Closed) };
        let mut left: VecDeque<Wanted> = request.chunks.into();
        let outcome = self.stream_chunks(&connection, request.page, &mut left, sink).await;
        let loss = match outcome {
            Ok(()) => return Ok(()),
            Err(Broken::Closed) => return Err(Closed),
            Err(Broken::Stream(_)) if connection.close_reason().is_some() => {
                self.line.lost(&connection).await;
                Loss::Connection
            }
            Err(Broken::Stream(error)) => {
                tokio::time::sleep(RETRY_PAUSE).await;
                Loss::Refused(format!("{error:#}"))
            }
        };
        for Wanted { position, .. } in left {
            sink.send(Delivery { position, what: Err(loss.clone()) }).await?;
        }
        Ok(())
    }

    async fn stream_chunks(
        &self,
        connection: &Connection,
        page: u32,
        left: &mut VecDeque<Wanted>,
        sink: &Sink,
    ) -> Result<(), Broken> {
        let open_message = Open::Chunks {
            revision: self.revision.clone(),
            partition: self.partition.clone(),
            page,
            positions: left.iter().map(|wanted| wanted.position).collect(),
        };
        let mut stream = tokio::select! {
            stream = open(connection, open_message) => stream?,
            () = sink.closed() => return Err(Broken::Closed),
        };
        while let Some(wanted) = left.front() {
            let what = tokio::select! {
                what = limited(chunk(&mut stream, wanted)) => what?,
                () = sink.closed() => return Err(Broken::Closed),
            };
            if what.is_err() {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            let position = wanted.position;
            left.pop_front();
            sink.send(Delivery { position, what }).await.map_err(|Closed| Broken::Closed)?;
        }
        Ok(())
    }
}

impl Line {
    pub(super) fn new(links: watch::Receiver<Option<Connection>>, cancel: Arc<Cancel>) -> Self {
        Self { links, cancel }
    }

    /// A file by its hash.
    pub(super) async fn packed(&self, file: PackedFile<'_>) -> anyhow::Result<Vec<u8>> {
        let PackedFile { what, bytes, hash } = file;
        let mismatch = "the controller's is not what the hash says";
        self.file(what, &Open::Packed { hash }, WantedFile { bytes, hash, mismatch }).await
    }

    pub(super) async fn file(
        &self,
        what: &str,
        open: &Open,
        wanted: WantedFile,
    ) -> anyhow::Result<Vec<u8>> {
        self.insist(what, |connection| ask_file(connection, open.clone(), wanted)).await
    }

    /// Asks over the connection that there is, or the next one, until the answer is what was asked for.
    /// `ask` gives the controller's reason where it cannot; a few such answers are an error.
    pub(super) async fn insist<A: Future<Output = anyhow::Result<Result<Vec<u8>, String>>>>(
        &self,
        what: &str,
        ask: impl Fn(Connection) -> A,
    ) -> anyhow::Result<Vec<u8>> {
        let mut attempt = 1;
        loop {
            let connection = self.connection().await?;
            let problem = match self.or_cancelled(ask(connection.clone())).await? {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(reason)) => reason,
                Err(_) if connection.close_reason().is_some() => {
                    self.lost(&connection).await;
                    continue;
                }
                Err(error) => format!("{error:#}"),
            };
            if attempt == MAX_ATTEMPTS {
                bail!("{problem} ({attempt} attempts)");
            }
            tracing::warn!("{what}: {problem}; asking again");
            attempt += 1;
            self.or_cancelled(tokio::time::sleep(RETRY_PAUSE)).await?;
        }
    }

    /// The connection that there is, or the next one.
    pub(super) async fn connection(&self) -> anyhow::Result<Connection> {
        let mut links = self.links.clone();
        let link =
            self.or_cancelled(async { links.wait_for(Option::is_some).await.map(|l| l.clone()) });
        link.await?.ok().flatten().context("the session has ended")
    }

    /// Waits until a connection that broke is no longer given out.
    pub(super) async fn lost(&self, connection: &Connection) {
        let mut links = self.links.clone();
        let id = connection.stable_id();
        let other = links.wait_for(|link| link.as_ref().is_none_or(|link| link.stable_id() != id));
        // Either way the next attempt finds out.
        let _ = tokio::time::timeout(RETRY_PAUSE, other).await;
    }

    /// Ends early, with an error, if the task is to stop.
    pub(super) async fn or_cancelled<T>(&self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        tokio::pin!(work);
        loop {
            self.cancel.check()?;
            tokio::select! {
                value = &mut work => return Ok(value),
                () = tokio::time::sleep(CANCEL_POLL) => {}
            }
        }
    }
}

/// A file that is asked for.
#[derive(Clone, Copy)]
pub(super) struct WantedFile {
    pub(super) bytes: u32,
    pub(super) hash: Hash,
    /// What is said of another one.
    pub(super) mismatch: &'static str,
}

async fn ask_file(
    connection: Connection,
    what: Open,
    wanted: WantedFile,
) -> anyhow::Result<Result<Vec<u8>, String>> {
    let mut stream = open(&connection, what).await?;
    let bytes = match limited(wire::receive(&mut stream, MAX_MESSAGE_BYTES)).await? {
        BundleReply::Unavailable { reason } => return Ok(Err(reason)),
        BundleReply::File { bytes } => bytes,
    };
    let expected = wanted.bytes;
    ensure!(bytes == expected, "it has {bytes} bytes instead of {expected}");
    let mut file = vec![0; bytes as usize];
    let received = stream.read_exact(&mut file);
    limited(async { received.await.context("receiving a file") }).await?;
    ensure!(Hash::of(&file) == wanted.hash, "{}", wanted.mismatch);
    Ok(Ok(file))
}

/// Why a request was not answered to its end.
enum Broken {
    Closed,
    Stream(anyhow::Error),
}

impl From<anyhow::Error> for Broken {
    fn from(error: anyhow::Error) -> Self {
        Self::Stream(error)
    }
}

async fn open(connection: &Connection, message: Open) -> anyhow::Result<RecvStream> {
    let (mut send, receive) = connection.open_bi().await.context("opening a stream")?;
    wire::send(&mut send, &message).await?;
    send.finish().context("asking")?;
    Ok(receive)
}

pub(super) async fn limited<T>(
    answer: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(ANSWER_LIMIT, answer)
        .await
        .map_err(|_| anyhow::anyhow!("no answer for {} s", ANSWER_LIMIT.as_secs()))?
}

/// Reads one answer. Its hash is checked by who asked.
async fn chunk(stream: &mut RecvStream, wanted: &Wanted) -> anyhow::Result<Result<Vec<u8>, Loss>> {
    match wire::receive(stream, MAX_MESSAGE_BYTES).await? {
        ChunkHeader::Frame { index, bytes, .. }
            if index == wanted.index && bytes == wanted.frame_bytes =>
        {
            let mut frame = vec![0; bytes as usize];
            stream.read_exact(&mut frame).await.context("receiving a frame")?;
            Ok(Ok(frame))
        }
        ChunkHeader::Frame { index, bytes, .. } => bail!(
            "asked for chunk {} of {} bytes, got {index} of {bytes}",
            wanted.index,
            wanted.frame_bytes
        ),
        ChunkHeader::Unavailable { reason, .. } => Ok(Err(Loss::Refused(reason))),
    }
}
