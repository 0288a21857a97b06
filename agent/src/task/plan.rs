//! What a task is about, checked: the image that it may trust, and the place that it may write to.

use super::{ChunkSource, StepLog, first_blocks::Withheld, restore::Restore, tools};
use crate::disk::{Access, BootPartition, Device, SlotRecord, Window, while_busy};
use anyhow::{Context, bail, ensure};
use metalcast_formats::{
    layout::{DiskPlan, PlannedPartition, Role, SECTOR_BYTES},
    probe::{Contents, Kind},
};
use metalcast_shared::{
    disk::DiskSelector,
    fresh::FreshKind,
    id::Revision,
    layout::Layout,
    manifest::{Manifest, Partition, SignedManifest},
    to_agent::{Deploy, FixUp},
};
use metalcast_sys::block::Partition as KernelPartition;
use ring::signature::{ED25519, UnparsedPublicKey};
use std::{path::PathBuf, time::Duration};

/// What the kernel shows of an extended partition, as its own parser does; it would overlap the
/// logical ones otherwise.
pub(super) const EXTENDED_BYTES: u64 = 2 * SECTOR_BYTES;

/// How long the node of a partition may take to appear.
const NODE_WAIT: Duration = Duration::from_secs(10);

/// Filesystems of which systems can be started from a slot and adapted to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Ext,
    Btrfs,
    Xfs,
}

impl Family {
    const ALL: [Self; 3] = [Self::Ext, Self::Btrfs, Self::Xfs];

    /// By partclone's name for it.
    pub(super) fn of(filesystem: &str) -> Option<Self> {
        match filesystem {
            "ext2" | "ext3" | "ext4" | "extfs" => Some(Self::Ext),
            "btrfs" => Some(Self::Btrfs),
            "xfs" => Some(Self::Xfs),
            _ => None,
        }
    }

    /// The kernel's name of the driver.
    pub(super) fn driver(self) -> &'static str {
        match self {
            Self::Ext => "ext4",
            Self::Btrfs => "btrfs",
            Self::Xfs => "xfs",
        }
    }

    /// Options of a mount that changes nothing, not even by replaying a log.
    pub(super) fn only_look(self) -> &'static str {
        match self {
            Self::Ext => "noload",
            Self::Btrfs => "rescue=nologreplay",
            Self::Xfs => "norecovery",
        }
    }

    /// Of what is found in a slot.
    pub(super) fn in_slot(found: &Contents) -> Option<Self> {
        let is_there =
            |family: &Self| family.kinds().iter().any(|kind| found.find(*kind).is_some());
        Self::ALL.into_iter().find(is_there)
    }

    /// The latest of its kinds. All of a family treat their first sector alike.
    pub(super) fn kind(self) -> Kind {
        self.kinds()[0]
    }

    /// What can be left out of its first sector.
    pub(super) fn boot_code(self) -> Withheld {
        match self.kind().leaves_sector_0_free() {
            true => Withheld::Code,
            false => Withheld::Nothing,
        }
    }

    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Ext => &[Kind::Ext4, Kind::Ext3, Kind::Ext2],
            Self::Btrfs => &[Kind::Btrfs],
            Self::Xfs => &[Kind::Xfs],
        }
    }
}

/// A slot by the identity of its disk, which has the layout or is to get it.
#[derive(Clone, Copy, Debug)]
pub struct SlotAddress<'o> {
    /// The disk.
    pub disk: &'o DiskSelector,
    /// The scheme.
    pub layout: &'o Layout,
    /// Number of the slot.
    pub slot: u16,
}

/// The system in a slot, and what it is to be adapted to.
#[derive(Clone, Copy, Debug)]
pub(super) struct System<'d> {
    pub(super) family: Family,
    pub(super) fix_up: &'d FixUp,
    /// Its filesystem, if that was made for it and is none that the system knows.
    pub(super) fresh: Option<FreshKind>,
}

