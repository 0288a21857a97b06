//! What a comparison found.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Ranges of each kind that a [`Comparison`] names; more are only counted.
pub const MAX_RANGES: usize = 64;

/// Kinds of places that a [`Comparison`] tells apart, and remarks that it makes.
pub const MAX_PLACES: usize = 16;

/// Most characters of a text in a [`Comparison`].
pub const MAX_TEXT: usize = 400;

/// How what is in a slot or on a disk compares with what a deploy left there. All sizes are of used blocks, and of
/// what lies outside of partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Whether it was known what the deploy left; otherwise all that is not the image's is drift.
    pub has_as_left: bool,
    /// Bytes that are the image's.
    pub image_bytes: u64,
    /// Bytes that are as the deploy left them, but not the image's: its fix-ups, a filesystem that it made or
    /// that grew.
    pub left: Ranges,
    /// Bytes that are neither.
    pub drift: Ranges,
    /// What the drift lies in, largest first.
    pub places: Vec<Place>,
    /// What else is to be known of the comparison, a line each.
    pub remarks: Vec<String>,
}

/// Ranges of a slot, or of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// Bytes in all of them.
    pub bytes: u64,
    /// How many there are.
    pub count: u64,
    /// The first of them, at most [`MAX_RANGES`].
    pub first: Vec<Range>,
}

/// A range of a slot, or of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Its first byte, from the start of the slot or of the disk.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
    /// What became of it.
    pub change: Change,
    /// What lives there.
    pub place: String,
}

/// What became of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Its content is another.
    Changed,
    /// It was free and is in use now.
    New,
    /// It was in use and is free now.
    Freed,
}

/// Something that lives on a partition, and how much of it is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What.
    pub what: String,
    /// How much.
    pub bytes: u64,
}

impl Comparison {
    /// Whether there is drift.
    pub fn has_drift(&self) -> bool {
        self.drift.count > 0
    }

    /// Adds what was found in a partition of this disk, which begins at byte `start`.
    pub fn add(&mut self, name: &str, start: u64, of_partition: Self) {
        let named = |text: String| format!("{name}: {text}");
        let Self { has_as_left, image_bytes, left, drift, places, remarks } = of_partition;
        self.has_as_left &= has_as_left;
        self.image_bytes += image_bytes;
        for (all, some) in [(&mut self.left, left), (&mut self.drift, drift)] {
            all.bytes += some.bytes;
            all.count += some.count;
            all.first.extend(some.first.into_iter().map(|range| Range {
                start: start.saturating_add(range.start),
                place: named(range.place),
                ..range
            }));
            all.first.truncate(MAX_RANGES);
        }
        let named_place = |place: Place| Place { what: named(place.what), ..place };
        self.places.extend(places.into_iter().map(named_place));
        self.places.sort_by_key(|place| std::cmp::Reverse(place.bytes));
        self.places.truncate(MAX_PLACES);
        self.remarks.extend(remarks.into_iter().map(named));
        self.remarks.truncate(MAX_PLACES);
    }

    /// Cuts what is longer than it may be: for what came over the network.
    pub fn bounded(mut self) -> Self {
        for ranges in [&mut self.left, &mut self.drift] {
            ranges.first.truncate(MAX_RANGES);
            ranges.first.iter_mut().for_each(|range| cut(&mut range.place));
        }
        self.places.truncate(MAX_PLACES);
        self.places.iter_mut().for_each(|place| cut(&mut place.what));
        self.remarks.truncate(MAX_PLACES);
        self.remarks.iter_mut().for_each(cut);
        self
    }
}

/// Shortens a text, and takes out what would do more on a terminal than be read.
fn cut(text: &mut String) {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        *text = text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::New => "new",
            Self::Freed => "freed",
        })
    }
}

impl fmt::Display for Range {
    /// `bytes 4096..8192: changed, directories and files`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.start.saturating_add(self.bytes);
        write!(f, "bytes {}..{end}: {}, {}", self.start, self.change, self.place)
    }
}

impl fmt::Display for Comparison {
    /// In one line: `as it was left: 30000 bytes of the image, 4096 of the deploy`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.drift.count, self.has_as_left) {
            (0, true) => f.write_str("as the deploy left it")?,
            (0, false) => f.write_str("as in the image")?,
            (count, _) => {
                let s = if count == 1 { "" } else { "s" };
                write!(f, "drift: {} bytes in {count} range{s}", self.drift.bytes)?;
            }
        }
        write!(f, "; {} bytes of the image, {} of the deploy", self.image_bytes, self.left.bytes)
    }
}
