//! What a controller says to an agent.

use crate::{
    boot::ReportConfig,
    disk::DiskSelector,
    event::Step,
    fix_up::Adaptation,
    fresh::Fresh,
    fresh_ids::Seed,
    hash::Hash,
    id::{Mac, NodeId, Revision, TaskId},
    layout::Layout,
    manifest::SignedManifest,
    whole_disk::{TableId, WholeDisk},
};
use serde::{Deserialize, Serialize};

mod partitions;

pub use partitions::{DeployPartitions, NotPlaced, Placed};

/// Answer on an enrolment stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrolReply {
    /// Here is a certificate for the key in the request.
    Granted {
        /// Who the controller takes this machine for.
        node: NodeId,
        /// The certificate, DER.
        certificate: Vec<u8>,
        /// Ed25519 public key that manifests are signed with, 32 bytes.
        manifest_key: Vec<u8>,
    },
    /// No certificate; asking again with the same token is useless.
    Refused {
        /// Why, for the console.
        reason: String,
    },
}

/// A message on the session stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Answer to the session's hello, and again whenever the standing changes.
    Welcome {
        /// The node's name.
        name: String,
        /// What the node may expect.
        standing: Standing,
    },
    /// Carry out this task. Sent again after a reconnect; an agent that has it goes on.
    Task(Box<Task>),
    /// Events up to this number are kept.
    Ack {
        /// Of which task.
        task: TaskId,
        /// The last number kept.
        number: u32,
    },
    /// Stop the task at the next safe point.
    Cancel {
        /// Which.
        task: TaskId,
        /// Why.
        reason: String,
    },
    /// Flush and restart the machine.
    Reboot {
        /// Why, for the console.
        reason: String,
    },
}

/// What a node may expect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Not approved: nothing will be written.
    AwaitingApproval {
        /// What the operator has to do.
        reason: String,
    },
    /// Approved; tasks may follow.
    Approved,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its identity.
    pub id: TaskId,
    /// What is to be done.
    pub work: Work,
}

/// Kinds of work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Put an image into a slot.
    Deploy(Box<Deploy>),
    /// Make another slot the one that starts.
    SelectSlot(SelectSlot),
    /// Save what is on a disk.
    Capture(Box<Capture>),
    /// Make a whole disk that of an image.
    DeployDisk(Box<DeployDisk>),
    /// Compare what is in a slot or on a disk with what was put there.
    Compare(Box<Compare>),
    /// Put partitions of an image into partitions of a disk.
    DeployPartitions(Box<DeployPartitions>),
    /// Send the files of the system that runs, as a tar archive, into the store. Only for a session that
    /// was opened with [`crate::to_controller::Open::Golden`], and never sent twice: see [`crate::upload`].
    Golden,
}

/// Put one partition of an image into a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    /// The revision.
    pub image: Revision,
    /// Its signed root.
    pub manifest: SignedManifest,
    /// Which of its partitions.
    pub partition: String,
    /// The disk.
    pub disk: DiskSelector,
    /// The scheme that the disk must have or get.
    pub layout: Layout,
    /// The slot.
    pub slot: u16,
    /// What may be lost.
    pub overwrite: Overwrite,
    /// Whether the filesystem takes all of the slot.
    pub grow: bool,
    /// How the system is adapted.
    pub fix_up: FixUp,
    /// The filesystem that is made for it, where the image is a tar archive.
    pub fresh: Option<Fresh>,
}

/// Make a whole disk that of an image: table, boot code and all partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployDisk {
    /// The revision.
    pub image: Revision,
    /// Its signed root.
    pub manifest: SignedManifest,
    /// Which of its partitions goes where.
    pub partitions: Vec<Placed>,
    /// The disk.
    pub disk: DiskSelector,
    /// What the disk becomes.
    pub whole: WholeDisk,
    /// What may be lost: [`Overwrite::WholeDisk`], or only what is not there or `own`.
    pub overwrite: Overwrite,
    /// A disk with this table is one that Metalcast deployed as a whole, and may be replaced.
    pub own: Option<TableId>,
    /// Number of the partition that takes what the disk has beyond the image's, and its filesystem with
    /// it.
    pub grow: Option<u16>,
    /// How the Linux systems on it are adapted, if there are any.
    pub fix_up: FixUp,
    /// What its ids follow from, if they are not to be the image's as in `whole`.
    pub fresh_ids: Option<Seed>,
}

/// What a deploy may destroy: each permission includes those before it. An agent never goes beyond
/// what the operator was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Overwrite {
    /// Nothing: a blank disk, or the layout with a slot that is blank.
    BlankOnly,
    /// The slot's present system, which Metalcast deployed.
    OwnSlot,
    /// Whatever is in the slot: the operator said so.
    AnySlot,
    /// Whatever is on the disk, its partition table included: the operator said so.
    WholeDisk,
}

/// How a deployed system is adapted to its node and slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixUp {
    /// The host name it gets.
    pub hostname: String,
    /// How it reports in at its first start; `None` leaves that out.
    pub report: Option<ReportConfig>,
    /// What the operator has a say in.
    pub adaptation: Adaptation,
}

/// Make a slot of a disk the one that starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectSlot {
    /// The disk.
    pub disk: DiskSelector,
    /// The scheme that it must have.
    pub layout: Layout,
    /// The slot.
    pub slot: u16,
}

/// Save what is on a disk, which is only read, into the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// The disk.
    pub disk: DiskSelector,
    /// What of it.
    pub source: CaptureSource,
    /// What the slot, or the disk, is called in the image: `sda5` or `sda`.
    pub name: String,
    /// Save what is in use, or was not unmounted properly: every block of it.
    pub force: bool,
    /// Save every block as it is, whatever is in it.
    pub raw: bool,
    /// Save the files of a slot as a tar archive.
    pub tar: bool,
}

