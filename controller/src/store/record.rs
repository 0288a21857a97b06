//! What the store keeps, as the rest of the controller sees it.

use crate::jobs::{
    node::NodeState,
    task::{Finish, Life},
};
use metalcast_shared::{
    as_left::Comparison,
    disk::DiskSelector,
    event::TaskEvent,
    fix_up::Adaptation,
    fresh::Fresh,
    fresh_ids::Seed,
    hash::Hash,
    id::{BootId, ImageName, JobId, Mac, NodeId, Revision},
    inventory::{Fingerprint, Inventory},
    layout::Layout,
    table::FoundTable,
    to_agent::{CaptureSource, CompareSource, Overwrite, Packed, Placed},
    to_controller::LogLevel,
    whole_disk::{Swap, TableId},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a node does at its next start unless a task says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DefaultBoot {
    /// It netboots into the agent.
    RamImage,
    /// It starts from its disk.
    LocalDisk,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its identity.
    pub id: NodeId,
    /// Its name, which is unique.
    pub name: String,
    /// How it stands with us.
    pub state: NodeState,
    /// By what it is known again.
    pub fingerprint: Fingerprint,
    /// What a machine showed that claims to be this node, until an operator has looked.
    pub candidate: Option<Fingerprint>,
    /// Hash of the public key of its latest enrolment: a certificate for another key is void.
    pub key: Hash,
    /// What it is made of, once it registered.
    pub inventory: Option<Inventory>,
    /// Layout that was chosen for it.
    pub layout: Option<String>,
    /// What it does at its next start unless a task says otherwise.
    pub default_boot: DefaultBoot,
    /// The address it last netbooted with.
    pub boot_mac: Mac,
    /// When it first enrolled, milliseconds since 1970-01-01 UTC as all times here.
    pub enrolled: i64,
    /// When it last sent its inventory.
    pub registered: Option<i64>,
    /// When it was last heard of; written with other changes only.
    pub last_seen: i64,
}

/// A boot script that led into the RAM image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootRecord {
    /// The netboot.
    pub boot: BootId,
    /// Who asked.
    pub mac: Mac,
    /// Which node was expected to do so.
    pub node: Option<NodeId>,
    /// When.
    pub at: i64,
}

/// A used enrolment token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentRecord {
    /// The netboot it was made for.
    pub boot: BootId,
    /// Hash of the public key that came with it.
    pub key: Hash,
    /// Who was recognised.
    pub node: NodeId,
    /// When.
    pub at: i64,
}

/// What a job is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum JobSpec {
    /// Put an image into a slot of nodes.
    Deploy {
        /// The image.
        image: Revision,
        /// Its partition.
        partition: String,
        /// The slot.
        slot: u16,
        /// When a task is done.
        finish: Finish,
    },
    /// Start a slot of nodes.
    Boot {
        /// The slot.
        slot: u16,
    },
    /// Save what is on the disk of a node.
    Capture {
        /// It becomes the next revision of this image.
        image: ImageName,
        /// The disk.
        disk: DiskSelector,
        /// What of it.
        source: CaptureSource,
    },
    /// Compare a slot of nodes with what was put there.
    Verify {
        /// The slot, or else the whole disk.
        slot: Option<u16>,
    },
    /// Put an image onto a whole disk of nodes.
    DeployDisk {
        /// The image.
        image: Revision,
        /// When a task is done.
        finish: Finish,
    },
    /// Put partitions of an image into partitions that disks of nodes have.
    DeployPartitions {
        /// The image.
        image: Revision,
        /// What goes where, swap included.
        partitions: Vec<Placed>,
        /// When a task is done.
        finish: Finish,
    },
    /// Put the system that runs on a node into a slot of others.
    Clone {
        /// Name that the node had then.
        from: String,
        /// The slot.
        slot: u16,
        /// When a task of the others is done.
        finish: Finish,
    },
}

impl fmt::Display for JobSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deploy { image, slot, .. } => write!(f, "deploy {image} to slot {slot}"),
            Self::Verify { slot: Some(slot) } => write!(f, "verify slot {slot}"),
            Self::Verify { slot: None } => f.write_str("verify the whole disk"),
            Self::Boot { slot } => write!(f, "boot slot {slot}"),
            Self::Capture { image, source: CaptureSource::Slot { slot, .. }, .. } => {
                write!(f, "capture slot {slot} as {image}")
            }
            Self::DeployDisk { image, .. } => write!(f, "deploy {image} to the whole disk"),
            Self::DeployPartitions { image, partitions, .. } => {
                let places: Vec<String> = partitions.iter().map(ToString::to_string).collect();
                write!(f, "deploy {image} to partitions {}", places.join(","))
            }
            Self::Capture { image, disk, source } => {
                write!(f, "capture {} as {image}", source.of(disk))
            }
            Self::Clone { from, slot, .. } => write!(f, "clone {from} to slot {slot}"),
        }
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// Its number.
    pub id: JobId,
    /// What it is about.
    pub spec: JobSpec,
    /// When it was asked for.
    pub created: i64,
    /// By whom.
    pub created_by: String,
    /// How long its nodes may take to netboot, in milliseconds.
    pub netboot_limit_ms: i64,
}

