//! Who boots what: an immutable table that the driver swaps whole.
//!
//! A boot plan's default and one-shot are resolved before an entry gets here, so answering a
//! request is one look-up that cannot fail and waits for nothing.

use crate::mac::Mac;
use std::collections::HashMap;

/// What a machine is told to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootAnswer {
    /// Our RAM image with the agent.
    RamImage,
    /// The system on its own disk.
    LocalDisk,
}

/// A known machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// The node's name, for logs and consoles.
    pub node: String,
    /// What its next boot is.
    pub answer: BootAnswer,
}

/// All known machines by every one of their MAC addresses, and the policy for the others.
#[derive(Debug, Clone)]
pub struct BootTable {
    entries: HashMap<Mac, BootEntry>,
    unknown: BootAnswer,
}

impl BootTable {
    /// Builds a table. Of two entries with one MAC the later wins.
    pub fn new(entries: impl IntoIterator<Item = (Mac, BootEntry)>, unknown: BootAnswer) -> Self {
        Self { entries: entries.into_iter().collect(), unknown }
    }

    /// What the machine boots; the policy for unknown ones if it is not in the table.
    pub fn answer(&self, mac: Mac) -> BootAnswer {
        self.entries.get(&mac).map_or(self.unknown, |entry| entry.answer)
    }

    /// The machine's entry, if it is known.
    pub fn entry(&self, mac: Mac) -> Option<&BootEntry> {
        self.entries.get(&mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_machines_get_the_policy() {
        let known = Mac([2, 0, 0, 0, 0, 1]);
        let entry = BootEntry { node: "n1".into(), answer: BootAnswer::LocalDisk };
        let table = BootTable::new([(known, entry.clone())], BootAnswer::RamImage);
        assert_eq!(table.answer(known), BootAnswer::LocalDisk);
        assert_eq!(table.entry(known), Some(&entry));
        let other = Mac([2, 0, 0, 0, 0, 2]);
        assert_eq!(table.answer(other), BootAnswer::RamImage);
        assert_eq!(table.entry(other), None);
    }
}