/// A deploy whose manifest is the controller's.
#[derive(Debug)]
pub(super) struct Image<'d> {
    pub(super) deploy: &'d Deploy,
    pub(super) family: Family,
    manifest: Manifest,
    partition: usize,
}

impl<'d> Image<'d> {
    /// Checks signature, revision and partition.
    pub(super) fn of(deploy: &'d Deploy, manifest_key: &[u8]) -> anyhow::Result<Self> {
        let manifest = manifest_of(&deploy.image, &deploy.manifest, manifest_key)?;
        let partition = manifest
            .partitions
            .iter()
            .position(|partition| partition.name == deploy.partition)
            .with_context(|| format!("{} has no partition {}", deploy.image, deploy.partition))?;
        let filesystem = &manifest.partitions[partition].filesystem;
        let is_archive = manifest.partitions[partition].is_archive();
        ensure!(
            is_archive == deploy.fresh.is_some(),
            "a tar archive, and nothing else, goes into a new filesystem"
        );
        let family = match &deploy.fresh {
            Some(fresh) => Some(Family::of_fresh(fresh.kind)),
            None => Family::of(filesystem),
        };
        let Some(family) = family else {
            bail!(
                "{} of {} is {filesystem}; systems on ext2/3/4, btrfs and xfs can be deployed",
                deploy.partition,
                deploy.image
            );
        };
        Ok(Self { deploy, family, manifest, partition })
    }

    /// What is noted on the disk of what is in the slot.
    pub(super) fn record(&self) -> SlotRecord {
        let Deploy { image, partition, .. } = self.deploy;
        SlotRecord { image: image.to_string(), partition: partition.clone() }
    }

    pub(super) fn system(&self) -> System<'d> {
        let fresh = self.deploy.fresh.as_ref().map(|fresh| fresh.kind);
        System { family: self.family, fix_up: &self.deploy.fix_up, fresh }
    }

    pub(super) fn partition(&self) -> &Partition {
        &self.manifest.partitions[self.partition]
    }

    /// Its way into the slot.
    pub(super) fn restores<'r>(
        &'r self,
        target: &Target,
        device: &'r Device<'_>,
        source: &'r dyn ChunkSource,
    ) -> anyhow::Result<[Restore<'r>; 1]> {
        Ok([Restore {
            partition: self.partition(),
            source,
            place: target.slot(device)?,
            name: format!("slot {}", target.slot.number),
            withheld: self.family.boot_code(),
        }])
    }
}

/// The manifest of a revision, whose signature must be the controller's.
pub(super) fn manifest_of(
    image: &Revision,
    signed: &SignedManifest,
    manifest_key: &[u8],
) -> anyhow::Result<Manifest> {
    UnparsedPublicKey::new(&ED25519, manifest_key)
        .verify(&signed.root, &signed.signature)
        .map_err(|_| anyhow::anyhow!("the manifest of {image} is not signed by this controller"))?;
    let manifest = Manifest::decode(&signed.root)
        .with_context(|| format!("reading the manifest of {image}"))?;
    let found = &manifest.revision;
    ensure!(found == image, "the manifest is of {found}, not of {image}");
    Ok(manifest)
}

/// How the disk's partition table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableState {
    /// It is the layout's, with this disk signature.
    AsPlanned(u32),
    /// It has to be written.
    ToBeWritten,
}

/// How the boot partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BootState {
    /// It has our filesystem.
    Ours,
    /// It has to be formatted.
    ToBeFormatted,
}

/// The disk that a task names, and where it was when the task looked.
#[derive(Debug)]
pub(super) struct NamedDisk {
    pub(super) path: PathBuf,
    pub(super) selector: DiskSelector,
}

impl NamedDisk {
    /// The device node of a partition, once it is sure whose it is.
    pub(super) fn node(&self, number: u16, log: &StepLog<'_>) -> anyhow::Result<PathBuf> {
        self.identify(log)?;
        Ok(metalcast_sys::block::partition_path(&self.path, u32::from(number)))
    }

