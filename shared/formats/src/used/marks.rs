//! A bitmap being made.

use crate::partclone::Bitmap;
use metalcast_shared::manifest::Run;

/// Blocks that are marked as used. Memory: one bit per block.
pub(super) struct Marks {
    blocks: u64,
    /// Block i is bit `i & 7` of byte `i >> 3`.
    bits: Vec<u8>,
}

impl Marks {
    /// No block is marked.
    pub(super) fn none(blocks: u64) -> Self {
        Self { blocks, bits: vec![0; blocks.div_ceil(8) as usize] }
    }

    /// Every block is marked.
    pub(super) fn all(blocks: u64) -> Self {
        Self { blocks, bits: vec![0xff; blocks.div_ceil(8) as usize] }
    }

    /// Takes a bitmap as it is; `None` if it is not as long as the blocks need.
    pub(super) fn from_bits(blocks: u64, bits: Vec<u8>) -> Option<Self> {
        (bits.len() as u64 == blocks.div_ceil(8)).then_some(Self { blocks, bits })
    }

    /// Marks blocks; those beyond the end are none.
    pub(super) fn set(&mut self, first: u64, count: u64) {
        self.put(first, count, true);
    }

    /// Unmarks blocks.
    pub(super) fn clear(&mut self, first: u64, count: u64) {
        self.put(first, count, false);
    }

    /// Marks blocks `first + n * each ..` for every run of `bits`, which begins with bit 0 and has
    /// `count` bits that count. Returns how many bits of them are set.
    pub(super) fn set_by_bits(&mut self, first: u64, bits: &[u8], count: u32, each: u64) -> u64 {
        let bytes = (count as usize).div_ceil(8);
        let bits = Bitmap::from_bits(u64::from(count), bits[..bytes].to_vec())
            .expect("as long as the count needs");
        let mut set = 0;
        for Run { start, count } in bits.runs(0, count) {
            self.set(first + u64::from(start) * each, u64::from(count) * each);
            set += u64::from(count);
        }
        set
    }

    pub(super) fn into_bitmap(self) -> Bitmap {
        Bitmap::from_bits(self.blocks, self.bits).expect("made as long as the blocks need")
    }

    fn put(&mut self, first: u64, count: u64, used: bool) {
        let end = first.saturating_add(count).min(self.blocks);
        let mut at = first;
        while at < end && !at.is_multiple_of(8) {
            self.put_one(at, used);
            at += 1;
        }
        if at < end {
            let whole = at / 8..end / 8;
            at = (end / 8) * 8;
            self.bits[whole.start as usize..whole.end as usize].fill(if used { 0xff } else { 0 });
        }
        while at < end {
            self.put_one(at, used);
            at += 1;
        }
    }

    fn put_one(&mut self, block: u64, used: bool) {
        let byte = &mut self.bits[(block / 8) as usize];
        let bit = 1 << (block % 8);
        if used { *byte |= bit } else { *byte &= !bit }
    }
}
