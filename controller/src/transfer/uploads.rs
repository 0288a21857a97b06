//! What agents send into the store: one upload for each task, on one stream at a time.
//!
//! ```text
//! stream ── parts, two ahead ──> blocking thread ── Upload (checks, writes)
//!    ^ only as fast as the store takes them             │ stays when the stream breaks
//!    └──────────── next stream: From(position) ─────────┘ gone when the task has ended
//! ```

use super::{
    Close, Fleet, Library, Server,
    connection::Peer,
    wire::{self, End},
};
use crate::{
    causes::with_causes,
    images::{Upload, UploadError, UploadOrder},
    service::UploadAnswer,
};
use anyhow::Context;
use metalcast_shared::{
    hash::Hash,
    id::{NodeId, Revision, TaskId},
    manifest::{CHUNK_BYTES, Chunk, MAX_BLOCK_BYTES},
    upload::{
        MAX_FILE_BYTES, MAX_HEAD_PIECE_BYTES, MAX_PART_BYTES, Survey, UploadPart, UploadPosition,
        UploadReply,
    },
};
use quinn::{RecvStream, SendStream};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;

/// Parts of one stream that were received and wait to be written.
const WAITING_PARTS: usize = 2;
/// Uploads at a time: each holds a bitmap and some chunks in memory.
const MAX_UPLOADS: usize = 32;
/// How long an agent may take to its next part: a disk that fails tries to read for minutes.
const PART_DEADLINE: Duration = Duration::from_secs(10 * 60);
/// How long the stream before may take to let go.
const TURN_DEADLINE: Duration = Duration::from_secs(60);
/// What zstd adds to what it cannot compress is far below this.
const FRAME_SLACK_BYTES: u32 = 64 << 10;

/// The uploads that have not ended.
#[derive(Default)]
pub struct Uploads {
    slots: Mutex<HashMap<TaskId, Arc<Slot>>>,
}

/// The upload of a task.
struct Slot {
    node: NodeId,
    key: Hash,
    stage: Arc<tokio::sync::Mutex<Stage>>,
    /// Ends the stream that has it.
    turn: Mutex<CancellationToken>,
}

/// How far it is.
#[derive(Default)]
enum Stage {
    /// Not begun, or over.
    #[default]
    None,
    /// Parts are missing.
    Open(Box<Upload>),
    /// It is in the store, but that may not be noted yet.
    Saved(Revision),
}

/// Something that came on a stream.
enum Part {
    Head(Vec<u8>, bool),
    Chunk(Chunk, Vec<u8>),
    File(String, Vec<u8>),
    Finish,
}

/// Why a stream ends before its upload.
enum Stop {
    /// The agent is told so.
    Refused { reason: String, may_retry: bool },
    /// There is nobody to tell, or it is told otherwise.
    Stream(End),
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::Stream(end)
    }
}

impl Stop {
    fn refused(reason: impl Into<String>, may_retry: bool) -> Self {
        Self::Refused { reason: reason.into(), may_retry }
    }
}

impl From<UploadError> for Stop {
    fn from(error: UploadError) -> Self {
        Self::Refused { reason: with_causes(&error), may_retry: error.may_go_on() }
    }
}

impl Uploads {
    /// Gives up the uploads of tasks that have ended. Deletes their files on a blocking thread.
    pub fn sweep<F: Fleet>(&self, fleet: &F) {
        self.end(|task, slot| !fleet.may_upload(slot.node, slot.key, task));
    }

    /// Gives up all.
    pub fn clear(&self) {
        self.end(|_, _| true);
    }

    fn end(&self, is_over: impl Fn(TaskId, &Slot) -> bool) {
        let ended: Vec<_> = self.slots().extract_if(|task, slot| is_over(*task, slot)).collect();
        if ended.is_empty() {
            return;
        }
        ended.iter().for_each(|(_, slot)| slot.turn().cancel());
        tokio::task::spawn_blocking(move || drop(ended));
    }

