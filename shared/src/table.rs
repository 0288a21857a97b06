//! A partition table as it is on a disk: what is planned with, and held against the disk again before
//! anything is written.

use crate::whole_disk::TableId;
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// A table that was read from a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundTable {
    /// By what it is known again.
    pub id: TableId,
    /// In order of number.
    pub partitions: Vec<FoundPartition>,
}

/// A partition of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundPartition {
    /// As Linux counts.
    pub number: u16,
    /// First byte on the disk.
    pub start_bytes: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Its type.
    pub kind: PartitionKind,
    /// Why nothing may be written to it: it is mounted, or belongs to something larger.
    pub in_use: Option<String>,
}

/// The type of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionKind {
    /// The type byte of an MBR.
    Mbr(u8),
    /// The type of a GPT.
    Gpt(Uuid),
}

impl FoundTable {
    /// The partition of this number.
    pub fn partition(&self, number: u16) -> Option<&FoundPartition> {
        self.partitions.iter().find(|partition| partition.number == number)
    }

    /// The numbers that there are, for people.
    pub fn numbers(&self) -> String {
        let numbers: Vec<String> = self.partitions.iter().map(|p| p.number.to_string()).collect();
        if numbers.is_empty() { "none".into() } else { numbers.join(", ") }
    }

    /// The first thing in which the table that is `now` on the disk is another one. Who uses its
    /// partitions does not count.
    pub fn difference(&self, now: &Self) -> Option<String> {
        if self.id != now.id {
            return Some(format!("it was {}, it is {}", self.id, now.id));
        }
        let all = self.partitions.iter().chain(&now.partitions).map(|partition| partition.number);
        all.filter_map(|number| {
            let text = |table: &Self| match table.partition(number) {
                Some(FoundPartition { start_bytes, bytes, kind, .. }) => {
                    format!("{bytes} bytes of type {kind} at byte {start_bytes}")
                }
                None => "not there".into(),
            };
            let (was, is) = (text(self), text(now));
            (was != is).then(|| format!("partition {number} was {was}, it is {is}"))
        })
        .next()
    }
}

impl fmt::Display for PartitionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mbr(kind) => write!(f, "0x{kind:02x}"),
            Self::Gpt(kind) => kind.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> FoundTable {
        let part = |number, start_bytes| FoundPartition {
            number,
            start_bytes,
            bytes: 512,
            kind: PartitionKind::Mbr(7),
            in_use: None,
        };
        FoundTable { id: TableId::Mbr(0x77), partitions: vec![part(1, 1024), part(5, 4096)] }
    }

    #[test]
    fn a_table_is_the_same_until_a_partition_is_another() {
        let mut now = table();
        now.partitions[0].in_use = Some("mounted".into());
        assert_eq!(table().difference(&now), None);
        now.partitions[1].bytes = 1024;
        assert_eq!(
            table().difference(&now).unwrap(),
            "partition 5 was 512 bytes of type 0x07 at byte 4096, it is 1024 bytes of type 0x07 at byte 4096"
        );
        now.partitions.remove(1);
        assert!(table().difference(&now).unwrap().ends_with("it is not there"));
        assert!(now.difference(&table()).unwrap().starts_with("partition 5 was not there"));
        now.id = TableId::Mbr(1);
        assert!(table().difference(&now).unwrap().contains("signature 00000001"));
        assert_eq!((table().numbers().as_str(), table().partition(4)), ("1, 5", None));
    }
}
