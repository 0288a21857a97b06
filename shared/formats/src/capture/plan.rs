//! What is saved of each partition.

use super::{CaptureError, Part, Source};
use crate::{
    chunk::{Ranges, write_head_frame},
    clonezilla::{PartitionFacts, RAW},
    partclone::HeadFacts,
    probe::{self, Contents, Found, Kind},
    region::ReadAt,
    used::{self, LeftOut, UsedError, UsedMap},
};
use std::{
    fmt,
    io::{self, Write},
};

/// Which blocks of a partition are saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// Those that its filesystem uses. One that was not unmounted properly is refused.
    Used,
    /// The same, but of one that was not unmounted properly all.
    UsedOrUnclean,
    /// All, whatever is in them.
    Every,
}

/// A partition, and what will be in the image of it.
#[derive(Debug)]
pub struct Planned {
    /// As the image's files name and describe it.
    pub facts: PartitionFacts,
    /// Its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub bytes_of_partition: u64,
    /// What was recognised, for its ids.
    pub found: Option<Found>,
    content: Content,
}

/// What a partition holds.
#[derive(Debug)]
enum Content {
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

/// Looks at all partitions. Memory: their maps of used blocks.
pub fn plan<S: ReadAt>(source: &Source<S>, blocks: Blocks) -> Result<Vec<Planned>, CaptureError> {
    let look = |part: &Part| {
        let failed = |source| CaptureError::Used { partition: part.name.clone(), source };
        Planned::look(source, part, blocks).map_err(failed)
    };
    let planned: Result<Vec<_>, _> = source.partitions.iter().map(look).collect();
    let mut planned = planned?;
    let unclean = |one: &Planned| -> Vec<String> {
        one.unclean().iter().map(|why| format!("{}: {why}", one.facts.name)).collect()
    };
    let refused = planned.iter().flat_map(unclean).collect::<Vec<_>>().join("; ");
    if !refused.is_empty() && blocks == Blocks::Used {
        return Err(CaptureError::Unclean(refused));
    }
    planned.iter_mut().filter(|one| !one.unclean().is_empty()).for_each(Planned::take_every_block);
    if planned.iter().all(|planned| planned.map().is_none()) {
        return Err(CaptureError::Nothing);
    }
    Ok(planned)
}

impl Planned {
    fn look<S: ReadAt>(source: &Source<S>, part: &Part, blocks: Blocks) -> Result<Self, UsedError> {
        if part.is_extended {
            return Ok(Self::new(part, Content::Extended, Contents::Unknown));
        }
        let mut file = source.region(part.start, part.bytes);
        let found = probe::probe(&mut file, 0, part.bytes).map_err(|source| UsedError::Read {
            what: "its beginning and end",
            offset: 0,
            bytes: probe::WINDOW_BYTES.min(part.bytes) as usize,
            source,
        })?;
        let content = match blocks {
            Blocks::Every => Content::Data(used::every_block(part.bytes)?),
            Blocks::Used | Blocks::UsedOrUnclean => {
                let map = used::read(&mut file, part.bytes)?;
                let is_swap = map.program == "swap" && source.disk.is_some();
                if is_swap { Content::Swap { unclean: map.unclean } } else { Content::Data(map) }
            }
        };
        Ok(Self::new(part, content, found))
    }

    fn new(part: &Part, content: Content, found: Contents) -> Self {
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
    pub fn map(&self) -> Option<&UsedMap> {
        match &self.content {
            Content::Data(map) => Some(map),
            Content::Swap { .. } | Content::Extended => None,
        }
    }

    /// The file for its blocks, if they are saved.
    pub fn file_name(&self) -> Option<String> {
        Some(format!("{}.{}-ptcl-img.zst", self.facts.name, self.map()?.program))
    }

    /// Whether that file begins with a head.
    pub fn has_head(&self) -> bool {
        self.map().is_some_and(|map| map.program != RAW)
    }

    /// Writes what that file begins with: a frame with partclone's header and bitmap. Raw images begin
    /// with nothing of the kind: they are what is on the partition, from its first byte to its last.
    pub fn write_head(&self, out: &mut impl Write) -> io::Result<()> {
        let Some(map) = self.map().filter(|map| map.program != RAW) else { return Ok(()) };
        let facts = HeadFacts {
            filesystem: map.filesystem,
            device_bytes: map.device_bytes,
            block_bytes: map.block_bytes,
        };
        write_head_frame(out, &facts, &map.used)
    }

    /// Whether it is swap space that will be made anew.
    pub fn is_swap(&self) -> bool {
        matches!(self.content, Content::Swap { .. })
    }

    /// Whether it only holds other partitions.
    pub fn is_extended(&self) -> bool {
        matches!(self.content, Content::Extended)
    }

    /// Bytes that will be read of it.
    pub fn bytes(&self) -> u64 {
        self.map().map_or(0, UsedMap::used_bytes)
    }

    /// Bytes in the first `chunks` of its chunks.
    pub fn bytes_of_first(&self, chunks: u32) -> u64 {
        let Some(map) = self.map() else { return 0 };
        let Ok(mut ranges) = Ranges::new(map.block_bytes, map.used.blocks()) else { return 0 };
        let mut blocks = 0;
        for _ in 0..chunks {
            let Some((_, runs)) = ranges.next(&map.used) else { break };
            blocks += runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
        }
        blocks * u64::from(map.block_bytes)
    }

    /// Why its records of what is used are not to be trusted; empty if they are.
    pub fn unclean(&self) -> &[String] {
        match &self.content {
            Content::Data(map) => &map.unclean,
            Content::Swap { unclean } => unclean,
            Content::Extended => &[],
        }
    }

    fn take_every_block(&mut self) {
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
                if map.program == RAW {
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
