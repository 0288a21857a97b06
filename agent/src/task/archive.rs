//! A tar archive in a slot: a fresh filesystem, and the archive's members in it.
//!
//! ```text
//! transfer   mkfs, mount; frames in any order: files, links, devices; what has to wait into the spool
//!            then hard links, then owner and times of directories and of files that came in parts
//! verify     another mount: every file is read back and held against what was sent; the spool goes
//! ```
//!
//! A filesystem that is begun is not gone on with: a task that is taken again makes it anew. Boot code is
//! written only behind all this, so that what is half made cannot be started.

mod make;
mod names;
mod spool;
mod unpack;
mod verify;

pub(super) use verify::run as verify;

use super::{
    ChunkSource, StepLog,
    plan::{Family, Target},
    pump::{Arrived, Pump},
    restore,
};
use crate::disk::{Access, MIB, Mounted, Root, Tree, look_at, uuid_of};
use anyhow::{Context, bail};
use metalcast_formats::{
    layout::SECTOR_BYTES,
    mbr,
    tar::{Context as FrameContext, Index, context_of},
};
use metalcast_shared::{
    fresh::{Fresh, FreshKind},
    manifest::{Chunk, Partition},
    transfer::PageTransfer,
};
use spool::Spool;
use std::sync::{Mutex, PoisonError};
use unpack::Unpacker;

/// Bytes written between flushes: bounds the dirty memory, and makes progress mean something.
const FLUSH_BYTES: u64 = 64 * MIB;

/// Where the menu is that a system without one gets.
const MENU: &str = "boot/grub/grub.cfg";

/// An archive, and what it goes into.
pub(super) struct Archive<'a> {
    pub(super) partition: &'a Partition,
    pub(super) source: &'a dyn ChunkSource,
    pub(super) fresh: &'a Fresh,
    index: Index,
}

/// What the archive's own filesystem is called by a menu.
struct Ids {
    uuid: String,
    partuuid: String,
}

impl Family {
    /// Of a filesystem that is made.
    pub(super) fn of_fresh(kind: FreshKind) -> Self {
        match kind {
            FreshKind::Ext4 | FreshKind::Ext3 | FreshKind::Ext2 => Self::Ext,
            FreshKind::Xfs => Self::Xfs,
            FreshKind::Btrfs => Self::Btrfs,
        }
    }
}

impl<'a> Archive<'a> {
    /// Reads what is known of the archive as a whole. Nothing is written yet: one without a kernel is
    /// refused here.
    pub(super) fn open(
        partition: &'a Partition,
        source: &'a dyn ChunkSource,
        fresh: &'a Fresh,
        log: &StepLog<'_>,
    ) -> anyhow::Result<Self> {
        let number = partition.pages.len().checked_sub(1).context("an archive without frames")?;
        let number = u32::try_from(number)?;
        let page = restore::page(partition, source, number)?;
        let mut transfer = PageTransfer::new(u16::try_from(page.chunks.len())?);
        for position in 1..u16::try_from(page.chunks.len())? {
            transfer.written(position - 1);
        }
        let found = Mutex::new(None);
        let keep = |_: &Chunk, frame: &[u8], _: &[u8]| {
            let context: FrameContext = context_of(frame)?;
            *found.lock().unwrap_or_else(PoisonError::into_inner) = context.index;
            Ok(())
        };
        Pump { partition, source, number, page: &page, log }.run(
            &mut transfer,
            &keep,
            &mut |_| Ok(()),
        )?;
        let index = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let index = index.context("the archive does not say what is in it")?;
        index.check_startable().context("the archive")?;
        Ok(Self { partition, source, fresh, index })
    }

    /// Makes the filesystem and puts all members into it.
    pub(super) fn transfer(&self, target: &Target, log: &StepLog<'_>) -> anyhow::Result<()> {
        let number = target.slot.number;
        let node = target.node(number, log)?;
        make::filesystem(self.fresh, &node, log)?;
        let uuid = uuid_of(&look_at(&node)?).context("the new filesystem has no UUID")?;
        log.note(format!("slot {number} has a new {}, UUID {uuid}", self.fresh.kind));
        let ids = Ids { uuid, partuuid: partuuid(target, log)? };
        let mounted = mount(self.fresh, target, Access::Write, log)?;
        let unpacked = self.unpack(&mounted, &ids, log);
        // Also after a failure: nothing stays mounted.
        let closed = mounted.close();
        unpacked?;
        closed?;
        target.open(log)?.drop_caches()
    }

    fn unpack(&self, mounted: &Mounted, ids: &Ids, log: &StepLog<'_>) -> anyhow::Result<()> {
        let tree = Tree::open(mounted.dir())?;
        let spool = Spool::create(mounted.dir())?;
        let unpacker = Unpacker::new(&tree, &spool, &self.index);
        let total = self.partition.used_bytes();
        let (mut done, mut wire, mut unflushed) = (0, 0, 0);
        for number in 0..u32::try_from(self.partition.pages.len())? {
            log.check_cancel()?;
            let page = restore::page(self.partition, self.source, number)?;
            let mut transfer = PageTransfer::new(u16::try_from(page.chunks.len())?);
            let take =
                |_: &Chunk, frame: &[u8], data: &[u8]| unpacker.frame(&context_of(frame)?, data);
            let (partition, source) = (self.partition, self.source);
            Pump { partition, source, number, page: &page, log }.run(
                &mut transfer,
                &take,
                &mut |Arrived { wire_bytes, data_bytes }| {
                    (done, wire) = (done + data_bytes, wire + wire_bytes);
                    unflushed += data_bytes;
                    if unflushed >= FLUSH_BYTES {
                        unflushed = 0;
                        mounted.sync()?;
                    }
                    log.progress(done, total, wire);
                    Ok(())
                },
            )?;
        }
        log.note(format!(
            "{done} bytes fetched ({wire} on the wire) of {} members",
            self.index.members
        ));
        let root = mounted.root()?;
        self.menu(&root, ids, log)?;
        let names = names::Names::of(&root);
        unpacker.finish(&names, log)
    }

    /// The system is started by its own menu; one that has none gets one.
    fn menu(&self, root: &Root, ids: &Ids, log: &StepLog<'_>) -> anyhow::Result<()> {
        if self.index.has_menu {
            return Ok(());
        }
        let Some(start) = self.index.newest() else { bail!("there is no kernel to start") };
        // Only an initial RAM disk knows UUIDs of filesystems.
        let device = match start.initrd {
            Some(_) => format!("UUID={}", ids.uuid),
            None => format!("PARTUUID={}", ids.partuuid),
        };
        root.create(MENU, start.menu(&device).as_bytes(), 0o644)?;
        let initrd = start.initrd.unwrap_or("no initial RAM disk");
        log.note(format!(
            "the archive has no menu: one was made for {} with {initrd}",
            start.kernel
        ));
        Ok(())
    }
}

fn mount(
    fresh: &Fresh,
    target: &Target,
    access: Access,
    log: &StepLog<'_>,
) -> anyhow::Result<Mounted> {
    let (family, number) = (Family::of_fresh(fresh.kind), target.slot.number);
    let node = target.node(number, log)?;
    Mounted::open(&node, family.driver(), None, access, &log.machine().run_dir)
        .with_context(|| format!("mounting slot {number}"))
}

fn partuuid(target: &Target, log: &StepLog<'_>) -> anyhow::Result<String> {
    let device = target.open(log)?;
    let table = mbr::read(&mut device.file(), device.bytes() / SECTOR_BYTES)?;
    Ok(table.partuuid(target.slot.number))
}
