//! A slot as aligned ranges, each with what the image, the deploy and the filesystem itself have in it.

use super::tally::{Class, Found};
use crate::{
    disk::Window,
    task::{ChunkSource, restore},
};
use metalcast_formats::used::UsedMap;
use metalcast_shared::{
    as_left::{LeftBlocks, LeftChunk},
    hash::Hash,
    manifest::{Chunk, Page, Partition, Run},
};
use std::ops::Range;

/// Ranges that are looked at together: bounds the memory where an image lists few of a large slot.
const BATCH: usize = 1024;

/// The image in a slot.
#[derive(Clone, Copy)]
pub(super) struct FromImage<'s> {
    pub(super) partition: &'s Partition,
    pub(super) source: &'s dyn ChunkSource,
}

/// A slot, and all that is known of it.
pub(super) struct Slot<'s> {
    place: Window<'s>,
    pub(super) image: Option<FromImage<'s>>,
    map: Option<&'s UsedMap>,
    left: Option<&'s LeftBlocks>,
    pub(super) block_bytes: u32,
    chunk_blocks: u32,
    blocks: u64,
}

/// A range.
pub(super) struct Spot<'p> {
    pub(super) index: u32,
    /// What the image has there, and where that is on its page.
    pub(super) image: Option<(u16, &'p Chunk)>,
    /// What the deploy left there, if it is not the image's.
    pub(super) left: Option<&'p LeftChunk>,
    /// What is used there now.
    pub(super) now: Vec<Run>,
}

/// Some ranges that follow each other, and the page that lists what the image has in them.
pub(super) struct Batch<'p> {
    pub(super) page: Option<(u32, &'p Page)>,
    pub(super) spots: &'p [Spot<'p>],
}

impl<'p> Spot<'p> {
    /// What should be used there, and its hash.
    pub(super) fn expected(&self) -> (&'p [Run], Hash) {
        match (self.left, self.image) {
            (Some(left), _) => (&left.runs, left.hash),
            (None, Some((_, chunk))) => (&chunk.runs, chunk.data_hash),
            (None, None) => (&[], Hash::of(b"")),
        }
    }

    /// Whether the deploy changed something of the image's there.
    pub(super) fn is_of_both(&self) -> bool {
        self.left.is_some() && self.image.is_some()
    }
}

impl<'s> Slot<'s> {
    /// Blocks have the size that the map and what was left agree on, or else the image's.
    pub(super) fn new(
        place: Window<'s>,
        image: Option<FromImage<'s>>,
        map: Option<&'s UsedMap>,
        left: Option<&'s LeftBlocks>,
    ) -> anyhow::Result<Self> {
        let known = [
            left.map(|left| (left.block_bytes, left.total_blocks)),
            map.map(|map| (map.block_bytes, map.used.blocks())),
            image.map(|image| (image.partition.block_bytes, image.partition.total_blocks)),
        ];
        let known: Vec<(u32, u64)> = known.into_iter().flatten().collect();
        let block_bytes = known.first().map_or(0, |(bytes, _)| *bytes);
        anyhow::ensure!(
            block_bytes > 0 && known.iter().all(|(bytes, _)| *bytes == block_bytes),
            "the sizes of blocks differ"
        );
        let blocks = known.iter().map(|(_, blocks)| *blocks).max().unwrap_or(0);
        let blocks = blocks.min(place.bytes() / u64::from(block_bytes));
        let chunk_blocks = Partition::chunk_blocks_for(block_bytes);
        Ok(Self { place, image, map, left, block_bytes, chunk_blocks, blocks })
    }

    /// Bytes that are read at least.
    pub(super) fn used_bytes(&self) -> u64 {
        let of_image = || self.image.map_or(0, |image| image.partition.used_bytes());
        self.map.map_or_else(of_image, UsedMap::used_bytes)
    }

