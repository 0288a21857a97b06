//! Step `verify`: reads every written chunk back from the disk and compares. The first MiB is not
//! there yet.

use super::{
    StepLog, readers,
    restore::{self, Restore},
};
use crate::disk::Device;
use anyhow::bail;
use metalcast_shared::manifest::Chunk;

/// Differing ranges that are named; more are only counted.
const NAMED: usize = 8;

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
            let hash = |chunk: &&Chunk| restore.place.hash(chunk.extents(restore.partition));
            readers::each(&chunks, hash, |chunk, hash| {
                log.check_cancel()?;
                if hash != chunk.data_hash {
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

fn range_bytes(restore: &Restore<'_>) -> u64 {
    u64::from(restore.partition.chunk_blocks) * u64::from(restore.partition.block_bytes)
}
