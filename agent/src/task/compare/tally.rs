//! Adding up what a comparison finds: ranges that touch and are alike become one.

use metalcast_formats::used::Places;
use metalcast_shared::as_left::{Change, Comparison, MAX_PLACES, MAX_RANGES, Place, Range, Ranges};
use std::collections::BTreeMap;

/// Where it is not known what lives in a block.
const ANYTHING: &str = "filesystem data";

/// Whose a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The image's.
    Image,
    /// As the deploy left it.
    Left,
    /// Neither.
    Drift(Change),
}

/// Consecutive blocks of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) first: u64,
    pub(super) blocks: u64,
    pub(super) class: Class,
}

/// What was found so far.
pub(super) struct Tally<'p> {
    block_bytes: u64,
    places: Option<&'p Places>,
    image_bytes: u64,
    left: Growing,
    drift: Growing,
    lies_in: BTreeMap<&'static str, u64>,
}

/// Ranges, of which the latest may still grow.
#[derive(Default)]
struct Growing {
    ranges: Ranges,
    latest: Option<Range>,
}

impl<'p> Tally<'p> {
    pub(super) fn new(block_bytes: u32, places: Option<&'p Places>) -> Self {
        Self {
            block_bytes: block_bytes.into(),
            places,
            image_bytes: 0,
            left: Growing::default(),
            drift: Growing::default(),
            lies_in: BTreeMap::new(),
        }
    }

    /// Adds what was found, in the order of its blocks.
    pub(super) fn add(&mut self, Found { first, blocks, class }: Found) {
        if class == Class::Image {
            self.image_bytes += blocks * self.block_bytes;
            return;
        }
        for block in first..first + blocks {
            let what = self.places.map_or(ANYTHING, |places| places.of(block));
            let (growing, change) = match class {
                Class::Drift(change) => {
                    *self.lies_in.entry(what).or_default() += self.block_bytes;
                    (&mut self.drift, change)
                }
                Class::Left | Class::Image => (&mut self.left, Change::Changed),
            };
            growing.add(block * self.block_bytes, self.block_bytes, change, what);
        }
    }

    pub(super) fn end(self, has_as_left: bool, remarks: Vec<String>) -> Comparison {
        let place = |(what, bytes): (&str, u64)| Place { what: what.to_owned(), bytes };
        let mut places: Vec<Place> = self.lies_in.into_iter().map(place).collect();
        places.sort_by_key(|place| std::cmp::Reverse(place.bytes));
        places.truncate(MAX_PLACES);
        let (image_bytes, left, drift) = (self.image_bytes, self.left.end(), self.drift.end());
        Comparison { has_as_left, image_bytes, left, drift, places, remarks }.bounded()
    }
}

impl Growing {
    fn add(&mut self, start: u64, bytes: u64, change: Change, place: &str) {
        self.ranges.bytes += bytes;
        if let Some(latest) = &mut self.latest
            && latest.start + latest.bytes == start
            && latest.change == change
            && latest.place == place
        {
            latest.bytes += bytes;
            return;
        }
        self.settle();
        self.latest = Some(Range { start, bytes, change, place: place.to_owned() });
    }

    fn settle(&mut self) {
        let Some(range) = self.latest.take() else { return };
        self.ranges.count += 1;
        if self.ranges.first.len() < MAX_RANGES {
            self.ranges.first.push(range);
        }
    }

    fn end(mut self) -> Ranges {
        self.settle();
        self.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one_and_no_more_are_named_than_may_be() {
        let mut tally = Tally::new(4096, None);
        let drift = Class::Drift(Change::Changed);
        let found = |first, blocks, class| Found { first, blocks, class };
        for one in [
            found(0, 1, Class::Image),
            found(1, 2, drift),
            found(3, 1, drift),
            found(4, 1, Class::Drift(Change::Freed)),
            found(5, 1, Class::Left),
        ] {
            tally.add(one);
        }
        (0..1000).for_each(|number| tally.add(found(10 + number * 2, 1, drift)));
        let all = tally.end(true, Vec::new());
        assert_eq!((all.image_bytes, all.left.bytes, all.left.count), (4096, 4096, 1));
        assert_eq!(all.drift.bytes, 1004 * 4096);
        assert_eq!((all.drift.count, all.drift.first.len()), (1002, MAX_RANGES));
        assert_eq!(all.drift.first[0].to_string(), "bytes 4096..16384: changed, filesystem data");
        assert_eq!(all.drift.first[1].change, Change::Freed);
        assert_eq!(all.places, [Place { what: ANYTHING.into(), bytes: 1004 * 4096 }]);
    }
}
