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
use metalcast_formats::{
    clonezilla::RAW,
    region::Region,
    used::{self, Places, UsedMap},
};
use metalcast_shared::as_left::Comparison;

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
        part: &Part,
        log: &StepLog<'_>,
    ) -> anyhow::Result<Self> {
        let window = device.window(part.start, part.bytes)?;
        let mut region = Region::new(device, part.start, part.bytes);
        let mut remarks = Vec::new();
        if part.left.is_none() {
            remarks.push(
                "it is not known what the deploy left: its fix-ups count as drift".to_owned(),
            );
        }
        let block_bytes =
            part.left.as_ref().map_or(part.partition.block_bytes, |left| left.block_bytes);
        let is_raw = part.partition.filesystem == RAW;
        let map = match used::read(&mut region, part.bytes) {
            _ if is_raw => None,
            Ok(map) if map.block_bytes == block_bytes => {
                let name = map.program;
                let (used, all) = (map.used_bytes() >> 20, part.bytes >> 20);
                log.note(format!("{}: {name}, {used} MiB of {all} are used", part.partition.name));
                remarks.extend(map.unclean.iter().map(|why| {
                    format!("{name}: {why}; what it says of its blocks may not be the latest")
                }));
                Some(map)
            }
            Ok(map) => {
                let (name, has) = (map.program, map.block_bytes);
                remarks
                    .push(format!("another filesystem is there ({name}, blocks of {has} bytes)"));
                None
            }
            Err(error) => {
                remarks.push(format!("{:#}", anyhow::Error::from(error)));
                None
            }
        };
        let places =
            map.as_ref().and_then(|_| used::places(&mut region, part.bytes).ok().flatten());
        remarks.iter().for_each(|remark| log.note(remark));
        Ok(Self { window, map, places, remarks })
    }

    /// Reads all that is, or was, in use.
    pub(super) fn compare(
        self,
        part: &Part,
        source: &dyn ChunkSource,
        progress: &mut Progress,
        log: &StepLog<'_>,
    ) -> anyhow::Result<Comparison> {
        let Self { window, map, places, remarks } = self;
        let left = part.left.as_ref();
        let is_new = left.is_some_and(|left| left.is_new);
        let image = (!is_new).then_some(FromImage { partition: &part.partition, source });
        let slot = Slot::new(window, image, map.as_ref(), left)?;
        progress.correct(&part.partition, &slot);
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