    /// The slot of a task, and the turn in it, which ends that of any stream before.
    fn take_turn(&self, task: TaskId, peer: &Peer) -> Option<(Arc<Slot>, CancellationToken)> {
        let mut slots = self.slots();
        if slots.len() >= MAX_UPLOADS && !slots.contains_key(&task) {
            return None;
        }
        let slot = slots.entry(task).or_insert_with(|| {
            let (stage, turn) = (Arc::default(), Mutex::default());
            Arc::new(Slot { node: peer.node, key: peer.key, stage, turn })
        });
        let slot = slot.clone();
        drop(slots);
        let turn = CancellationToken::new();
        std::mem::replace(&mut *slot.turn(), turn.clone()).cancel();
        Some((slot, turn))
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<TaskId, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn turn(&self) -> MutexGuard<'_, CancellationToken> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an upload on, to its end or that of the stream.
pub async fn serve<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    task: TaskId,
    survey: Survey,
    send: &mut SendStream,
    receive: RecvStream,
) -> Result<(), End> {
    let reply = match take(server, peer, task, survey, send, receive).await {
        Ok(revision) => UploadReply::Saved { revision },
        Err(Stop::Refused { reason, may_retry }) => {
            tracing::warn!(job = %task.job, may_retry, "upload: {reason}");
            UploadReply::Refused { reason, may_retry }
        }
        Err(Stop::Stream(end)) => return Err(end),
    };
    wire::write(send, &reply).await
}

async fn take<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    task: TaskId,
    survey: Survey,
    send: &mut SendStream,
    mut receive: RecvStream,
) -> Result<Revision, Stop> {
    let order = server.fleet.upload_order(peer.node, peer.key, task).await;
    let order = order.map_err(|why| Stop::refused(format!("{why:#}"), false))?;
    let order = match order {
        UploadAnswer::Send(order) => order,
        UploadAnswer::Saved(revision) => return Ok(revision),
    };
    let turn = server.uploads.take_turn(task, peer);
    let (slot, turn) = turn.ok_or_else(|| {
        Stop::refused(format!("{MAX_UPLOADS} other captures are under way"), true)
    })?;
    let locked = tokio::time::timeout(TURN_DEADLINE, slot.stage.clone().lock_owned()).await;
    let mut stage =
        locked.map_err(|_| Stop::refused("the stream before does not let go of it", true))?;
    if !matches!(*stage, Stage::Saved(_)) {
        let longest = longest_frame(&survey);
        let (position, begun) = begin(server, order, survey, stage).await?;
        stage = begun;
        wire::write(send, &UploadReply::From(position)).await?;
        let (parts, coming) = mpsc::channel(WAITING_PARTS);
        let library = server.library.clone();
        let writing = tokio::task::spawn_blocking(move || write(&*library, stage, coming));
        let received = tokio::select! {
            received = receive_parts(server, peer, task, longest, &mut receive, parts) => received,
            () = turn.cancelled() => {
                Err(Stop::refused("another stream goes on with it, or the task has ended", true))
            }
            () = server.shutdown.cancelled() => Err(Stop::Stream(End::Ours(Close::Stopping))),
        };
        // The agent need not send what nobody reads.
        let _ = receive.stop(Close::Done.code());
        let written = writing.await.context("writing was interrupted");
        let (begun, written) = written.map_err(|why| Stop::refused(format!("{why:#}"), false))?;
        stage = begun;
        // Why writing ended is the cause if both failed.
        written?;
        received?;
    }
    let Stage::Saved(revision) = &*stage else {
        return Err(Stop::refused("the stream ended before all was sent", true));
    };
    let noted = server.fleet.uploaded(peer.node, task, revision).await;
    noted.map_err(|why| Stop::refused(format!("{why:#}"), true))?;
    Ok(revision.clone())
}

type Held = OwnedMutexGuard<Stage>;

/// Begins the upload, or goes on with the one that there is.
async fn begin<F: Fleet, L: Library>(
    server: &Server<F, L>,
    order: UploadOrder,
    survey: Survey,
    mut stage: Held,
) -> Result<(UploadPosition, Held), Stop> {
    let library = server.library.clone();
    let begun = tokio::task::spawn_blocking(move || -> Result<_, UploadError> {
        let mut upload = match std::mem::take(&mut *stage) {
            Stage::Open(upload) if *upload.survey() == survey => upload,
            // It was another one, of which nothing can be used.
            Stage::Open(_) | Stage::None | Stage::Saved(_) => {
                Box::new(library.begin_upload(order, survey)?)
            }
        };
        let position = upload.position()?;
        *stage = Stage::Open(upload);
        Ok((position, stage))
    });
    let begun = begun.await.context("beginning was interrupted");
    Ok(begun.map_err(|why| Stop::refused(format!("{why:#}"), false))??)
}

