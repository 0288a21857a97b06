//! Pages and chunks of images, to nodes whose task needs them.
//!
//! Frames are read on blocking threads, up to [`READAHEAD_FRAMES`] ahead of what QUIC took, so that
//! the wire does not wait for the disk.

use super::{
    Fleet, Server,
    connection::Peer,
    wire::{self, End},
};
use crate::images::{Images, Upload, UploadError, UploadOrder};
use anyhow::Context;
use bytes::Bytes;
use metalcast_shared::{
    codec,
    id::Revision,
    manifest::{Chunk, MAX_PAGE_BYTES, Page},
    to_agent::{ChunkHeader, PageReply},
    upload::Survey,
};
use quinn::SendStream;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Frames of one stream that are read and wait to be sent.
const READAHEAD_FRAMES: usize = 2;
/// Reads at a time, over all connections: they share the blocking threads with everyone else.
const MAX_READS: usize = 32;
/// Decoded pages kept; one has 1024 chunks and usually under 200 KiB.
const MAX_CACHED_PAGES: usize = 32;

/// Where pages and frames come from, and where new images go. All of it blocks.
pub trait Library: Send + Sync + 'static {
    /// The encoded page.
    fn page(&self, revision: &Revision, partition: &str, page: u32) -> anyhow::Result<Vec<u8>>;

    /// The frame of a chunk as it is stored, its hash checked.
    fn frame(&self, revision: &Revision, partition: &str, chunk: &Chunk)
    -> anyhow::Result<Vec<u8>>;

    /// Begins an image that an agent will send.
    fn begin_upload(&self, order: UploadOrder, survey: Survey) -> Result<Upload, UploadError>;

    /// Makes a revision of what was sent.
    fn publish(&self, upload: Upload) -> Result<Revision, UploadError>;

    /// A small file beside the data, without the zeros at its end.
    fn side_file(&self, revision: &Revision, name: &str) -> anyhow::Result<Vec<u8>>;
}

impl Library for Images {
    fn page(&self, revision: &Revision, partition: &str, page: u32) -> anyhow::Result<Vec<u8>> {
        Ok(Images::page(self, revision, partition, page)?)
    }

    fn frame(
        &self,
        revision: &Revision,
        partition: &str,
        chunk: &Chunk,
    ) -> anyhow::Result<Vec<u8>> {
        Ok(Images::frame(self, revision, partition, chunk)?)
    }

    fn begin_upload(&self, order: UploadOrder, survey: Survey) -> Result<Upload, UploadError> {
        Images::begin_upload(self, order, survey)
    }

    fn publish(&self, upload: Upload) -> Result<Revision, UploadError> {
        Images::publish(self, upload)
    }

    fn side_file(&self, revision: &Revision, name: &str) -> anyhow::Result<Vec<u8>> {
        Ok(Images::side_file(self, revision, name)?)
    }
}

/// A request for chunks.
pub struct Request {
    /// Of which revision.
    pub revision: Revision,
    /// Of which partition.
    pub partition: String,
    /// On which page.
    pub page: u32,
    /// Positions on it.
    pub positions: Vec<u16>,
}

type PageKey = (Revision, String, u32);

/// Pages decoded lately, for all connections, and the limit on reads.
pub struct PageCache {
    pages: Mutex<VecDeque<(PageKey, Arc<Page>)>>,
    reads: Semaphore,
}

impl Default for PageCache {
    fn default() -> Self {
        Self { pages: Mutex::default(), reads: Semaphore::new(MAX_READS) }
    }
}

impl PageCache {
    fn get(&self, key: &PageKey) -> Option<Arc<Page>> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let at = pages.iter().position(|(other, _)| other == key)?;
        let entry = pages.remove(at)?;
        let page = entry.1.clone();
        pages.push_front(entry);
        Some(page)
    }

    fn put(&self, key: PageKey, page: Arc<Page>) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|(other, _)| *other != key);
        pages.push_front((key, page));
        pages.truncate(MAX_CACHED_PAGES);
    }
}

/// Answers a request for a page.
pub async fn page<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    revision: Revision,
    partition: String,
    page: u32,
    send: &mut SendStream,
) -> Result<(), End> {
    let result = if server.fleet.may_read(peer.node, peer.key, &revision) {
        blocking(server, move |library| library.page(&revision, &partition, page)).await
    } else {
        Err(not_needed(&revision))
    };
    let reply = match result {
        Ok(bytes) => PageReply::Page(bytes),
        Err(error) => {
            tracing::warn!("page {page} not sent: {error:#}");
            PageReply::Unavailable { reason: format!("{error:#}") }
        }
    };
    wire::write(send, &reply).await
}

