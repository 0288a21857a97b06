//! The files of a slot as a tar archive: its filesystem is mounted, only to be looked at, and read from its
//! root on.

use super::{Sending, Surveyed, Uploader, attempts};
use crate::{
    capture::SEALERS,
    disk::{Access, Device, Mounted},
    pack::Stream,
    task::{
        StepLog, driver, note_memory,
        plan::{Family, NamedDisk, announce_plan},
    },
};
use anyhow::{Context, bail, ensure};
use metalcast_formats::{
    capture::{Planned, Source},
    chunk::{PlainChunk, Sealed, sealer},
    layout, pipeline,
    tar::BLOCK_BYTES,
};
use metalcast_shared::{
    manifest::{ARCHIVE, ARCHIVE_NAME, CHUNK_BYTES, Run},
    to_agent::{Capture, CaptureSource},
    upload::{Survey, SurveyPartition, UploadPart, UploadPosition},
};
use metalcast_sys::block::{BlockDevice, OpenMode};
use std::path::PathBuf;

/// What the store is told of: how much it is can only be estimated.
pub(super) fn partition(planned: &Planned) -> Option<SurveyPartition> {
    let used_blocks = planned.map()?.used_bytes().div_ceil(BLOCK_BYTES as u64);
    Some(SurveyPartition {
        name: ARCHIVE_NAME.to_owned(),
        filesystem: ARCHIVE.to_owned(),
        block_bytes: BLOCK_BYTES as u32,
        total_blocks: used_blocks,
        used_blocks,
        device_bytes: planned.bytes_of_partition,
    })
}

/// The filesystem that the files are in, if it is one whose files can become a system again.
pub(super) fn family(planned: &[Planned]) -> anyhow::Result<Family> {
    let [planned] = planned else { bail!("an archive is made of one slot") };
    let program = planned.map().map_or("nothing", |map| map.program);
    let family = Family::of(program).with_context(|| {
        format!(
            "the slot holds {program}; archives are made of ext2/3/4, btrfs and xfs: save it without --tar"
        )
    })?;
    driver::require(family.driver())?;
    Ok(family)
}

/// Step `capture` for an archive. Nothing is written: no journal is replayed, which one that was unmounted
/// properly does not need.
pub(in crate::task) fn run(
    order: &Capture,
    source: Source<Device<'static>>,
    surveyed: &Surveyed,
    uploader: &dyn Uploader,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let family = family(&surveyed.planned)?;
    let node = node(order, source, log)?;
    let options = Some(family.only_look());
    let run_dir = &log.machine().run_dir;
    // To note an error, ext4 writes through a mount that is only read.
    let block = BlockDevice::open(&node, OpenMode::Read)?;
    block.set_read_only(true)?;
    let mounted = Mounted::open(&node, family.driver(), options, Access::Read, run_dir);
    let sent = mounted.context("mounting it, only to be looked at").and_then(|mounted| {
        let sent = send(&mounted, &surveyed.survey, uploader, log);
        // Also after a failure: nothing stays mounted.
        let closed = mounted.close();
        sent.and(closed)
    });
    let released = block.set_read_only(false);
    sent?;
    Ok(released?)
}

/// The slot's device node. The disk is let go of: the kernel mounts no partition of one that is held.
fn node(
    order: &Capture,
    source: Source<Device<'static>>,
    log: &StepLog<'_>,
) -> anyhow::Result<PathBuf> {
    let CaptureSource::Slot { layout, slot } = &order.source else {
        bail!("an archive is made of the files in a slot")
    };
    let device = source.medium;
    let plan = layout::compute(layout, device.bytes(), device.sector_bytes())?;
    announce_plan(&device, &plan)?;
    let disk = NamedDisk { path: device.path().to_owned(), selector: order.disk.clone() };
    drop(device);
    disk.node(*slot, log)
}

fn send(
    mounted: &Mounted,
    survey: &Survey,
    uploader: &dyn Uploader,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let (mut wire, mut prints) = (0, Vec::new());
    let mut said = String::new();
    let revision = attempts::run(survey, uploader, log, |from, sending| {
        let stream = Stream::open(mounted.dir())?;
        let mut attempt = Attempt { stream, prints: &mut prints, wire: &mut wire, log };
        said = attempt.send(from, survey.used_bytes(), sending)?;
        Ok(())
    })?;
    log.note(format!("saved as {revision}: {said}, {wire} sent"));
    note_memory(log);
    Ok(())
}

/// On one connection.
pub(in crate::task) struct Attempt<'a> {
    pub(in crate::task) stream: Stream,
    /// What the stream was like behind each chunk when that was read.
    pub(in crate::task) prints: &'a mut Vec<u64>,
    pub(in crate::task) wire: &'a mut u64,
    pub(in crate::task) log: &'a StepLog<'a>,
}

impl Attempt<'_> {
    /// Sends all from a position on; what that was.
    pub(in crate::task) fn send(
        &mut self,
        from: UploadPosition,
        total: u64,
        sending: &mut dyn Sending,
    ) -> anyhow::Result<String> {
        let mut done = self.pass(from.chunks)?;
        let Self { stream, prints, wire, log } = self;
        let mut index = from.chunks;
        prints.truncate(index as usize);
        let next = || -> anyhow::Result<Option<PlainChunk>> {
            log.check_cancel()?;
            let data = stream.read(CHUNK_BYTES as usize)?;
            if data.is_empty() {
                return Ok(None);
            }
            prints.push(stream.fingerprint());
            let runs = vec![Run { start: 0, count: (data.len() / BLOCK_BYTES) as u32 }];
            let plain = PlainChunk { index, runs, data };
            index = index.checked_add(1).context("more chunks than can be counted")?;
            Ok(Some(plain))
        };
        let take = |sealed: std::io::Result<Sealed>| -> anyhow::Result<()> {
            let Sealed { chunk, frame } = sealed.context("compressing a part of the archive")?;
            done += u64::from(chunk.blocks()) * BLOCK_BYTES as u64;
            **wire += u64::from(chunk.frame_bytes);
            sending.send(&UploadPart::Chunk(chunk), &frame)?;
            // How much there is was an estimate.
            log.progress(done.min(total), total, **wire);
            Ok(())
        };
        let (read, taken) = pipeline::run(SEALERS, next, sealer, take);
        // Why reading ended is the cause if both failed.
        read?;
        taken?;
        let left_out = stream.left_out().to_string();
        if !left_out.is_empty() {
            log.note(format!("left out: {left_out}"));
        }
        Ok(format!("a tar archive of {} members, {done} bytes", stream.members()))
    }

    /// Passes over chunks that have come: they are looked at again, but not read. Their bytes.
    fn pass(&mut self, chunks: u32) -> anyhow::Result<u64> {
        let mut done = 0;
        for index in 0..chunks as usize {
            self.log.check_cancel()?;
            done += self.stream.skip(CHUNK_BYTES as usize)? as u64;
            // An agent that was started anew has none, and what it knows of the slot came with the task.
            let is_same = self.prints.get(index).is_none_or(|it| *it == self.stream.fingerprint());
            ensure!(is_same, "the slot's files are not those that were sent; start the job again");
        }
        Ok(done)
    }
}