/// Writes what comes; runs on a blocking thread. Gives the stage back, and with it the upload if it can
/// go on.
fn write<L: Library>(
    library: &L,
    mut stage: Held,
    mut parts: mpsc::Receiver<Part>,
) -> (Held, Result<(), Stop>) {
    let Stage::Open(mut upload) = std::mem::take(&mut *stage) else {
        return (stage, Err(Stop::refused("there is nothing to go on with", true)));
    };
    while let Some(part) = parts.blocking_recv() {
        let taken = match part {
            Part::Head(piece, is_last) => upload.head(&piece, is_last),
            Part::Chunk(chunk, frame) => upload.chunk(chunk, frame),
            Part::File(name, content) => upload.file(&name, &content),
            Part::Finish => {
                let published = library.publish(*upload);
                return match published {
                    Ok(revision) => {
                        *stage = Stage::Saved(revision);
                        (stage, Ok(()))
                    }
                    Err(error) => (stage, Err(error.into())),
                };
            }
        };
        if let Err(error) = taken {
            if error.may_go_on() {
                *stage = Stage::Open(upload);
            }
            return (stage, Err(error.into()));
        }
    }
    *stage = Stage::Open(upload);
    (stage, Ok(()))
}

/// Receives parts until the last one, or until nobody takes them any more.
async fn receive_parts<F: Fleet, L: Library>(
    server: &Server<F, L>,
    peer: &Peer,
    task: TaskId,
    longest_frame: u32,
    receive: &mut RecvStream,
    parts: mpsc::Sender<Part>,
) -> Result<(), Stop> {
    let protocol = |what: &'static str| Stop::Stream(End::Ours(Close::Protocol(what.into())));
    loop {
        let late = "nothing came of an upload for 10 min";
        let part = tokio::select! {
            part = wire::read(receive, MAX_PART_BYTES, PART_DEADLINE, late) => part?,
            // Whoever wrote says why it does no longer.
            () = parts.closed() => return Ok(()),
        };
        // Asked again for each part: the task may end, and its right with it, in mid-stream.
        if !server.fleet.may_upload(peer.node, peer.key, task) {
            return Err(Stop::refused("the task has ended", false));
        }
        let part = match part {
            UploadPart::Head { bytes, .. } if bytes > MAX_HEAD_PIECE_BYTES => {
                return Err(protocol("a piece of a head is too long"));
            }
            UploadPart::Chunk(chunk) if chunk.frame_bytes > longest_frame => {
                return Err(protocol("a frame is too long"));
            }
            UploadPart::File { bytes, .. } if bytes > MAX_FILE_BYTES => {
                return Err(protocol("a file is too long"));
            }
            UploadPart::Head { bytes, is_last } => {
                Part::Head(wire::read_bytes(receive, bytes).await?, is_last)
            }
            UploadPart::Chunk(chunk) => {
                let frame = wire::read_bytes(receive, chunk.frame_bytes).await?;
                Part::Chunk(chunk, frame)
            }
            UploadPart::File { name, bytes } => {
                Part::File(name, wire::read_bytes(receive, bytes).await?)
            }
            UploadPart::Finish => Part::Finish,
        };
        let is_last = matches!(part, Part::Finish);
        if parts.send(part).await.is_err() || is_last {
            return Ok(());
        }
    }
}

/// Most bytes that a frame of it can have.
fn longest_frame(survey: &Survey) -> u32 {
    let blocks = survey.partitions.iter().map(|partition| partition.block_bytes);
    let plain = blocks.max().unwrap_or(0).clamp(CHUNK_BYTES, MAX_BLOCK_BYTES);
    plain + plain / 128 + FRAME_SLACK_BYTES
}