    /// Visits all ranges in which something is, or was, used.
    pub(super) fn each_batch(
        &self,
        visit: &mut dyn FnMut(&Batch<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let all = u32::try_from(self.blocks.div_ceil(self.chunk_blocks.into()))?;
        let pages = self.image.map_or(0, |image| image.partition.pages.len());
        let mut from = 0;
        for number in 0..u32::try_from(pages)? {
            let Some(FromImage { partition, source }) = self.image else { break };
            let page = restore::page(partition, source, number)?;
            let is_last = number as usize + 1 == pages;
            let last = page.chunks.last().map_or(from, |chunk| chunk.index.saturating_add(1));
            let to = if is_last { all } else { last.min(all) };
            self.page(from..to, Some((number, &page)), visit)?;
            from = to;
        }
        self.page(from..all, None, visit)
    }

    fn page(
        &self,
        range: Range<u32>,
        page: Option<(u32, &Page)>,
        visit: &mut dyn FnMut(&Batch<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let chunks = page.map_or(&[][..], |(_, page)| &page.chunks);
        let mut chunks = (0u16..).zip(chunks).peekable();
        let mut spots = Vec::new();
        for index in range {
            let image = chunks.next_if(|(_, chunk)| chunk.index == index);
            let left = self.left.and_then(|left| left.chunk(index));
            let first = u64::from(index) * u64::from(self.chunk_blocks);
            let expected = || match (left, image) {
                (Some(left), _) => left.runs.clone(),
                (None, Some((_, chunk))) => chunk.runs.clone(),
                (None, None) => Vec::new(),
            };
            let now = self.map.map_or_else(expected, |map| map.used.runs(first, self.chunk_blocks));
            if image.is_some() || left.is_some() || !now.is_empty() {
                spots.push(Spot { index, image, left, now });
            }
            if spots.len() == BATCH {
                visit(&Batch { page, spots: &spots })?;
                spots.clear();
            }
        }
        visit(&Batch { page, spots: &spots })
    }

    /// Whether a range has what is expected there.
    pub(super) fn is_as_expected(&self, spot: &Spot<'_>) -> anyhow::Result<bool> {
        let (runs, hash) = spot.expected();
        Ok(spot.now == runs && self.hash(spot.index, runs)? == hash)
    }

    /// The hash of some blocks of a range.
    pub(super) fn hash(&self, index: u32, runs: &[Run]) -> anyhow::Result<Hash> {
        let (start, block) = (self.first_block(index), u64::from(self.block_bytes));
        let extents = runs.iter().map(|run| {
            let at = (start + u64::from(run.start)) * block;
            (at, run.count as usize * block as usize)
        });
        self.place.hash(extents)
    }

    /// Reads some blocks of a range, one behind the other.
    pub(super) fn read(&self, index: u32, runs: &[Run]) -> anyhow::Result<Vec<u8>> {
        let block = self.block_bytes as usize;
        let blocks: usize = runs.iter().map(|run| run.count as usize).sum();
        let mut data = vec![0; blocks * block];
        let mut rest = &mut data[..];
        for run in runs {
            let (part, behind) = rest.split_at_mut(run.count as usize * block);
            let at = (self.first_block(index) + u64::from(run.start)) * block as u64;
            self.place.read_at(part, at)?;
            rest = behind;
        }
        Ok(data)
    }

    /// All of a range that is as expected.
    pub(super) fn all_of(&self, spot: &Spot<'_>) -> impl Iterator<Item = Found> {
        let class = if spot.left.is_some() { Class::Left } else { Class::Image };
        let first = self.first_block(spot.index);
        spot.now.iter().map(move |run| Found {
            first: first + u64::from(run.start),
            blocks: run.count.into(),
            class,
        })
    }

    /// First block of a range.
    pub(super) fn first_block(&self, index: u32) -> u64 {
        u64::from(index) * u64::from(self.chunk_blocks)
    }

    /// Blocks of a range.
    pub(super) fn chunk_blocks(&self) -> u32 {
        self.chunk_blocks
    }

    /// Bytes that are used in a range now.
    pub(super) fn bytes_of(&self, spot: &Spot<'_>) -> u64 {
        let blocks: u64 = spot.now.iter().map(|run| u64::from(run.count)).sum();
        blocks * u64::from(self.block_bytes)
    }
}
