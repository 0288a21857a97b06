//! The system that runs here, as a tar archive. Nothing is written: its filesystems are seen through mounts
//! of our own, which are only read, and which nobody else sees.
//!
//! ```text
//! survey (what is mounted: what is packed, what is not, what cannot be) -> capture (sent once, in order)
//! ```
//!
//! It goes on meanwhile, so it is sent on one connection or not at all: it cannot be read twice alike.

mod mounts;

use super::{
    StepLog, Uploader,
    capture::{Attempt, Begun, Fault},
    note_memory,
};
use crate::{
    disk::{MIB, Tree},
    pack::{Live, Stream},
};
use anyhow::{Context, bail};
use metalcast_formats::tar::BLOCK_BYTES;
use metalcast_shared::{
    manifest::{ARCHIVE, ARCHIVE_NAME},
    upload::{Survey, SurveyPartition, UploadPosition},
};
use metalcast_sys::mount;
use mounts::{Chosen, beneath_root};
use nix::sys::statvfs::fstatvfs;
use std::{os::fd::OwnedFd, path::Path};

/// What the system swaps to.
const SWAPS: &str = "/proc/swaps";

const AGAIN: &str = "a running system cannot be read a second time alike; start the job again";

/// What will be sent.
pub(super) struct Surveyed {
    stream: Stream,
    survey: Survey,
}

/// Step `survey`: finds out what the system lies on.
pub(super) fn survey(log: &StepLog<'_>) -> anyhow::Result<Surveyed> {
    let mounted = mount::mounts()?;
    let Chosen { packed, left } = mounts::choose(&mounted)?;
    let targets: Vec<&Path> = packed.iter().map(|one| one.target.as_path()).collect();
    let views = mount::views(&targets)?;
    let (mut used, mut size) = (0_u64, 0_u64);
    for (one, view) in packed.iter().zip(&views) {
        let [has, holds] = bytes(view).with_context(|| mounts::shown(one))?;
        (size, used) = (size.saturating_add(has), used.saturating_add(holds));
        log.note(format!("{}: {} MiB", mounts::shown(one), holds.div_ceil(MIB)));
    }
    if !left.is_empty() {
        let left: Vec<String> = left.iter().map(|one| mounts::shown(one)).collect();
        log.note(format!("not packed: {}", left.join(", ")));
    }
    let trees = packed.iter().zip(views);
    let trees = trees.map(|(one, view)| (beneath_root(&one.target), Tree::of(view))).collect();
    let swaps = std::fs::read_to_string(SWAPS).with_context(|| format!("reading {SWAPS}"))?;
    let stream = Stream::live(trees, Live { swap_files: mounts::swap_files(&swaps) });
    let blocks = used.div_ceil(BLOCK_BYTES as u64);
    let partition = SurveyPartition {
        name: ARCHIVE_NAME.to_owned(),
        filesystem: ARCHIVE.to_owned(),
        block_bytes: BLOCK_BYTES as u32,
        total_blocks: blocks,
        used_blocks: blocks,
        device_bytes: size,
    };
    let survey = Survey {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        partitions: vec![partition],
        ..Survey::default()
    };
    Ok(Surveyed { stream, survey })
}

/// Size of a filesystem, and what is used of it.
fn bytes(view: &OwnedFd) -> anyhow::Result<[u64; 2]> {
    let found = fstatvfs(view).context("asking for its size")?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
    Ok([bytes(found.blocks()), bytes(found.blocks().saturating_sub(found.blocks_free()))])
}

/// Step `capture`: packs it and sends that. What changed meanwhile is told.
pub(super) fn send(
    surveyed: Surveyed,
    uploader: &dyn Uploader,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let Surveyed { stream, survey } = surveyed;
    let (mut wire, mut prints) = (0, Vec::new());
    let once = |error: anyhow::Error| match error.downcast_ref::<Fault>() {
        Some(_) => error.context(AGAIN),
        None => error,
    };
    let mut sending = match uploader.begin(&survey).map_err(once)? {
        Begun::From(from, sending) if from == UploadPosition::default() => sending,
        Begun::From(..) | Begun::Saved(_) => bail!("a part of it came before: {AGAIN}"),
    };
    let mut attempt = Attempt { stream, prints: &mut prints, wire: &mut wire, log };
    let from = UploadPosition::default();
    let said = attempt.send(from, survey.used_bytes(), &mut *sending).map_err(once)?;
    let unsteady = attempt.stream.unsteady().to_string();
    if !unsteady.is_empty() {
        tracing::warn!("{unsteady}");
        log.note(unsteady);
    }
    sending.finish().map_err(once)?;
    log.note(format!("{said}, {wire} sent"));
    note_memory(log);
    Ok(())
}
