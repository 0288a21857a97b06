//! Step `verify`: reads every written chunk back from the disk and compares. The first MiB is not
//! there yet.

use super::{
    StepLog,
    restore::{self, Restore},
};
use crate::disk::Device;
use anyhow::bail;
use metalcast_shared::manifest::Chunk;
use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

/// Differing ranges that are named; more are only counted.
const NAMED: usize = 8;

/// Threads that read and hash: one can hash while the other waits for the disk.
const READERS: usize = 2;

pub(super) fn run(
    restores: &[Restore<'_>],
    device: &Device<'_>,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    device.drop_caches()?;
    let total = restore::used_bytes(restores);
    let mut done = 0;
    for restore in restores {
        let (mut wrong, mut named) = (0, Vec::new());
        for number in 0..restore.pages() {
            let page = restore.page(number)?;
            let chunks: Vec<_> =
                page.chunks.iter().filter(|chunk| !restore.is_deferred(chunk)).collect();
            compare(&chunks, restore, |chunk, is_right| {
                log.check_cancel()?;
                if !is_right {
                    wrong += 1;
                    if named.len() < NAMED {
                        named.push(restore.partition.range_start(chunk));
                    }
                }
                done += chunk.data_bytes(restore.partition) as u64;
                log.progress(done, total, 0);
                Ok(())
            })?;
        }
        complain(restore, wrong, named)?;
    }
    log.note(format!("{done} bytes read back as they were sent"));
    Ok(())
}

/// Fails if ranges were wrong, and names the first of them by where they start.
fn complain(restore: &Restore<'_>, wrong: u64, mut named: Vec<u64>) -> anyhow::Result<()> {
    if wrong == 0 {
        return Ok(());
    }
    named.sort_unstable();
    let named = named.iter().map(|start| format!("{start}..{}", start + range_bytes(restore)));
    bail!(
        "{wrong} ranges read back differently from what was written: bytes {}{} of {}; \
         the disk or its controller is faulty",
        named.collect::<Vec<_>>().join(", "),
        if wrong > NAMED as u64 { ", ..." } else { "" },
        restore.name
    );
}

/// Reads chunks back and says of each whether it is as it should be; `told` is called from this thread.
fn compare(
    chunks: &[&Chunk],
    restore: &Restore<'_>,
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
                    let hash = restore.place.hash(chunk.extents(restore.partition));
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

fn range_bytes(restore: &Restore<'_>) -> u64 {
    u64::from(restore.partition.chunk_blocks) * u64::from(restore.partition.block_bytes)
}
