//! Many names as few patterns.

use super::name::{Name, Number, Piece};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    fmt,
};

/// A part of many names at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Text(String),
    Numbers(BTreeSet<Number>),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = match self {
            Self::Text(text) => return f.write_str(text),
            Self::Numbers(numbers) => numbers,
        };
        if let (1, Some(only)) = (numbers.len(), numbers.first()) {
            return write!(f, "{only}");
        }
        let ranges = ranges(numbers).into_iter().map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        });
        write!(f, "[{}]", ranges.collect::<Vec<_>>().join(","))
    }
}

/// First and last number of each range.
fn ranges(numbers: &BTreeSet<Number>) -> Vec<(Number, Number)> {
    // Numbers of one width after the other: 9 and 09 never are neighbours.
    let mut sorted: Vec<Number> = numbers.iter().copied().collect();
    sorted.sort_by_key(|number| (number.digits, number.value));
    let mut ranges: Vec<(Number, Number)> = Vec::new();
    for number in sorted {
        match ranges.last_mut() {
            Some((first, last)) if last.next(*first, 1) == Some(number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

/// Few patterns that are the same names: for one position after the other, patterns that differ only
/// there become one.
pub(super) fn fold(names: &BTreeSet<Name>) -> Vec<Vec<Part>> {
    let mut parts = Parts::default();
    let mut patterns: Vec<Vec<usize>> = names
        .iter()
        .map(|name| name.0.iter().map(|piece| parts.of_piece(piece)).collect())
        .collect();
    let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
    for position in (0..longest).rev() {
        let mut merged: Vec<(Vec<usize>, BTreeSet<Number>)> = Vec::new();
        let mut places: HashMap<Vec<usize>, usize> = HashMap::new();
        for mut pattern in patterns {
            let numbers = pattern.get(position).and_then(|part| match &parts.all[*part] {
                Part::Numbers(numbers) => Some(numbers),
                Part::Text(_) => None,
            });
            let Some(numbers) = numbers else {
                merged.push((pattern, BTreeSet::new()));
                continue;
            };
            pattern[position] = usize::MAX;
            match places.entry(pattern) {
                Entry::Occupied(place) => merged[*place.get()].1.extend(numbers),
                Entry::Vacant(place) => {
                    merged.push((place.key().clone(), numbers.clone()));
                    place.insert(merged.len() - 1);
                }
            }
        }
        let finish = |(mut pattern, numbers): (Vec<usize>, BTreeSet<Number>)| {
            if !numbers.is_empty() {
                pattern[position] = parts.number(Part::Numbers(numbers));
            }
            pattern
        };
        patterns = merged.into_iter().map(finish).collect();
    }
    let parts_of =
        |pattern: Vec<usize>| pattern.iter().map(|part| parts.all[*part].clone()).collect();
    patterns.into_iter().map(parts_of).collect()
}

/// Every part once: names have most of theirs in common.
#[derive(Default)]
struct Parts {
    all: Vec<Part>,
    numbers: BTreeMap<Part, usize>,
}

impl Parts {
    /// The number of a part.
    fn number(&mut self, part: Part) -> usize {
        if let Some(number) = self.numbers.get(&part) {
            return *number;
        }
        self.all.push(part.clone());
        self.numbers.insert(part, self.all.len() - 1);
        self.all.len() - 1
    }

    fn of_piece(&mut self, piece: &Piece) -> usize {
        self.number(match piece {
            Piece::Text(text) => Part::Text(text.clone()),
            Piece::Number(number) => Part::Numbers(BTreeSet::from([*number])),
        })
    }
}
