//! The notation, read.

use super::{
    MAX_DIGITS, MAX_NAME_LEN, MAX_NAMES, MAX_PIECES, NodeSet, NodeSetError,
    name::{Name, Number},
};
use std::collections::BTreeSet;

pub(super) struct Parser<'t> {
    text: &'t str,
    rest: &'t str,
    /// Of all terms so far.
    pieces: usize,
}

impl<'t> Parser<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, rest: text, pieces: 0 }
    }

    pub(super) fn set(mut self) -> Result<NodeSet, NodeSetError> {
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
