//! The used blocks of one partition as frames.

use super::{CaptureError, Planned};
use crate::{
    chunk::{DiskChunks, Sealed, UnreadableRange, sealer},
    pipeline,
};
use std::io::{Read, Seek};

/// Reads the used blocks of a partition from `partition`, its first byte to its last, and gives each
/// chunk's frame to `take`, in order; `sealers` threads compress. Asks `go_on` before each chunk. Memory:
/// a few chunks for each thread. Partitions without data have no chunks.
pub fn seal<D: Read + Seek + Send, E: From<CaptureError> + Send>(
    partition: D,
    planned: &Planned,
    sealers: usize,
    go_on: impl Fn() -> Result<(), E> + Sync,
    take: impl FnMut(Sealed) -> Result<(), E>,
) -> Result<(), E> {
    seal_from(0, partition, planned, sealers, go_on, take)
}

/// The same without the first `skipped` chunks, which are not read.
pub fn seal_from<D: Read + Seek + Send, E: From<CaptureError> + Send>(
    skipped: u32,
    partition: D,
    planned: &Planned,
    sealers: usize,
    go_on: impl Fn() -> Result<(), E> + Sync,
    mut take: impl FnMut(Sealed) -> Result<(), E>,
) -> Result<(), E> {
    let Some(map) = planned.map() else { return Ok(()) };
    let name = &planned.facts.name;
    let cut = |source| CaptureError::Cut { partition: name.clone(), source };
    let mut chunks = DiskChunks::new(partition, map).map_err(cut)?;
    chunks.skip(skipped);
    let (read, taken) = pipeline::run(
        sealers,
        || -> Result<_, E> {
            go_on()?;
            Ok(chunks.next_chunk().map_err(|error| unreadable(error, planned))?)
        },
        sealer,
        |sealed: std::io::Result<Sealed>| {
            let failed = |source| CaptureError::Compress { partition: name.clone(), source };
            take(sealed.map_err(failed)?)
        },
    );
    // Why reading ended is the cause if both failed.
    read?;
    taken
}

fn unreadable(error: UnreadableRange, planned: &Planned) -> CaptureError {
    let (from, to) = (error.offset, error.offset + error.bytes - 1);
    let disk = match planned.start {
        0 => String::new(),
        start => format!(" (bytes {} to {} of the disk)", start + from, start + to),
    };
    let partition = planned.facts.name.clone();
    CaptureError::Unreadable { partition, from, to, disk, source: error.source }
}
