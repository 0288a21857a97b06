//! The used blocks of one partition into one file of frames.

use super::{directory::Directory, plan::Planned, progress::Progress, source::Source};
use crate::task::Cancel;
use anyhow::Context;
use metalcast_formats::{
    chunk::{DiskChunks, Sealed, UnreadableRange, sealer, write_head_frame},
    partclone::HeadFacts,
    pipeline,
};
use std::io::Write;

/// Threads that compress: with the one that reads they keep two processors busy, and each costs a few
/// MiB of memory.
const SEALERS: usize = 2;

/// Saves a partition. Returns the length of its file, 0 if it needs none.
pub(super) fn write(
    source: &Source,
    planned: &Planned,
    directory: &mut Directory,
    progress: &Progress,
    cancel: &Cancel,
) -> anyhow::Result<u64> {
    let Some(map) = planned.map() else { return Ok(0) };
    let name = &planned.facts.name;
    let mut output = directory.create_file(&format!("{name}.{}-ptcl-img.zst", map.program))?;
    // Raw images have no header: they are what is on the partition, from its first byte to its last.
    if map.program != "dd" {
        let facts = HeadFacts {
            filesystem: map.filesystem,
            device_bytes: map.device_bytes,
            block_bytes: map.block_bytes,
        };
        write_head_frame(&mut output, &facts, &map.used).context("writing the image's head")?;
    }
    let window = source.device.window(planned.start, planned.bytes_of_partition)?;
    let mut chunks = DiskChunks::new(window.reader(), map)?;
    let (read, written) = pipeline::run(
        SEALERS,
        || -> anyhow::Result<_> {
            cancel.check()?;
            chunks.next_chunk().map_err(|error| unreadable(error, planned))
        },
        sealer,
        |sealed: std::io::Result<Sealed>| {
            let Sealed { frame, chunk } = sealed.context("compressing")?;
            output.write_all(&frame).context("writing the image")?;
            let blocks: u64 = chunk.runs.iter().map(|run| u64::from(run.count)).sum();
            progress.add(name, blocks * u64::from(map.block_bytes));
            Ok::<_, anyhow::Error>(())
        },
    );
    // Why reading ended is the cause if both failed.
    read?;
    written?;
    let bytes = output.bytes();
    directory.finish(output)?;
    Ok(bytes)
}

fn unreadable(error: UnreadableRange, planned: &Planned) -> anyhow::Error {
    let (from, to) = (error.offset, error.offset + error.bytes - 1);
    let disk = match planned.start {
        0 => String::new(),
        start => format!(" (bytes {} to {} of the disk)", start + from, start + to),
    };
    let what = format!(
        "bytes {from} to {to} of {}{disk} cannot be read: the disk is failing; nothing was put in \
         their place, and no image is left",
        planned.facts.name
    );
    anyhow::Error::from(error.source).context(what)
}
