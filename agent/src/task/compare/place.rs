//! One place, a slot or a partition, as it is now.

use super::{
    Part, Progress, blocks,
    spots::{FromImage, Slot, Spot},
    tally::Tally,
};
use crate::{
    disk::{Device, Window},
    task::{ChunkSource, StepLog, readers},
};
use anyhow::ensure;
use metalcast_formats::{
    clonezilla::RAW,
    region::Region,
    used::{self, Places, UsedMap},
};
use metalcast_shared::{as_left::Comparison, manifest::Partition};

/// Most blocks of a filesystem that is looked at: half a TiB in blocks of 4 KiB. Their map takes 16 MiB, which a deploy
/// has left.
const MAX_BLOCKS: u64 = 1 << 27;

/// Which blocks of a place are used.
pub(super) enum Use {
    /// By what the filesystem says, in blocks as they are wanted.
    Known(UsedMap),
    /// By another filesystem, whose name by partclone and size of a block these are.
    Another(&'static str, u32),
    /// Nothing there tells: the image's blocks count.
    Unknown,
}

/// Looks at what a partition of the image became; blocks are made as small as they are wanted.
pub(super) fn used(
    device: &Device<'_>,
    (start, bytes): (u64, u64),
    partition: &Partition,
    wanted: Option<u32>,
) -> anyhow::Result<Use> {
    if partition.filesystem == RAW {
        return Ok(Use::Unknown);
    }
    // Maps have blocks of 4 KiB at least, but for small filesystems.
    let is_too_large = |block_bytes: u32| bytes / u64::from(block_bytes.max(1)) > MAX_BLOCKS;
    let too_large =
        || format!("filesystems of more than {MAX_BLOCKS} blocks are too large for that");
    ensure!(!is_too_large(4096) && !wanted.is_some_and(is_too_large), too_large());
    let map = used::read(&mut Region::new(device, start, bytes), bytes)?;
    if map.program == RAW {
        return Ok(Use::Unknown);
    }
    let another = Use::Another(map.program, map.block_bytes);
    let wanted = wanted.unwrap_or(map.block_bytes);
    Ok(map.in_blocks_of(wanted).map_or(another, Use::Known))
}

/// What the filesystem that is there says of it.
pub(super) struct Place<'d> {
    window: Window<'d>,
    map: Option<UsedMap>,
    places: Option<Places>,
    remarks: Vec<String>,
}

impl<'d> Place<'d> {
    /// Looks at which of its blocks are used.
    pub(super) fn of(
        device: &'d Device<'_>,
        part: &Part<'_>,
        log: &StepLog<'_>,
    ) -> anyhow::Result<Self> {
        let Part { partition, start, bytes, left } = part;
        let mut remarks = Vec::new();
        if left.is_none() {
            remarks.push(
                "it is not known what the deploy left: its fix-ups count as drift".to_owned(),
            );
        }
        let block_bytes = left.as_ref().map_or(partition.block_bytes, |left| left.block_bytes);
        let map = match used(device, (*start, *bytes), partition, Some(block_bytes)) {
            Ok(Use::Known(map)) => {
                let name = map.program;
                let (used, all) = (map.used_bytes() >> 20, bytes >> 20);
                log.note(format!("{}: {name}, {used} MiB of {all} are used", partition.name));
                remarks.extend(map.unclean.iter().map(|why| {
                    format!("{name}: {why}; what it says of its blocks may not be the latest")
                }));
                Some(map)
            }
            Ok(Use::Another(name, has)) => {
                remarks
                    .push(format!("another filesystem is there ({name}, blocks of {has} bytes)"));
                None
            }
            Ok(Use::Unknown) => {
                if partition.filesystem != RAW {
                    remarks.push("no filesystem that is known here is there any more".to_owned());
                }
                None
            }
            Err(error) => {
                remarks.push(format!("{error:#}"));
                None
            }
        };
        let window = device.window(*start, *bytes)?;
        let mut region = Region::new(device, *start, *bytes);
        let places = map.as_ref().and_then(|_| used::places(&mut region, *bytes).ok().flatten());
        remarks.iter().for_each(|remark| log.note(remark));
        Ok(Self { window, map, places, remarks })
    }

    /// Reads all that is, or was, in use.
    pub(super) fn compare(
        self,
        part: &Part<'_>,
        source: &dyn ChunkSource,
        progress: &mut Progress,
        log: &StepLog<'_>,
    ) -> anyhow::Result<Comparison> {
        let Self { window, map, places, remarks } = self;
        let left = part.left.as_ref();
        let is_new = left.is_some_and(|left| left.is_new);
        let image = (!is_new).then_some(FromImage { partition: part.partition, source });
        let slot = Slot::new(window, image, map.as_ref(), left)?;
        progress.correct(part.partition, &slot);
        let mut tally = Tally::new(slot.block_bytes, places.as_ref());
        slot.each_batch(&mut |batch| {
            let (mut found, mut unequal) = (Vec::new(), Vec::new());
            let is_equal = |spot: &Spot<'_>| slot.is_as_expected(spot);
            readers::each(batch.spots, is_equal, |spot, is_equal| {
                log.check_cancel()?;
                progress.add(slot.bytes_of(spot), log);
                match is_equal && !spot.is_of_both() {
                    true => found.extend(slot.all_of(spot)),
                    false => unequal.push(spot),
                }
                Ok(())
            })?;
            found.extend(blocks::compare(&slot, batch, &unequal, log)?);
            found.sort_unstable_by_key(|found| found.first);
            found.into_iter().for_each(|found| tally.add(found));
            Ok(())
        })?;
        Ok(tally.end(left.is_some(), remarks))
    }
}
