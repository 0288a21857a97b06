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

mod fold;
mod name;
mod parse;
#[cfg(test)]
mod tests;

use fold::fold;
use name::Name;
use parse::Parser;
use std::{collections::BTreeSet, fmt, str::FromStr};

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
        Parser::new(text).set()
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
