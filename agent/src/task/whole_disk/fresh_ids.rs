//! Step `fresh-ids`: every filesystem gets an id of its own, and what names the old ones follows, so that the
//! disk can be beside another one of the same image. The ids of table and swap are in the plan already.
//!
//! What is in the image is looked at before anything is written: names that lie where nobody here can read
//! them would lead to the wrong disk, or nowhere.

use super::{
    DiskImage, DiskTarget,
    names::{self, Names},
};
use crate::{
    disk::{Access, Mounted, uuid_of},
    task::{
        DiskSource, StepLog, driver, first_blocks, fix_up,
        plan::Family,
        spread::{Part, window},
        tools,
    },
};
use anyhow::{Context, bail, ensure};
use metalcast_formats::{
    fat::{self, Labelled},
    probe::{self, Contents, Kind},
    whole_disk::{Extent, Role},
};
use metalcast_shared::fresh_ids::{Renamed, renamed};
use std::{io::Cursor, path::Path};
use uuid::Uuid;

/// The kernel's name of the driver of FAT.
const FAT_DRIVER: &str = "vfat";

/// Where in a btrfs files may be that name ids: its default subvolume, and from the top level on those
/// that distributions have.
const BTRFS_PLACES: [(Option<&str>, &[&str]); 2] =
    [(None, &[""]), (Some("subvolid=5"), &["", "@/", "@rootfs/", "root/", "@boot/", "boot/"])];

/// What gets which id.
pub(super) struct Renewal {
    filesystems: Vec<Filesystem>,
    names: Names,
}

/// A filesystem that gets another id.
struct Filesystem {
    number: u16,
    role: Role,
    kind: FsKind,
    id: Renamed,
}

#[derive(Clone, Copy)]
enum FsKind {
    Linux(Family, Uuid),
    Fat { serial: u32 },
}

impl Renewal {
    /// `None` if the ids are those of the image.
    pub(super) fn of(
        image: &DiskImage<'_>,
        target: &DiskTarget<'_>,
        source: &dyn DiskSource,
        log: &StepLog<'_>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(seed) = image.order.fresh_ids else { return Ok(None) };
        let mut heads = Vec::new();
        let everything = |_: &Part<'_>| true;
        target.spread.restore(source, everything, log, |restores, _, log| {
            for restore in restores {
                heads.push(first_blocks::head(restore, log)?);
            }
            Ok(())
        })?;
        let mut filesystems = Vec::new();
        for (head, part) in heads.into_iter().zip(&target.spread.parts) {
            let Extent { number, role, .. } = part.extent;
            let bytes = head.len() as u64;
            let contents = probe::probe(&mut Cursor::new(head), 0, bytes)?;
            check(number, &contents)?;
            let fat = contents.find(Kind::Vfat).map(|_| seed.serial(number));
            let (kind, new) = match (Family::in_slot(&contents), fat) {
                (Some(family), _) => {
                    driver::require(family.driver())?;
                    let uuid = seed.filesystem(number);
                    (FsKind::Linux(family, uuid), uuid.to_string())
                }
                (None, Some(serial)) => {
                    driver::require(FAT_DRIVER)?;
                    (FsKind::Fat { serial }, fat::serial_text(serial))
                }
                (None, None) => {
                    let name = &part.partition.name;
                    log.note(format!("{name} holds {contents}: an id in it stays the image's"));
                    continue;
                }
            };
            let old =
                uuid_of(&contents).with_context(|| format!("partition {number} has no id"))?;
            filesystems.push(Filesystem { number, role, kind, id: Renamed { old, new } });
        }
        let mut all = renamed(&image.order.whole, &image.whole);
        all.extend(filesystems.iter().map(|filesystem| filesystem.id.clone()));
        let swap = image.whole.swaps.first().and_then(|swap| swap.uuid);
        let names = Names { renamed: all, resume: swap.map(|uuid| format!("resume=UUID={uuid}")) };
        Ok(Some(Self { filesystems, names }))
    }

    /// All but the EFI system partition, which is not there yet.
    pub(super) fn run(&self, target: &DiskTarget<'_>, log: &StepLog<'_>) -> anyhow::Result<()> {
        self.renew(target, |role| role != Role::Esp, log)
    }

    /// The EFI system partition, when it is there.
    pub(super) fn run_on_esp(
        &self,
        target: &DiskTarget<'_>,
        log: &StepLog<'_>,
    ) -> anyhow::Result<()> {
        self.renew(target, |role| role == Role::Esp, log)
    }

