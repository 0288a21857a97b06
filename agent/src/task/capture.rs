//! Saving what is on a disk: it is held, looked at and sent into the store. Nothing is written to it, and
//! nothing of it may be mounted by others.
//!
//! ```text
//! check-disk (held, so that nobody changes it) -> survey (which blocks) -> capture (sent, in order)
//! ```
//!
//! The files of a slot are read through a mount that changes nothing, and sent as a tar archive.

mod archive;
mod attempts;
mod check_disk;
mod send;
mod uploader;

pub(super) use archive::{Attempt, run as send_archive};
pub(super) use check_disk::run as check;
pub(super) use send::run as send;
pub use uploader::{Begun, Fault, Sending, Uploader};

use super::StepLog;
use crate::{capture, disk::Device};
use anyhow::ensure;
use metalcast_formats::capture::{Planned, Source};
use metalcast_shared::{
    to_agent::Capture,
    upload::{MAX_PARTITIONS, MAX_REMARK_BYTES, MAX_REMARKS, Survey, SurveyPartition},
};

/// What will be sent.
pub(super) struct Surveyed {
    pub(super) planned: Vec<Planned>,
    pub(super) survey: Survey,
}

/// Step `survey`: finds out which blocks are saved, by the filesystems' own records.
pub(super) fn survey(
    order: &Capture,
    source: &Source<Device<'_>>,
    log: &StepLog<'_>,
) -> anyhow::Result<Surveyed> {
    let planned = capture::plan(source, order.raw, order.force)?;
    if order.tar {
        archive::family(&planned)?;
    }
    for one in &planned {
        log.check_cancel()?;
        log.note(one.to_string());
        for why in one.unclean() {
            let how = match order.tar {
                true => "its files are saved as they can be found without its journal",
                false => "every block of it is saved",
            };
            log.note(format!("{}: {why}; {how}", one.facts.name));
        }
    }
    let partition = if order.tar { archive::partition } else { partition };
    let partitions: Vec<SurveyPartition> = planned.iter().filter_map(partition).collect();
    ensure!(
        partitions.len() <= MAX_PARTITIONS,
        "{} partitions have data, and an image has at most {MAX_PARTITIONS}",
        partitions.len()
    );
    let maps = || planned.iter().filter_map(|one| Some((one, one.map()?)));
    let left_out = maps().flat_map(|(one, map)| {
        map.left_out.iter().map(move |file| format!("{} of {}", file, one.facts.name))
    });
    let unclean = planned.iter().filter(|one| !one.unclean().is_empty());
    let unclean = unclean.map(|one| format!("{} was not unmounted properly", one.facts.name));
    let remarks = left_out.map(|what| format!("left out: {what}")).chain(unclean);
    let remarks = remarks.map(|text| cut(text, MAX_REMARK_BYTES)).take(MAX_REMARKS).collect();
    let survey = Survey {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        partitions,
        left_out_bytes: maps().map(|(_, map)| map.left_out_bytes()).sum(),
        remarks,
    };
    Ok(Surveyed { planned, survey })
}

fn partition(planned: &Planned) -> Option<SurveyPartition> {
    let map = planned.map()?;
    Some(SurveyPartition {
        name: planned.facts.name.clone(),
        filesystem: map.program.to_owned(),
        block_bytes: map.block_bytes,
        total_blocks: map.used.blocks(),
        used_blocks: map.used.count_used(),
        device_bytes: map.device_bytes,
    })
}

fn cut(mut text: String, bytes: usize) -> String {
    while text.len() > bytes {
        text.pop();
    }
    text
}
