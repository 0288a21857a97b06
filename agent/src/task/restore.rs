//! One partition of an image on its way to its place on the disk.

use super::{ChunkSource, StepLog, first_blocks::Withheld, pump::Pump};
use crate::disk::{MIB, Window};
use anyhow::Context;
use metalcast_shared::{
    manifest::{Chunk, Page, Partition},
    transfer::MAX_ATTEMPTS,
};

/// A partition of an image, where its chunks come from and where they go.
pub(super) struct Restore<'r> {
    pub(super) partition: &'r Partition,
    pub(super) source: &'r dyn ChunkSource,
    pub(super) place: Window<'r>,
    /// What the place is called: `slot 5`.
    pub(super) name: String,
    /// What step `first-blocks` leaves out.
    pub(super) withheld: Withheld,
}

impl Restore<'_> {
    pub(super) fn pages(&self) -> u32 {
        u32::try_from(self.partition.pages.len()).expect("chunks are counted in 32 bits")
    }

    /// Fetches a page and holds it against the root.
    pub(super) fn page(&self, number: u32) -> anyhow::Result<Page> {
        page(self.partition, self.source, number)
    }

    /// What fetches chunks of a page.
    pub(super) fn pump<'p>(
        &'p self,
        number: u32,
        page: &'p Page,
        log: &'p StepLog<'p>,
    ) -> Pump<'p> {
        Pump { partition: self.partition, source: self.source, number, page, log }
    }

    /// Whether a chunk lies in the first MiB, which is written when all else is verified.
    pub(super) fn is_deferred(&self, chunk: &Chunk) -> bool {
        self.partition.range_start(chunk) < MIB
    }
}

/// Fetches a page of a partition and holds it against the root.
pub(super) fn page(
    partition: &Partition,
    source: &dyn ChunkSource,
    number: u32,
) -> anyhow::Result<Page> {
    let mut attempt = 1;
    loop {
        let bytes = source.page(number).with_context(|| format!("fetching page {number}"))?;
        match partition.decode_page(number as usize, &bytes) {
            Ok(page) => return Ok(page),
            Err(error) if attempt == MAX_ATTEMPTS => {
                return Err(error).with_context(|| format!("page {number}, attempt {attempt}"));
            }
            Err(_) => attempt += 1,
        }
    }
}

/// Bytes of used blocks of all.
pub(super) fn used_bytes(restores: &[Restore<'_>]) -> u64 {
    restores.iter().map(|restore| restore.partition.used_bytes()).fold(0, u64::saturating_add)
}