/// Compare what is in a slot or on a disk, which is only read, with what a deploy put there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The revision that was put there.
    pub image: Revision,
    /// Its signed root.
    pub manifest: SignedManifest,
    /// The disk.
    pub disk: DiskSelector,
    /// What of it.
    pub source: CompareSource,
    /// The encoded [`crate::as_left::AsLeft`], if it is known what the deploy left.
    pub as_left: Option<Packed>,
}

/// What of a disk is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CompareSource {
    /// A slot.
    Slot {
        /// The scheme that the disk must have.
        layout: Layout,
        /// The slot.
        slot: u16,
        /// The image's partition that was put there.
        partition: String,
    },
    /// All of it that the deploy made: tables, boot code and the content of partitions.
    Disk,
}

/// Something that the controller gives out, by its length and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Its length in bytes.
    pub bytes: u32,
    /// Its hash.
    pub hash: Hash,
}

/// What of a disk is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureSource {
    /// A slot of it.
    Slot {
        /// The scheme that the disk must have.
        layout: Layout,
        /// The slot.
        slot: u16,
    },
    /// All of it, its partition table included.
    Disk,
    /// Partitions of it, by their numbers.
    Partitions(Vec<u16>),
}

/// Answer to a request for a page: the encoded page, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageReply {
    /// The encoded page; the agent holds it against the hash in the root.
    Page(Vec<u8>),
    /// It cannot be had.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// Precedes each frame on a chunk stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkHeader {
    /// This many bytes of frame follow.
    Frame {
        /// The chunk's [`crate::manifest::Chunk::index`].
        index: u32,
        /// Length of the frame.
        bytes: u32,
        /// Its hash, as the controller's manifest has it.
        hash: Hash,
    },
    /// The controller cannot send it.
    Unavailable {
        /// Which.
        index: u32,
        /// Why.
        reason: String,
    },
}

/// Answer to a request for a bundle of tools, or a small file beside an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BundleReply {
    /// This many bytes of its file follow.
    File {
        /// Length of the file.
        bytes: u32,
    },
    /// The controller cannot send it.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// Answer to what a deploy left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordReply {
    /// It is kept.
    Kept,
    /// It is not.
    Refused {
        /// Why.
        reason: String,
    },
}

/// All steps of [`Work::Deploy`].
const DEPLOY: &[Step] = &[
    Step::CheckDisk,
    Step::Partition,
    Step::Format,
    Step::Clear,
    Step::Transfer,
    Step::Verify,
    Step::FirstBlocks,
    Step::Grow,
    Step::FixUp,
    Step::BootCode,
    Step::Record,
    Step::Activate,
];

/// All steps of [`Work::DeployDisk`].
const DEPLOY_DISK: &[Step] = &[
    Step::CheckDisk,
    Step::Partition,
    Step::Format,
    Step::Transfer,
    Step::Verify,
    Step::FirstBlocks,
    Step::FreshIds,
    Step::Grow,
    Step::FixUp,
    Step::BootCode,
    Step::Record,
];

/// All steps of [`Work::DeployPartitions`].
const DEPLOY_PARTITIONS: &[Step] = &[
    Step::CheckDisk,
    Step::Clear,
    Step::Format,
    Step::Transfer,
    Step::Verify,
    Step::FirstBlocks,
    Step::Grow,
    Step::FixUp,
    Step::BootCode,
];

impl Work {
    /// The steps that the work takes, in order.
    pub fn steps(&self) -> Vec<Step> {
        let all = match self {
            Self::Deploy(_) => DEPLOY,
            Self::SelectSlot(_) => &[Step::CheckDisk, Step::Activate],
            Self::Compare(_) => &[Step::CheckDisk, Step::Survey, Step::Compare],
            Self::Capture(_) => &[Step::CheckDisk, Step::Survey, Step::Capture],
            Self::DeployDisk(_) => DEPLOY_DISK,
            Self::DeployPartitions(_) => DEPLOY_PARTITIONS,
            Self::Golden => &[Step::Survey, Step::Capture],
        };
        all.iter().copied().filter(|step| self.takes(*step)).collect()
    }

    /// Whether a step of this kind of work is one of this work.
    fn takes(&self, step: Step) -> bool {
        match (step, self) {
            (Step::Grow, Self::Deploy(deploy)) => deploy.grow,
            (Step::Grow, Self::DeployDisk(deploy)) => deploy.grow.is_some(),
            (Step::Grow, Self::DeployPartitions(deploy)) => !deploy.grow.is_empty(),
            (Step::Format, Self::DeployPartitions(deploy)) => !deploy.swaps.is_empty(),
            (Step::FreshIds, Self::DeployDisk(deploy)) => deploy.fresh_ids.is_some(),
            _ => true,
        }
    }
}

impl CaptureSource {
    /// What is saved of that disk, for people.
    pub fn of(&self, disk: &DiskSelector) -> String {
        match self {
            Self::Slot { slot, layout } => {
                format!("slot {slot} (layout {}), disk {disk}", layout.name)
            }
            Self::Disk => format!("disk {disk}"),
            Self::Partitions(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                format!("partitions {} of disk {disk}", numbers.join(","))
            }
        }
    }
}

/// The text on the console of a node that waits for its operator.
pub fn awaiting_approval(name: &str, mac: Mac) -> String {
    format!("{name} ({mac}) is new: approve it with `metalcast node approve {name}`")
}
