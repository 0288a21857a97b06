//! How much of one revision is in another: the chunks that cover the same blocks with the same content,
//! which a deployment over the other would not send.

use super::{Images, StoreError, loaded::Loaded};
use metalcast_shared::{
    id::Revision,
    manifest::{Chunk, Partition},
};
use serde::{Deserialize, Serialize};

/// Two revisions compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The one.
    pub a: Revision,
    /// The other.
    pub b: Revision,
    /// All partitions that either has, those of the one first.
    pub partitions: Vec<PartitionDiff>,
}

/// A partition compared with the one of the same name, if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionDiff {
    /// Its name.
    pub name: String,
    /// What it has in the one.
    pub a: Extent,
    /// What it has in the other.
    pub b: Extent,
    /// What both have, in the same place.
    pub shared: Extent,
    /// Bytes of the other's frames that the one does not have: what is sent of it over the one.
    pub to_send_bytes: u64,
}

/// Some chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// How many.
    pub chunks: u64,
    /// Bytes of their blocks.
    pub bytes: u64,
}

/// See [`Images::diff`].
pub(super) fn diff(images: &Images, a: &Revision, b: &Revision) -> Result<Diff, StoreError> {
    let (left, right) = (images.load(a)?, images.load(b)?);
    let mut partitions = Vec::new();
    for partition in &left.manifest.partitions {
        let other = right.manifest.partition(&partition.name);
        partitions.push(compare((&left, Some(partition)), (&right, other))?);
    }
    for partition in &right.manifest.partitions {
        if left.manifest.partition(&partition.name).is_none() {
            partitions.push(compare((&left, None), (&right, Some(partition)))?);
        }
    }
    Ok(Diff { a: a.clone(), b: b.clone(), partitions })
}

/// A partition of a revision, if it has it.
type Side<'s> = (&'s Loaded, Option<&'s Partition>);

/// Goes through the chunks of both in the order of their places.
fn compare(a: Side<'_>, b: Side<'_>) -> Result<PartitionDiff, StoreError> {
    let name = a.1.or(b.1).map(|partition| partition.name.clone()).unwrap_or_default();
    let [mut ours, mut shared] = [Extent::default(); 2];
    let (mut theirs, mut to_send_bytes) = (Extent::default(), 0);
    let is_comparable = a.1.map(|one| one.block_bytes) == b.1.map(|one| one.block_bytes);
    let mut left = chunks(a).peekable();
    for chunk in chunks(b) {
        let chunk = chunk?;
        theirs.add(b.1, &chunk);
        let mut is_shared = false;
        while let Some(one) =
            left.next_if(|one| one.as_ref().map_or(true, |one| one.index <= chunk.index))
        {
            let one = one?;
            ours.add(a.1, &one);
            let is_same = one.index == chunk.index
                && one.runs == chunk.runs
                && one.data_hash == chunk.data_hash;
            is_shared |= is_comparable && is_same;
        }
        if is_shared {
            shared.add(b.1, &chunk);
        } else {
            to_send_bytes += u64::from(chunk.frame_bytes);
        }
    }
    for one in left {
        ours.add(a.1, &one?);
    }
    Ok(PartitionDiff { name, a: ours, b: theirs, shared, to_send_bytes })
}

fn chunks<'s>(
    (loaded, partition): Side<'s>,
) -> impl Iterator<Item = Result<Chunk, StoreError>> + 's {
    partition.into_iter().flat_map(|partition| loaded.chunks(partition))
}

impl Extent {
    fn add(&mut self, partition: Option<&Partition>, chunk: &Chunk) {
        self.chunks += 1;
        self.bytes += partition.map_or(0, |partition| chunk.data_bytes(partition) as u64);
    }
}
