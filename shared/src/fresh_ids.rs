//! Ids drawn anew for a disk that is deployed as a whole, so that it can be beside another one of the same
//! image. All of them follow from a seed: a task that is taken again gives the same.

use crate::{
    hash::Hash,
    whole_disk::{DiskTable, WholeDisk},
};
use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

#[cfg(test)]
mod tests;

/// What all ids of a disk follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seed(pub Uuid);

/// An id that has another one now, both in the form that `blkid` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The image's.
    pub old: String,
    /// The disk's.
    pub new: String,
}

impl Seed {
    /// UUID of the filesystem or swap in a partition.
    pub fn filesystem(self, number: u16) -> Uuid {
        self.uuid("filesystem", number)
    }

    /// Serial number of a FAT in a partition, never zero.
    pub fn serial(self, number: u16) -> u32 {
        self.number("serial", number)
    }

    /// The same disk with other ids: of its table, of its partitions, of its swap.
    pub fn renew(self, whole: &WholeDisk) -> WholeDisk {
        let mut whole = whole.clone();
        match &mut whole.table {
            DiskTable::Mbr { signature, .. } => *signature = self.number("disk", 0),
            DiskTable::Gpt { guid, partitions, .. } => {
                *guid = self.uuid("disk", 0);
                for part in partitions {
                    part.guid = self.uuid("partition", part.number);
                }
            }
        }
        for swap in &mut whole.swaps {
            swap.uuid = Some(self.filesystem(swap.number));
        }
        whole
    }

    fn uuid(self, what: &str, number: u16) -> Uuid {
        let Hash(hash) = self.hash(what, number);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Zero stands for none.
    fn number(self, what: &str, number: u16) -> u32 {
        let Hash([a, b, c, d, ..]) = self.hash(what, number);
        u32::from_le_bytes([a, b, c, d]).max(1)
    }

    fn hash(self, what: &str, number: u16) -> Hash {
        Hash::of(format!("{} {what} {number}", self.0).as_bytes())
    }
}

/// The ids of `old` that are others in `new`, which is the same disk renewed: of partitions, of the disk in
/// a GPT, and of swap.
pub fn renamed(old: &WholeDisk, new: &WholeDisk) -> Vec<Renamed> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    match (&old.table, &new.table) {
        (DiskTable::Mbr { signature: old, partitions }, DiskTable::Mbr { signature: new, .. }) => {
            let id = |signature: &u32, number: u16| format!("{signature:08x}-{number:02x}");
            let pair = |number| (id(old, number), id(new, number));
            pairs.extend(partitions.iter().map(|part| pair(part.number)));
        }
        (
            DiskTable::Gpt { guid: old, partitions: olds, .. },
            DiskTable::Gpt { guid: new, partitions: news, .. },
        ) => {
            pairs.push((old.to_string(), new.to_string()));
            let both = olds.iter().zip(news);
            pairs.extend(both.map(|(old, new)| (old.guid.to_string(), new.guid.to_string())));
        }
        (DiskTable::Mbr { .. }, DiskTable::Gpt { .. })
        | (DiskTable::Gpt { .. }, DiskTable::Mbr { .. }) => {}
    }
    let swaps = old.swaps.iter().zip(&new.swaps);
    pairs.extend(
        swaps.filter_map(|(old, new)| Some((old.uuid?.to_string(), new.uuid?.to_string()))),
    );
    pairs
        .into_iter()
        .filter(|(old, new)| old != new)
        .map(|(old, new)| Renamed { old, new })
        .collect()
}
