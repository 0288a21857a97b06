//! Sets of nodes, in the notation of ClusterShell and Slurm: `node[01-04,7]`, `rack[1-3]n[1-40/2]`.
//!
//! ```text
//! set  = term (op term)*      from left to right
//! op   = ","  union | "!"  without | "&"  in both | "^"  in one only
//! term = characters of a name and "[" item ("," item)* "]", mixed
//! item = number | number "-" number | number "-" number "/" step
//! ```
//!
//! A number with leading zeros keeps its width: `[08-10]` is 08, 09, 10, and 8 is another name than
//! 08. Printing folds: numbers become ranges wherever that says exactly the same set.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    fmt,
    str::FromStr,
};

#[cfg(test)]
mod tests;

/// Most names that a set may be given as.
pub const MAX_NAMES: usize = 65_536;

/// Most runs of letters and of digits that all names have together that make a set: `node1` has two. That is what
/// its memory depends on.
const MAX_PIECES: usize = 16 * MAX_NAMES;

/// Longest name: that of a DNS label and more (RFC 1035, section 2.3.4).
const MAX_NAME_LEN: usize = 255;

/// Digits of a number; longer ones are text.
const MAX_DIGITS: usize = 18;

/// Names of nodes, in the order that people count: `node2` before `node10`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSet {
    names: BTreeSet<Name>,
}

/// A text that is no node set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no set of nodes: {what} (character {at})")]
pub struct NodeSetError {
    /// The text.
    pub text: String,
    /// Where, in characters from 1.
    pub at: usize,
    /// What is wrong there.
    pub what: String,
}

impl NodeSet {
    /// Whether it holds no name.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How many names it holds.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether it holds this name.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains(&Name::of(name))
    }

    /// Adds the names of another set.
    pub fn extend(&mut self, other: Self) {
        self.names.extend(other.names);
    }

    /// The names, `node2` before `node10`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.names.iter().map(Name::to_string)
    }
}

impl<S: AsRef<str>> FromIterator<S> for NodeSet {
    /// A set of these very names: brackets and operators mean nothing in them.
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        Self { names: names.into_iter().map(|name| Name::of(name.as_ref())).collect() }
    }
}

impl FromStr for NodeSet {
    type Err = NodeSetError;

    fn from_str(text: &str) -> Result<Self, NodeSetError> {
        Parser { text, rest: text, pieces: 0 }.set()
    }
}

impl fmt::Display for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, pattern) in fold(&self.names).iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            for part in pattern {
                write!(f, "{part}")?;
            }
        }
        Ok(())
    }
}

/// A name, cut where digits begin and end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Text(String),
    Number(Number),
}

/// Some digits. Ordered as in counting; of one value, the one with fewer zeros comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Number {
    value: u64,
    digits: usize,
}

impl Number {
    /// `digits` are at most [`MAX_DIGITS`] decimal digits.
    fn of(digits: &str) -> Self {
        Self { value: digits.parse().unwrap_or(0), digits: digits.len() }
    }

    fn is_padded(self) -> bool {
        self.digits > decimal_digits(self.value)
    }

    /// The number after this one in a range that began with `first`.
    fn next(self, first: Self, step: u64) -> Option<Self> {
        let value = self.value.checked_add(step)?;
        let width = if first.is_padded() { first.digits } else { 0 };
        Some(Self { value, digits: decimal_digits(value).max(width) })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$}", self.value, width = self.digits)
    }
}

fn decimal_digits(value: u64) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

impl Name {
    fn of(name: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = name;
        while let Some(first) = rest.chars().next() {
            let digit = first.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(rest.len());
            let (run, after) = rest.split_at(end);
            pieces.push(match digit && run.len() <= MAX_DIGITS {
                true => Piece::Number(Number::of(run)),
                false => Piece::Text(run.to_owned()),
            });
            rest = after;
        }
        Self(pieces)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => f.write_str(text)?,
                Piece::Number(number) => write!(f, "{number}")?,
            }
        }
        Ok(())
    }
}

/// A part of many names at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
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
fn fold(names: &BTreeSet<Name>) -> Vec<Vec<Part>> {
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

struct Parser<'t> {
    text: &'t str,
    rest: &'t str,
    /// Of all terms so far.
    pieces: usize,
}

