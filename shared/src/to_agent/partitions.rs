//! Partitions of an image on their way into partitions that a disk has.

use super::{FixUp, Overwrite};
use crate::{
    disk::DiskSelector, id::Revision, manifest::SignedManifest, table::FoundTable, whole_disk::Swap,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A partition of an image and its place on the disk; as text `sda1:3`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Number in the table.
    pub number: u16,
    /// Its name in the manifest.
    pub partition: String,
}

/// Put partitions of an image into partitions that a disk has. All else on it stays, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployPartitions {
    /// The revision.
    pub image: Revision,
    /// Its signed root.
    pub manifest: SignedManifest,
    /// Which of its partitions goes into which of the disk.
    pub partitions: Vec<Placed>,
    /// Partitions of the disk that become swap, under the names that the image's had.
    pub swaps: Vec<Swap>,
    /// The disk.
    pub disk: DiskSelector,
    /// The table that it must still have.
    pub table: FoundTable,
    /// What may be lost: [`Overwrite::AnySlot`], or only partitions that are blank.
    pub overwrite: Overwrite,
    /// Numbers of the partitions that their filesystems are to fill.
    pub grow: Vec<u16>,
    /// How the Linux systems in them are adapted, if there are any.
    pub fix_up: FixUp,
}

/// Why a text names no partition of an image and its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a partition of the image and the number of one on the disk, as in sda1:3")]
pub struct NotPlaced(String);

impl FromStr for Placed {
    type Err = NotPlaced;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotPlaced(text.chars().take(60).collect());
        let (partition, number) = text.rsplit_once(':').ok_or_else(wrong)?;
        let number = number.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
        match partition.is_empty() {
            true => Err(wrong()),
            false => Ok(Self { number, partition: partition.to_owned() }),
        }
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for (text, partition, number) in
            [("sda1:3", "sda1", 3), ("nvme0n1p2:65535", "nvme0n1p2", 65535)]
        {
            let placed: Placed = text.parse().unwrap();
            assert_eq!((placed.partition.as_str(), placed.number), (partition, number));
            assert_eq!(placed.to_string(), text);
        }
        for text in ["sda1", "sda1:", ":3", "sda1:0", "sda1:x", "sda1:65536", ""] {
            let error = text.parse::<Placed>().unwrap_err().to_string();
            assert!(error.contains("as in sda1:3") && error.contains(text), "{error}");
        }
    }
}
