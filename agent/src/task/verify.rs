//! Step `verify`: reads every written chunk back from the disk and compares. The first MiB is not
//! there yet.

use super::{
    ChunkSource, StepLog,
    plan::{Image, Target},
};
use crate::disk::Window;
use anyhow::bail;
use metalcast_shared::manifest::{Chunk, Partition};
use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

/// Differing ranges that are named; more are only counted.
const NAMED: usize = 8;

/// Threads that read and hash: one can hash while the other waits for the disk.
const READERS: usize = 2;

pub(super) fn run(
    image: &Image<'_>,
    target: &Target,
    source: &dyn ChunkSource,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let device = target.open(log)?;
    device.drop_caches()?;
    let slot = target.slot(&device)?;
    let partition = image.partition();
    let total = partition.used_bytes();
    let (mut done, mut wrong, mut named) = (0, 0u64, Vec::new());
    for number in 0..image.pages() {
        let page = image.page(number, source)?;
        let chunks: Vec<_> = page.chunks.iter().filter(|chunk| !image.is_deferred(chunk)).collect();
        compare(&chunks, partition, &slot, |chunk, is_right| {
            log.check_cancel()?;
            if !is_right {
                wrong += 1;
                if named.len() < NAMED {
                    named.push(partition.range_start(chunk));
                }
            }
            done += chunk.data_bytes(partition) as u64;
            log.progress(done, total, 0);
            Ok(())
        })?;
    }
    if wrong > 0 {
        named.sort_unstable();
        let named = named.iter().map(|start| format!("{start}..{}", start + range_bytes(image)));
        bail!(
            "{wrong} ranges read back differently from what was written: bytes {}{} of slot {}; \
             the disk or its controller is faulty",
            named.collect::<Vec<_>>().join(", "),
            if wrong > NAMED as u64 { ", ..." } else { "" },
            target.slot.number
        );
    }
    log.note(format!("{done} bytes read back as they were sent"));
    Ok(())
}

/// Reads chunks back and says of each whether it is as it should be; `told` is called from this thread.
fn compare(
    chunks: &[&Chunk],
    partition: &Partition,
    slot: &Window<'_>,
    mut told: impl FnMut(&Chunk, bool) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    std::thread::scope(|scope| {
        // Dropped when this thread is told enough, which ends the others.
        let results = results;
        for _ in 0..READERS {
            let (next, sender) = (&next, sender.clone());
            scope.spawn(move || {
                while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let hash = slot.hash(chunk.extents(partition));
                    if sender.send((*chunk, hash)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        results.into_iter().try_for_each(|(chunk, hash)| told(chunk, hash? == chunk.data_hash))
    })
}

fn range_bytes(image: &Image<'_>) -> u64 {
    u64::from(image.partition().chunk_blocks) * u64::from(image.partition().block_bytes)
}