impl Parser<'_> {
    fn set(mut self) -> Result<NodeSet, NodeSetError> {
        let mut names = self.term()?;
        while let Some(operator) = self.take() {
            if !matches!(operator, ',' | '!' | '&' | '^') {
                return Err(self.wrong(&format!("{operator:?} cannot be in a name")));
            }
            let term = self.term()?;
            match operator {
                ',' => names.extend(term),
                '!' => names.retain(|name| !term.contains(name)),
                '&' => names.retain(|name| term.contains(name)),
                _ => names = names.symmetric_difference(&term).cloned().collect(),
            }
            if names.len() > MAX_NAMES {
                return Err(self.wrong(&format!("more than {MAX_NAMES} names")));
            }
        }
        Ok(NodeSet { names })
    }

    fn term(&mut self) -> Result<BTreeSet<Name>, NodeSetError> {
        self.blanks();
        let mut names = vec![String::new()];
        loop {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
            let end = self.rest.find(|c| !plain(c)).unwrap_or(self.rest.len());
            let (text, rest) = self.rest.split_at(end);
            self.rest = rest;
            names.iter_mut().for_each(|name| name.push_str(text));
            if !self.rest.starts_with('[') {
                break;
            }
            self.take();
            let numbers = self.numbers(MAX_NAMES / names.len())?;
            names = names
                .iter()
                .flat_map(|name| numbers.iter().map(move |number| format!("{name}{number}")))
                .collect();
        }
        if names.iter().any(String::is_empty) {
            return Err(self.wrong("a name is missing"));
        }
        if names.iter().any(|name| name.len() > MAX_NAME_LEN) {
            return Err(self.wrong(&format!("a name of more than {MAX_NAME_LEN} characters")));
        }
        self.blanks();
        let mut set = BTreeSet::new();
        for name in names {
            let name = Name::of(&name);
            self.pieces += name.0.len();
            if self.pieces > MAX_PIECES {
                let what =
                    format!("more than {MAX_PIECES} runs of letters and digits in all names");
                return Err(self.wrong(&what));
            }
            set.insert(name);
        }
        Ok(set)
    }

    /// The numbers in brackets, at most `limit`, up to and with the closing one.
    fn numbers(&mut self, limit: usize) -> Result<BTreeSet<Number>, NodeSetError> {
        let mut numbers = BTreeSet::new();
        loop {
            let first = self.number()?;
            let mut last = first;
            let mut step = 1;
            if self.rest.starts_with('-') {
                self.take();
                last = self.number()?;
                if last.is_padded() && last.digits != first.digits {
                    return Err(self.wrong("the ends of a range have different leading zeros"));
                }
                if last.value < first.value {
                    return Err(self.wrong("a range that ends before it begins"));
                }
                if self.rest.starts_with('/') {
                    self.take();
                    step = self.number()?.value;
                }
            }
            if step == 0 {
                return Err(self.wrong("a step of 0"));
            }
            let mut next = Some(first);
            while let Some(number) = next.filter(|number| number.value <= last.value) {
                numbers.insert(number);
                if numbers.len() > limit {
                    return Err(self.wrong(&format!("more than {MAX_NAMES} names")));
                }
                next = number.next(first, step);
            }
            match self.take() {
                Some(',') => {}
                Some(']') => return Ok(numbers),
                Some(other) => return Err(self.wrong(&format!("{other:?} in brackets"))),
                None => return Err(self.wrong("a bracket is not closed")),
            }
        }
    }

    fn number(&mut self) -> Result<Number, NodeSetError> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        if end == 0 || end > MAX_DIGITS {
            return Err(self.wrong(&format!("a number of 1 to {MAX_DIGITS} digits is missing")));
        }
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(Number::of(digits))
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self) -> Option<char> {
        let mut characters = self.rest.chars();
        let first = characters.next();
        self.rest = characters.as_str();
        first
    }

    fn wrong(&self, what: &str) -> NodeSetError {
        let before = &self.text[..self.text.len() - self.rest.len()];
        let at = before.chars().count().max(1);
        NodeSetError { text: self.text.to_owned(), at, what: what.to_owned() }
    }
}
