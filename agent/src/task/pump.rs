//! Fetching chunks of one page: asks, unpacks on threads, hands the data to a writer, asks again for
//! what was lost.
//!
//! ```text
//! source ──frames, bounded──> workers: hash, unpack, write ──results──> this thread: bookkeeping
//! ```

use super::{
    StepLog,
    source::{ChunkSource, Delivery, Loss, Request, Sink, Wanted},
};
use anyhow::Context;
use metalcast_formats::chunk::Opener;
use metalcast_shared::{
    manifest::{Chunk, Page, Partition},
    transfer::PageTransfer,
};
use std::{
    num::NonZero,
    ops::RangeInclusive,
    sync::{Mutex, PoisonError, mpsc},
    time::Duration,
};
use tokio::sync::{mpsc::Receiver, watch};

/// Requests under way at once, so that the link is busy while one is being asked for.
const REQUESTS: usize = 4;

/// Chunks per request.
const CHUNKS_PER_REQUEST: usize = 16;

/// Frames that wait for a worker; with one in each request's hands this bounds the memory.
const WAITING_FRAMES: usize = 4;

/// Threads that unpack and write: one more than processors, since one of them waits for the disk. Each has a chunk and
/// its frame in memory.
const WORKERS: RangeInclusive<usize> = 2..=4;

/// How often a request to stop is looked for while nothing arrives.
const CANCEL_POLL: Duration = Duration::from_millis(200);

/// How many of them this machine gets.
pub fn workers() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    (processors + 1).clamp(*WORKERS.start(), *WORKERS.end())
}

/// What a worker did with a delivery.
enum Done {
    Written(u16),
    Lost(u16, Loss),
    Failed(anyhow::Error),
}

/// A chunk that was written: its length on the wire and on the disk, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived {
    pub(super) wire_bytes: u64,
    pub(super) data_bytes: u64,
}

/// What is done with a chunk's frame and data; called from several threads.
pub(super) type Write<'w> = dyn Fn(&Chunk, &[u8], &[u8]) -> anyhow::Result<()> + Sync + 'w;

/// One page of which chunks are fetched.
pub(super) struct Pump<'p> {
    pub(super) partition: &'p Partition,
    pub(super) source: &'p dyn ChunkSource,
    pub(super) number: u32,
    pub(super) page: &'p Page,
    pub(super) log: &'p StepLog<'p>,
}

impl Pump<'_> {
    /// Fetches what `transfer` still wants. `arrived` is called after each chunk, from this thread.
    pub(super) fn run(
        &self,
        transfer: &mut PageTransfer,
        write: &Write<'_>,
        arrived: &mut dyn FnMut(Arrived) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if transfer.is_done() {
            return Ok(());
        }
        let (sender, frames) = tokio::sync::mpsc::channel(WAITING_FRAMES);
        let frames = Mutex::new(frames);
        let (results, done) = mpsc::channel();
        std::thread::scope(|scope| {
            let (wanted_until_dropped, wanted) = watch::channel(());
            let sink = Sink::new(sender, wanted);
            for _ in 0..workers() {
                let (frames, results) = (&frames, results.clone());
                let wanted = wanted_until_dropped.subscribe();
                scope.spawn(move || self.work(frames, &wanted, &results, write));
            }
            let outcome = self.drive(transfer, &sink, &done, arrived);
            // All who hold a sink let it go, and the workers' queue ends with the last of them.
            drop((sink, wanted_until_dropped));
            outcome
        })
    }

    fn drive(
        &self,
        transfer: &mut PageTransfer,
        sink: &Sink,
        done: &mpsc::Receiver<Done>,
        arrived: &mut dyn FnMut(Arrived) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut under_way = 0;
        while !transfer.is_done() {
            self.log.check_cancel()?;
            while under_way <= (REQUESTS - 1) * CHUNKS_PER_REQUEST {
                let positions = transfer.request(CHUNKS_PER_REQUEST);
                if positions.is_empty() {
                    break;
                }
                under_way += positions.len();
                let chunks = positions.into_iter().map(|position| self.wanted(position)).collect();
                self.source.request(Request { page: self.number, chunks }, sink.clone());
            }
            let result = match done.recv_timeout(CANCEL_POLL) {
                Ok(result) => result,
                Err(mpsc::RecvTimeoutError::Timeout) => continue,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    anyhow::bail!("the threads that write have ended")
                }
            };
            under_way -= 1;
            match result {
                Done::Written(position) => {
                    transfer.written(position);
                    let chunk = self.chunk(position);
                    arrived(Arrived {
                        wire_bytes: u64::from(chunk.frame_bytes),
                        data_bytes: chunk.data_bytes(self.partition) as u64,
                    })?;
                }
                Done::Lost(_, Loss::Connection) => {}
                Done::Lost(position, Loss::Refused(reason)) => {
                    self.lost(transfer, position, &reason)?;
                }
                Done::Failed(error) => return Err(error),
            }
            if under_way == 0 {
                // What is still marked as asked for went down with a connection.
                transfer.disconnected();
            }
        }
        Ok(())
    }

    fn lost(&self, transfer: &mut PageTransfer, position: u16, reason: &str) -> anyhow::Result<()> {
        let chunk = self.chunk(position);
        tracing::warn!("chunk {} did not come well: {reason}", chunk.index);
        transfer.lost(position, reason).with_context(|| {
            let start = self.partition.range_start(chunk);
            format!("page {}, bytes from {start} of the partition", self.number)
        })
    }

    fn work(
        &self,
        frames: &Mutex<Receiver<Delivery>>,
        wanted: &watch::Receiver<()>,
        results: &mpsc::Sender<Done>,
        write: &Write<'_>,
    ) {
        let mut opener = Opener::default();
        loop {
            let next = frames.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(delivery) = next else { break };
            if wanted.has_changed().is_err() {
                continue;
            }
            // The receiver is gone only when the page was given up.
            let _ = results.send(self.take(delivery, &mut opener, write));
        }
    }

    fn take(
        &self,
        Delivery { position, what }: Delivery,
        opener: &mut Opener,
        write: &Write<'_>,
    ) -> Done {
        let chunk = self.chunk(position);
        let frame = match what {
            Ok(frame) => frame,
            Err(loss) => return Done::Lost(position, loss),
        };
        match opener.open(&frame, chunk, self.partition) {
            Ok(data) => match write(chunk, &frame, data) {
                Ok(()) => Done::Written(position),
                Err(error) => Done::Failed(error),
            },
            Err(error) => {
                Done::Lost(position, Loss::Refused(format!("{:#}", anyhow::Error::from(error))))
            }
        }
    }

    fn chunk(&self, position: u16) -> &Chunk {
        &self.page.chunks[usize::from(position)]
    }

    fn wanted(&self, position: u16) -> Wanted {
        let Chunk { index, offset, frame_bytes, .. } = *self.chunk(position);
        Wanted { position, index, offset, frame_bytes }
    }
}