    /// The disk. What is open stays the disk that it is, so it is identified after that.
    pub(super) fn open<'c>(&self, log: &StepLog<'c>) -> anyhow::Result<Device<'c>> {
        let device = log.machine().open(&self.path)?;
        self.identify(log)?;
        Ok(device)
    }

    /// Names under `/dev` change hands when a bus is reset or a disk is swapped, and hours may lie
    /// between two steps: fails unless ours is still the disk that the task names.
    fn identify(&self, log: &StepLog<'_>) -> anyhow::Result<()> {
        let disks = (log.machine().disks)().context("looking at the disks again")?;
        let disk = self.selector.select(&disks)?;
        let path = log.machine().dev.join(&disk.name);
        ensure!(
            path == self.path,
            "the disk with {} was {} and is {} now; start the job again",
            self.selector,
            self.path.display(),
            path.display()
        );
        Ok(())
    }
}

/// The place that a task may write to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) disk: NamedDisk,
    pub(super) plan: DiskPlan,
    pub(super) slot: PlannedPartition,
    pub(super) table: TableState,
    pub(super) boot: BootState,
    pub(super) make_swap: bool,
}

impl Target {
    /// The device node of a partition, once it is sure whose it is.
    pub(super) fn node(&self, number: u16, log: &StepLog<'_>) -> anyhow::Result<PathBuf> {
        self.disk.node(number, log)
    }

    /// The disk.
    pub(super) fn open<'c>(&self, log: &StepLog<'c>) -> anyhow::Result<Device<'c>> {
        self.disk.open(log)
    }

    /// A boot partition that cannot be mounted is repaired: all that is in it can be written again.
    pub(super) fn open_boot(
        &self,
        access: Access,
        log: &StepLog<'_>,
    ) -> anyhow::Result<BootPartition> {
        let node = self.node(self.plan.boot().number, log)?;
        let run_dir = &log.machine().run_dir;
        BootPartition::open(&node, access, run_dir).or_else(|error| {
            log.note(format!("the boot partition is damaged and is repaired: {error:#}"));
            // It refuses what is mounted.
            tools::repair_ext(&node, log)?;
            BootPartition::open(&node, access, run_dir)
        })
    }

    /// The slot and nothing else.
    pub(super) fn slot<'d>(&self, device: &'d Device<'_>) -> anyhow::Result<Window<'d>> {
        window(device, &self.slot)
    }
}

/// The partitions of the plan as the kernel gets to know them.
pub(super) fn announce_plan(device: &Device<'_>, plan: &DiskPlan) -> anyhow::Result<()> {
    let partitions: Vec<KernelPartition> = plan
        .partitions
        .iter()
        .map(|partition| KernelPartition {
            number: u32::from(partition.number),
            start_bytes: partition.start_lba * SECTOR_BYTES,
            length_bytes: match partition.role {
                Role::Extended => EXTENDED_BYTES,
                Role::Boot | Role::Swap | Role::Reserve | Role::Slot => {
                    partition.sectors * SECTOR_BYTES
                }
            },
        })
        .collect();
    announce(device, &partitions)
}

/// Has the kernel know partitions, so that they have device nodes, and waits for those nodes. The
/// kernel's own parser, where it has one, does the same.
pub(super) fn announce(device: &Device<'_>, partitions: &[KernelPartition]) -> anyhow::Result<()> {
    let block = device.block().context("a file has no partitions")?;
    while_busy(|| block.set_partitions(partitions))?;
    for partition in partitions {
        block.wait_for_partition(partition.number, NODE_WAIT)?;
    }
    Ok(())
}

/// The part of the disk that a partition covers.
pub(super) fn window<'d>(
    device: &'d Device<'_>,
    partition: &PlannedPartition,
) -> anyhow::Result<Window<'d>> {
    device.window(partition.start_lba * SECTOR_BYTES, partition.sectors * SECTOR_BYTES)
}