    fn renew(
        &self,
        target: &DiskTarget<'_>,
        which: impl Fn(Role) -> bool,
        log: &StepLog<'_>,
    ) -> anyhow::Result<()> {
        for filesystem in self.filesystems.iter().filter(|filesystem| which(filesystem.role)) {
            log.check_cancel()?;
            let number = filesystem.number;
            filesystem
                .restamp(target, log)
                .with_context(|| format!("giving the filesystem of partition {number} its id"))?;
            let told = filesystem
                .follow(&self.names, target, log)
                .with_context(|| format!("renaming in the files of partition {number}"))?;
            for change in told {
                log.note(format!("partition {number}: {change}"));
            }
        }
        target.spread.disk.open(log)?.drop_caches()
    }
}

impl Filesystem {
    fn restamp(&self, target: &DiskTarget<'_>, log: &StepLog<'_>) -> anyhow::Result<()> {
        let Self { number, id: Renamed { old, new }, .. } = self;
        let extent = target.extent(*number)?;
        match self.kind {
            FsKind::Linux(family, uuid) => {
                let node = target.spread.disk.node(*number, log)?;
                if family == Family::Btrfs {
                    forget(&node, log);
                }
                fix_up::restamp(family, &node, Some(uuid), log)?;
            }
            FsKind::Fat { serial } => restamp_fat(target, extent, serial, log)?,
        }
        let device = target.spread.disk.open(log)?;
        // A tool wrote past this.
        device.drop_caches()?;
        let found = window(&device, extent)?.look()?;
        ensure!(uuid_of(&found).as_ref() == Some(new), "it holds {found} and should be {new}");
        log.note(format!("partition {number}: {old} is {new} now"));
        Ok(())
    }

    fn follow(
        &self,
        names: &Names,
        target: &DiskTarget<'_>,
        log: &StepLog<'_>,
    ) -> anyhow::Result<Vec<String>> {
        let (driver, places): (_, &[(Option<&str>, &[&str])]) = match self.kind {
            FsKind::Linux(Family::Btrfs, _) => (Family::Btrfs.driver(), &BTRFS_PLACES),
            FsKind::Linux(family, _) => (family.driver(), &[(None, &[""])]),
            FsKind::Fat { .. } => (FAT_DRIVER, &[(None, &[""])]),
        };
        let mut told = Vec::new();
        for (options, dirs) in places {
            let node = target.spread.disk.node(self.number, log)?;
            let run_dir = &log.machine().run_dir;
            let mounted = Mounted::open(&node, driver, *options, Access::Write, run_dir)?;
            let followed = mounted.root().and_then(|root| {
                dirs.iter().try_for_each(|dir| {
                    told.extend(names::follow(&root, dir, names)?);
                    anyhow::Ok(())
                })
            });
            // Also after a failure: what was changed is written, and nothing stays mounted.
            let closed = mounted.close();
            followed?;
            closed?;
        }
        Ok(told)
    }
}

/// Linux before 6.3 remembers what a mount found, and after an earlier attempt would refuse this one as
/// stale. That there is nothing to forget is told as a failure.
fn forget(node: &Path, log: &StepLog<'_>) {
    if let Err(error) = tools::run("btrfs", &["device", "scan", "--forget"], node, log) {
        tracing::debug!("{error:#}");
    }
}

/// The copy first, so that there is always one that is whole.
fn restamp_fat(
    target: &DiskTarget<'_>,
    extent: &Extent,
    serial: u32,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let device = target.spread.disk.open(log)?;
    let place = window(&device, extent)?;
    let read = |at: u64| {
        let mut sector = [0; fat::SECTOR_BYTES];
        place.read_at(&mut sector, at).map(|()| Labelled::of(&sector))
    };
    let first = read(0)?.context("there is no boot sector of a FAT")?;
    if let Some(at) = first.copy_at
        && let Some(copy) = read(at)?
    {
        place.write_at(&copy.with_serial(serial).sector, at)?;
        device.flush()?;
    }
    place.write_at(&first.with_serial(serial).sector, 0)?;
    device.flush()?;
    device.drop_caches()
}

/// Windows names its disk by ids in a file that is none of text, and what lies inside of another layer
/// cannot be looked at: such a disk would not start, or would start from the other copy's.
fn check(number: u16, contents: &Contents) -> anyhow::Result<()> {
    let opaque = [Kind::Luks, Kind::Lvm2, Kind::MdRaid, Kind::Zfs];
    if contents.find(Kind::Ntfs).is_some() || contents.find(Kind::BitLocker).is_some() {
        bail!(
            "partition {number} holds {contents}: Windows names disk and partitions by their ids in its \
             boot configuration, which does not follow; leave out --fresh-ids"
        );
    }
    if opaque.iter().any(|kind| contents.find(*kind).is_some()) {
        bail!(
            "partition {number} holds {contents}: what in it names ids of the disk cannot follow; leave \
             out --fresh-ids"
        );
    }
    Ok(())
}
