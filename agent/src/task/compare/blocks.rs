//! Ranges of which a chunk's hash does not tell enough, block by block: against the image's data, which is
//! fetched for them, and what the deploy left.

use super::{
    spots::{Batch, FromImage, Slot, Spot},
    tally::{Class, Found},
};
use crate::task::{StepLog, pump::Pump};
use metalcast_shared::{
    as_left::{Change, print},
    manifest::{Chunk, Run},
    transfer::PageTransfer,
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// What is found in some ranges of a batch, in no order.
pub(super) fn compare(
    slot: &Slot<'_>,
    batch: &Batch<'_>,
    spots: &[&Spot<'_>],
    log: &StepLog<'_>,
) -> anyhow::Result<Vec<Found>> {
    let found = Mutex::new(Vec::new());
    let look = |spot: &Spot<'_>, image: &[u8]| -> anyhow::Result<()> {
        let of_spot = Look { slot, spot, image }.run()?;
        found.lock().unwrap_or_else(PoisonError::into_inner).extend(of_spot);
        Ok(())
    };
    let mut wanted = HashMap::new();
    for spot in spots {
        log.check_cancel()?;
        match (spot.image, slot.image) {
            (None, _) | (_, None) => look(spot, &[])?,
            (Some((_, chunk)), Some(image)) if chunk.zero => {
                look(spot, &vec![0; chunk.data_bytes(image.partition)])?;
            }
            (Some((_, chunk)), Some(_)) => {
                wanted.insert(chunk.index, *spot);
            }
        }
    }
    if let (Some((number, page)), Some(FromImage { partition, source })) = (batch.page, slot.image)
    {
        let mut transfer = PageTransfer::new(u16::try_from(page.chunks.len())?);
        for (position, chunk) in (0u16..).zip(&page.chunks) {
            if !wanted.contains_key(&chunk.index) {
                transfer.written(position);
            }
        }
        let compare = |chunk: &Chunk, _: &[u8], data: &[u8]| match wanted.get(&chunk.index) {
            Some(spot) => look(spot, data),
            None => Ok(()),
        };
        let pump = Pump { partition, source, number, page, log };
        pump.run(&mut transfer, &compare, &mut |_| Ok(()))?;
    }
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// A range, and the image's data of it.
struct Look<'l> {
    slot: &'l Slot<'l>,
    spot: &'l Spot<'l>,
    image: &'l [u8],
}

impl Look<'_> {
    fn run(&self) -> anyhow::Result<Vec<Found>> {
        let Self { slot, spot, .. } = self;
        let now = numbered(&spot.now);
        let data = slot.read(spot.index, &spot.now)?;
        let of_image = spot.image.map_or_else(HashMap::new, |(_, chunk)| numbered(&chunk.runs));
        let is_left = self.as_left()?;
        let (first, block_bytes) = (slot.first_block(spot.index), slot.block_bytes as usize);
        let mut found = Vec::new();
        for block in 0..slot.chunk_blocks() {
            let content = now.get(&block).map(|at| piece(&data, *at, block_bytes));
            let from_image = of_image.get(&block).map(|at| piece(self.image, *at, block_bytes));
            let is_expected = match spot.left {
                Some(_) => is_left.contains_key(&block),
                None => from_image.is_some(),
            };
            let Some(content) = content else {
                if is_expected {
                    push(&mut found, first + u64::from(block), Class::Drift(Change::Freed));
                }
                continue;
            };
            let is_image = from_image == Some(content);
            let is_as_left = match is_left.get(&block) {
                Some(Known::Print(expected)) => *expected == print(content),
                Some(Known::All(is_equal)) => *is_equal || is_image,
                None => spot.left.is_none() && is_image,
            };
            let class = match (is_as_left, is_expected) {
                (true, _) if is_image => Class::Image,
                (true, _) => Class::Left,
                (false, true) => Class::Drift(Change::Changed),
                (false, false) => Class::Drift(Change::New),
            };
            push(&mut found, first + u64::from(block), class);
        }
        Ok(found)
    }

    /// What is known of each block that the deploy left in use, where it left something of its own.
    fn as_left(&self) -> anyhow::Result<HashMap<u32, Known>> {
        let Some(left) = self.spot.left else { return Ok(HashMap::new()) };
        if left.prints.is_empty() {
            let is_equal = self.slot.hash(self.spot.index, &left.runs)? == left.hash;
            return Ok(numbers(&left.runs).map(|block| (block, Known::All(is_equal))).collect());
        }
        let prints = left.prints.iter().map(|print| Known::Print(*print));
        Ok(numbers(&left.runs).zip(prints).collect())
    }
}

/// What is known of a block.
#[derive(Clone, Copy)]
enum Known {
    /// What it was.
    Print(u64),
    /// Only whether all of its chunk is as it was.
    All(bool),
}

fn numbers(runs: &[Run]) -> impl Iterator<Item = u32> {
    runs.iter().flat_map(|run| run.start..run.start + run.count)
}

/// Which of the blocks of some runs comes in which place.
fn numbered(runs: &[Run]) -> HashMap<u32, usize> {
    numbers(runs).zip(0..).collect()
}

fn piece(data: &[u8], number: usize, block_bytes: usize) -> &[u8] {
    &data[number * block_bytes..(number + 1) * block_bytes]
}

fn push(found: &mut Vec<Found>, block: u64, class: Class) {
    match found.last_mut() {
        Some(last) if last.class == class && last.first + last.blocks == block => last.blocks += 1,
        Some(_) | None => found.push(Found { first: block, blocks: 1, class }),
    }
}