/// Answers a request for chunks, in its order.
pub async fn serve<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    request: Request,
    send: &mut SendStream,
) -> Result<(), End> {
    let request = Arc::new(request);
    let (ready, mut frames) = mpsc::channel::<Ready>(READAHEAD_FRAMES);
    let reading = async {
        let page = decoded_page(server, peer, &request).await;
        for position in &request.positions {
            let answer = frame(server, peer, &request, &page, *position).await;
            if ready.send(answer).await.is_err() {
                break;
            }
        }
        drop(ready);
        Ok::<(), End>(())
    };
    let sending = async {
        while let Some(Ready { header, frame, budget }) = frames.recv().await {
            wire::write(send, &header).await?;
            wire::write_bytes(send, frame).await?;
            drop(budget);
        }
        Ok(())
    };
    tokio::try_join!(reading, sending).map(drop)
}

/// A chunk's answer, read and not yet sent.
struct Ready {
    header: ChunkHeader,
    frame: Bytes,
    budget: Option<OwnedSemaphorePermit>,
}

async fn frame<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    request: &Arc<Request>,
    page: &anyhow::Result<Arc<Page>>,
    position: u16,
) -> Ready {
    let chunk = match page {
        Ok(page) => page
            .chunks
            .get(usize::from(position))
            .cloned()
            .with_context(|| format!("page {} has no position {position}", request.page)),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    // Where there is no chunk there is no index; the agent counts answers.
    let index = chunk.as_ref().map_or(u32::MAX, |chunk| chunk.index);
    match read_frame(server, peer, request, chunk).await {
        Ok((chunk, frame, budget)) => Ready {
            header: ChunkHeader::Frame { index, bytes: chunk.frame_bytes, hash: chunk.frame_hash },
            frame: frame.into(),
            budget: Some(budget),
        },
        Err(error) => {
            tracing::warn!(revision = %request.revision, index, "chunk not sent: {error:#}");
            let reason = format!("{error:#}");
            let header = ChunkHeader::Unavailable { index, reason };
            Ready { header, frame: Bytes::new(), budget: None }
        }
    }
}

async fn read_frame<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    request: &Arc<Request>,
    chunk: anyhow::Result<Chunk>,
) -> anyhow::Result<(Chunk, Vec<u8>, OwnedSemaphorePermit)> {
    let chunk = chunk?;
    // Asked again for each frame: a task may end, and its right with it, in mid-stream.
    if !server.fleet.may_read(peer.node, peer.key, &request.revision) {
        return Err(not_needed(&request.revision));
    }
    let kib = (chunk.frame_bytes >> 10).clamp(1, super::FRAME_BUDGET_BYTES >> 10);
    let budget = peer
        .budget
        .clone()
        .acquire_many_owned(kib)
        .await
        .expect("the budget of a connection is never closed");
    let request = request.clone();
    let (chunk, frame) = blocking(server, move |library| {
        let frame = library.frame(&request.revision, &request.partition, &chunk)?;
        Ok((chunk, frame))
    })
    .await?;
    anyhow::ensure!(
        frame.len() == chunk.frame_bytes as usize,
        "the stored frame has another length"
    );
    Ok((chunk, frame, budget))
}

async fn decoded_page<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    request: &Request,
) -> anyhow::Result<Arc<Page>> {
    if !server.fleet.may_read(peer.node, peer.key, &request.revision) {
        return Err(not_needed(&request.revision));
    }
    let key = (request.revision.clone(), request.partition.clone(), request.page);
    if let Some(page) = server.pages.get(&key) {
        return Ok(page);
    }
    let wanted = key.clone();
    let page = blocking(server, move |library| {
        let (revision, partition, page) = wanted;
        let bytes = library.page(&revision, &partition, page)?;
        Ok(Arc::new(codec::decode::<Page>(&bytes, MAX_PAGE_BYTES)?))
    })
    .await?;
    server.pages.put(key, page.clone());
    Ok(page)
}

/// Runs `work` on a blocking thread.
pub(super) async fn blocking<F: Fleet, L: Library, T: Send + 'static>(
    server: &Server<F, L>,
    work: impl FnOnce(&L) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let _turn = server.pages.reads.acquire().await.expect("the limit on reads is never closed");
    let library = server.library.clone();
    tokio::task::spawn_blocking(move || work(&library)).await.context("reading was interrupted")?
}

pub(super) fn not_needed(revision: &Revision) -> anyhow::Error {
    anyhow::anyhow!("no task of this node needs {revision}")
}