/// What a task has to do; what can be had again when it is handed out (the manifest, the report's
/// token) is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Work {
    /// Put one partition of an image into a slot.
    Deploy {
        /// The image.
        image: Revision,
        /// Its partition.
        partition: String,
        /// The disk.
        disk: DiskSelector,
        /// The scheme that it must have or get.
        layout: Layout,
        /// The slot.
        slot: u16,
        /// What may be lost.
        overwrite: Overwrite,
        /// The host name of the deployed system.
        hostname: String,
        /// How it is adapted beyond that.
        #[serde(default)]
        adaptation: Adaptation,
        /// The filesystem that is made for it, where the image is a tar archive.
        #[serde(default)]
        fresh: Option<Fresh>,
        /// Whether its filesystem takes all of the slot.
        #[serde(default)]
        grow: bool,
        /// Bytes that the slot gets.
        write_bytes: u64,
        /// Bytes that come over the network for it.
        wire_bytes: u64,
        /// When the task is done.
        finish: Finish,
    },
    /// Make a slot the one that starts.
    SelectSlot {
        /// The disk.
        disk: DiskSelector,
        /// The scheme that it must have.
        layout: Layout,
        /// The slot.
        slot: u16,
    },
    /// Save what is on the disk.
    Capture {
        /// It becomes the next revision of this image.
        image: ImageName,
        /// The disk.
        disk: DiskSelector,
        /// What of it.
        source: CaptureSource,
        /// What the slot, or the disk, is called in the image.
        name: String,
        /// Whether what is in use or was not unmounted properly is saved too.
        force: bool,
        /// Whether every block is saved.
        raw: bool,
        /// Whether the files of a slot are saved, as a tar archive.
        #[serde(default)]
        tar: bool,
        /// What was in the slot, as far as we know.
        held: Option<String>,
        /// The revision, once it is in the store.
        saved: Option<Revision>,
    },
    /// Compare what is in a slot or on a disk with what was put there.
    Compare {
        /// What was put there.
        image: Revision,
        /// The disk.
        disk: DiskSelector,
        /// What of it.
        source: CompareSource,
        /// What the deploy left, if that is known.
        as_left: Option<Packed>,
        /// What was found, once it was compared.
        found: Option<Box<Comparison>>,
    },
    /// Make a whole disk that of an image. Table and boot code are the image's.
    DeployDisk {
        /// The image.
        image: Revision,
        /// The disk.
        disk: DiskSelector,
        /// By what its table will be known again.
        table: TableId,
        /// What may be lost.
        overwrite: Overwrite,
        /// A disk with this table was deployed by us as a whole.
        own: Option<TableId>,
        /// The host name of the systems on it.
        hostname: String,
        /// How they are adapted beyond that.
        adaptation: Adaptation,
        /// Number of the partition that takes what the disk has beyond the image's.
        #[serde(default)]
        grow: Option<u16>,
        /// What its ids follow from, if they are not the image's.
        #[serde(default)]
        fresh_ids: Option<Seed>,
        /// When the task is done.
        finish: Finish,
    },
    /// Put partitions of an image into partitions that the disk has.
    DeployPartitions {
        /// The image.
        image: Revision,
        /// Which of its partitions goes where.
        partitions: Vec<Placed>,
        /// Partitions of the disk that become swap.
        swaps: Vec<Swap>,
        /// The disk.
        disk: DiskSelector,
        /// The table that it must still have.
        table: FoundTable,
        /// What may be lost.
        overwrite: Overwrite,
        /// Numbers of the partitions that their filesystems are to fill.
        grow: Vec<u16>,
        /// The host name of the systems in them.
        hostname: String,
        /// How they are adapted beyond that.
        adaptation: Adaptation,
        /// When the task is done.
        finish: Finish,
    },
    /// Send the files of the system that runs. It is deployed by other tasks of the job, and removed when
    /// they have ended.
    Golden {
        /// What it becomes until then.
        image: Revision,
        /// Whether all of it is in the store.
        is_saved: bool,
    },
}

