//! Step `verify`: reads every written chunk back from the disk and compares. The first MiB is not
//! there yet.

use super::{
    ChunkSource, StepLog,
    plan::{Image, Target},
};
use anyhow::bail;

/// Differing ranges that are named; more are only counted.
const NAMED: usize = 8;

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
        for chunk in page.chunks.iter().filter(|chunk| !image.is_deferred(chunk)) {
            log.check_cancel()?;
            if slot.hash(chunk.extents(partition))? != chunk.data_hash {
                wrong += 1;
                if named.len() < NAMED {
                    let start = partition.range_start(chunk);
                    named.push(format!("{start}..{}", start + range_bytes(image)));
                }
            }
            done += chunk.data_bytes(partition) as u64;
            log.progress(done, total, 0);
        }
    }
    if wrong > 0 {
        bail!(
            "{wrong} ranges read back differently from what was written: bytes {}{} of slot {}; \
             the disk or its controller is faulty",
            named.join(", "),
            if wrong > NAMED as u64 { ", ..." } else { "" },
            target.slot.number
        );
    }
    log.note(format!("{done} bytes read back as they were sent"));
    Ok(())
}

fn range_bytes(image: &Image<'_>) -> u64 {
    u64::from(image.partition().chunk_blocks) * u64::from(image.partition().block_bytes)
}
