//! What is saved of each partition.

use super::source::{Part, Source};
use anyhow::Context;
use metalcast_formats::{
    clonezilla::PartitionFacts,
    probe::{self, Contents, Found, Kind},
    used::{self, LeftOut, UsedMap},
};
use std::fmt;

/// What a partition holds.
pub(super) enum Content {
    /// Blocks to be saved.
    Data(UsedMap),
    /// Swap space, which is made anew by its ids.
    Swap {
        /// Why it should not be.
        unclean: Vec<String>,
    },
    /// Other partitions.
    Extended,
}

/// A partition, and what will be in the image of it.
pub(super) struct Planned {
    pub(super) facts: PartitionFacts,
    pub(super) start: u64,
    pub(super) bytes_of_partition: u64,
    /// What was recognised, for its ids.
    pub(super) found: Option<Found>,
    content: Content,
}

impl Content {
    pub(super) fn of(
        source: &Source,
        part: &Part,
        is_raw: bool,
    ) -> anyhow::Result<(Self, Contents)> {
        if part.is_extended {
            return Ok((Self::Extended, Contents::Unknown));
        }
        let mut file = source.cached(part);
        let found = probe::probe(&mut file, 0, part.bytes)?;
        if is_raw {
            return Ok((Self::Data(used::every_block(part.bytes)?), found));
        }
        let map = used::read(&mut file, part.bytes)
            .context("with --raw every block is saved, whatever is in it")?;
        let is_swap = map.program == "swap" && source.disk.is_some();
        Ok((if is_swap { Self::Swap { unclean: map.unclean } } else { Self::Data(map) }, found))
    }
}

impl Planned {
    pub(super) fn new(part: &Part, (content, found): (Content, Contents)) -> Self {
        // The filesystem, and not the table that its first sector may resemble.
        let found = match found {
            Contents::Known(all) => {
                all.into_iter().find(|one| !matches!(one.kind, Kind::Gpt | Kind::Mbr))
            }
            Contents::Blank | Contents::Unknown => None,
        };
        let filesystem = found.as_ref().map(|found| match (&content, found.kind) {
            (Content::Data(map), Kind::Vfat) => map.filesystem.to_lowercase(),
            _ => found.kind.name().to_owned(),
        });
        let facts = PartitionFacts { number: part.number, name: part.name.clone(), filesystem };
        Self { facts, start: part.start, bytes_of_partition: part.bytes, found, content }
    }

    /// What is saved, if blocks are.
    pub(super) fn map(&self) -> Option<&UsedMap> {
        match &self.content {
            Content::Data(map) => Some(map),
            Content::Swap { .. } | Content::Extended => None,
        }
    }

    pub(super) fn is_swap(&self) -> bool {
        matches!(self.content, Content::Swap { .. })
    }

    pub(super) fn is_extended(&self) -> bool {
        matches!(self.content, Content::Extended)
    }

    /// Bytes that will be read of it.
    pub(super) fn bytes(&self) -> u64 {
        self.map().map_or(0, UsedMap::used_bytes)
    }

    /// Why it should not be saved as it is.
    pub(super) fn unclean(&self) -> &[String] {
        match &self.content {
            Content::Data(map) => &map.unclean,
            Content::Swap { unclean } => unclean,
            Content::Extended => &[],
        }
    }

    /// Gives up its own records of what is used.
    pub(super) fn take_every_block(&mut self) {
        if let Content::Data(map) = &mut self.content {
            map.take_every_block();
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, mib) = (&self.facts.name, |bytes: u64| bytes >> 20);
        match &self.content {
            Content::Extended => write!(f, "{name}: extended partition"),
            Content::Swap { .. } => write!(f, "{name}: swap space, only its ids are saved"),
            Content::Data(map) => {
                let kind = self.facts.filesystem.as_deref().unwrap_or("nothing that is recognised");
                let (used, all) = (mib(map.used_bytes()), mib(self.bytes_of_partition));
                write!(f, "{name}: {kind}, {used} of {all} MiB are saved")?;
                if map.program == "dd" {
                    f.write_str(", every block of it")?;
                }
                let left_out: Vec<String> = map.left_out.iter().map(LeftOut::to_string).collect();
                if !left_out.is_empty() {
                    write!(f, ", all but the beginning of {} is left out", left_out.join(", "))?;
                }
                Ok(())
            }
        }
    }
}