impl Work {
    /// When the task is done.
    pub fn finish(&self) -> Finish {
        match self {
            Self::Deploy { finish, .. }
            | Self::DeployDisk { finish, .. }
            | Self::DeployPartitions { finish, .. } => *finish,
            Self::SelectSlot { .. } => Finish::LocalBoot,
            Self::Capture { .. } | Self::Compare { .. } => Finish::Saved,
            Self::Golden { .. } => Finish::RunsOn,
        }
    }

    /// The revision that it made, if it has made one.
    pub fn saved(&self) -> Option<&Revision> {
        match self {
            Self::Capture { saved, .. } => saved.as_ref(),
            // Nobody else is to have it.
            Self::Golden { .. }
            | Self::Deploy { .. }
            | Self::DeployDisk { .. }
            | Self::DeployPartitions { .. }
            | Self::SelectSlot { .. }
            | Self::Compare { .. } => None,
        }
    }

    /// What it found, if it has compared something.
    pub fn compared(&self) -> Option<&Comparison> {
        match self {
            Self::Compare { found, .. } => found.as_deref(),
            Self::Golden { .. }
            | Self::Deploy { .. }
            | Self::DeployDisk { .. }
            | Self::DeployPartitions { .. }
            | Self::SelectSlot { .. }
            | Self::Capture { .. } => None,
        }
    }

    /// Whether what it was for, where that is not the disk, is there.
    pub fn has_result(&self) -> bool {
        let is_saved = matches!(self, Self::Golden { is_saved: true, .. });
        is_saved || self.saved().is_some() || self.compared().is_some()
    }

    /// Whether it is for a machine that runs its own system, and no other.
    pub fn is_golden(&self) -> bool {
        matches!(self, Self::Golden { .. })
    }

    /// Whether what is on the disk is, or may be, another than before when it is not done.
    pub fn changes_disk(&self) -> bool {
        match self {
            Self::Deploy { .. }
            | Self::DeployDisk { .. }
            | Self::DeployPartitions { .. }
            | Self::SelectSlot { .. } => true,
            Self::Capture { .. } | Self::Compare { .. } | Self::Golden { .. } => false,
        }
    }

    /// How what it deploys is adapted.
    pub fn adaptation(&self) -> Option<&Adaptation> {
        match self {
            Self::Deploy { adaptation, .. }
            | Self::DeployDisk { adaptation, .. }
            | Self::DeployPartitions { adaptation, .. } => Some(adaptation),
            Self::SelectSlot { .. }
            | Self::Capture { .. }
            | Self::Compare { .. }
            | Self::Golden { .. } => None,
        }
    }

    /// The image that it needs.
    pub fn image(&self) -> Option<&Revision> {
        match self {
            Self::Deploy { image, .. }
            | Self::DeployDisk { image, .. }
            | Self::DeployPartitions { image, .. }
            | Self::Compare { image, .. } => Some(image),
            Self::SelectSlot { .. } | Self::Capture { .. } | Self::Golden { .. } => None,
        }
    }
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRecord {
    /// Whose share.
    pub job: JobId,
    /// Of which node.
    pub node: NodeId,
    /// The node's name when the job was made: the node may be gone.
    pub node_name: String,
    /// What it has to do.
    pub work: Work,
    /// Where it stands.
    pub life: Life,
    /// Since when.
    pub changed: i64,
}

/// Something that is kept of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noted {
    /// The agent said so.
    Agent(TaskEvent),
    /// The task got into this state.
    State {
        /// Its name.
        name: String,
        /// The cause or reason, where there is one.
        why: Option<String>,
    },
    /// An operator should know.
    Note(String),
}

/// An event of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Position among all events; the store sets it.
    pub seq: i64,
    /// The job.
    pub job: JobId,
    /// The node.
    pub node: NodeId,
    /// Hand-out number.
    pub generation: u32,
    /// The agent's count, for what an agent said.
    pub number: Option<u32>,
    /// When it came.
    pub at: i64,
    /// What.
    pub what: Noted,
}

/// A line of an agent's log, or of ours about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The node.
    pub node: NodeId,
    /// The job it was busy with.
    pub job: Option<JobId>,
    /// When it came.
    pub at: i64,
    /// How serious it is.
    pub level: LogLevel,
    /// The line.
    pub line: String,
}

/// Something on the way from power-on to the agent, or to the deployed system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootSeen {
    /// The machine's address.
    pub mac: Mac,
    /// When.
    pub at: i64,
    /// What, in a word or two.
    pub what: String,
    /// More about it; may be empty.
    pub detail: String,
}

/// Who did what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// When.
    pub at: i64,
    /// Who.
    pub who: String,
    /// What.
    pub what: String,
}
