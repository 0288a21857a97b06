//! A filesystem that is made on a node, to be filled with the members of a tar archive.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A filesystem to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fresh {
    /// Its kind.
    pub kind: FreshKind,
    /// Its label, if it is to have one.
    pub label: Option<FreshLabel>,
}

/// Kinds of filesystems that can be made, and from which a slot can be started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FreshKind {
    /// ext4.
    #[default]
    Ext4,
    /// ext3.
    Ext3,
    /// ext2.
    Ext2,
    /// XFS.
    Xfs,
    /// btrfs, with the system in its top level.
    Btrfs,
}

/// A label that any of them takes: `a-z A-Z 0-9 . _ -`, up to 12 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FreshLabel(String);

/// Why a word is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FreshError {
    /// No such kind.
    #[error("no filesystem {0:?} can be made; there are {names}", names = FreshKind::ALL.map(FreshKind::name).join(", "))]
    Kind(String),
    /// Not a label.
    #[error(
        "{0:?} cannot be a label: write 1 to 12 of a-z, A-Z, 0-9, '.', '_' and '-', not '-' first"
    )]
    Label(String),
}

/// Longest label: that of XFS.
const MAX_LABEL_BYTES: usize = 12;

impl FreshKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ext4, Self::Ext3, Self::Ext2, Self::Xfs, Self::Btrfs];

    /// Its name, as mount(8) has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Ext3 => "ext3",
            Self::Ext2 => "ext2",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

impl fmt::Display for FreshKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FreshKind {
    type Err = FreshError;

    fn from_str(name: &str) -> Result<Self, FreshError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| FreshError::Kind(name.to_owned()))
    }
}

impl FreshLabel {
    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FreshLabel {
    type Err = FreshError;

    fn from_str(label: &str) -> Result<Self, FreshError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_label = (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(is_plain)
            && !label.starts_with('-');
        match is_label {
            true => Ok(Self(label.to_owned())),
            false => Err(FreshError::Label(label.to_owned())),
        }
    }
}

impl TryFrom<String> for FreshLabel {
    type Error = FreshError;

    fn try_from(label: String) -> Result<Self, FreshError> {
        label.parse()
    }
}

impl From<FreshLabel> for String {
    fn from(label: FreshLabel) -> Self {
        label.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_a_tool_would_take_for_something_else_are_refused() {
        for label in ["root", "a", "Debian_12.1", "12-34567890a"] {
            assert_eq!(label.parse::<FreshLabel>().unwrap().as_str(), label);
        }
        for label in ["", "-L", "a b", "thirteen-long", "a/b", "ü", "a\"b"] {
            assert!(label.parse::<FreshLabel>().is_err(), "{label}");
        }
        assert_eq!("xfs".parse(), Ok(FreshKind::Xfs));
        assert!("ntfs".parse::<FreshKind>().unwrap_err().to_string().contains("ext4, ext3"));
    }
}
