//! Names, cut so that they can be counted.

use super::MAX_DIGITS;
use std::fmt;

/// A name, cut where digits begin and end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(pub(super) Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Piece {
    Text(String),
    Number(Number),
}

/// Some digits. Ordered as in counting; of one value, the one with fewer zeros comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number {
    pub(super) value: u64,
    pub(super) digits: usize,
}

impl Number {
    /// `digits` are at most [`MAX_DIGITS`] decimal digits.
    pub(super) fn of(digits: &str) -> Self {
        Self { value: digits.parse().unwrap_or(0), digits: digits.len() }
    }

    pub(super) fn is_padded(self) -> bool {
        self.digits > decimal_digits(self.value)
    }

    /// The number after this one in a range that began with `first`.
    pub(super) fn next(self, first: Self, step: u64) -> Option<Self> {
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
    pub(super) fn of(name: &str) -> Self {
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
