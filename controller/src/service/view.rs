//! What operators see: the API sends these as JSON, the CLI reads them.
//!
//! Times are milliseconds since 1970-01-01 UTC.

use crate::{
    jobs::plan::{DiskUse, LayoutAction, PartitionUse, SlotUse},
    store::{DefaultBoot, JobSpec},
};
use metalcast_shared::{
    as_left::Comparison,
    event::{Progress, StepView},
    fix_up::Adaptation,
    fresh::{Fresh, FreshKind, FreshLabel},
    id::{ImageName, JobId, Mac, NodeId, Revision},
    inventory::Inventory,
    to_agent::{CaptureSource, Placed},
    to_controller::LogLevel,
};
use serde::{Deserialize, Serialize};

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its identity.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// `new`, `ready` or `identity-changed`; `registering` until its hardware is known.
    pub state: String,
    /// What an operator should know of the state.
    pub reason: Option<String>,
    /// The latest alarm in the node's log; only where one node is shown.
    pub alarm: Option<LogView>,
    /// Whether its agent is connected.
    pub online: bool,
    /// Whether that is one with which it offers its running system, and does nothing else.
    #[serde(default)]
    pub golden: bool,
    /// What it does at its next start.
    pub next_boot: DefaultBoot,
    /// Its addresses.
    pub macs: Vec<Mac>,
    /// Layout that its disks get.
    pub layout: String,
    /// What it is made of, once it registered.
    pub inventory: Option<Inventory>,
    /// What we put into slots of its disks.
    pub slots: Vec<SlotUse>,
    /// Disks that we deployed as a whole.
    pub whole_disks: Vec<DiskUse>,
    /// What we put into partitions of its disks that are no slots.
    #[serde(default)]
    pub partitions: Vec<PartitionUse>,
    /// The job that it is busy with.
    pub job: Option<JobId>,
    /// When it first enrolled.
    pub enrolled_unix_ms: i64,
    /// When it last sent its inventory.
    pub registered_unix_ms: Option<i64>,
    /// When it was last heard of.
    pub last_seen_unix_ms: i64,
}

/// Changes to a node; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeChange {
    /// A new name.
    pub name: Option<String>,
    /// A layout of the configuration.
    pub layout: Option<String>,
}

/// A request to put an image on nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// `project/name` or `project/name@7`.
    pub image: String,
    /// The slot; or else the whole disk, or partitions.
    #[serde(default)]
    pub slot: Option<u16>,
    /// Partitions of the image, each with the number of the one on the disk that it goes into.
    #[serde(default)]
    pub partitions: Vec<Placed>,
    /// Whether the disk is made that of the image, all of it.
    #[serde(default)]
    pub whole_disk: bool,
    /// Names of nodes.
    pub nodes: Vec<String>,
    /// Partition of the image, where it has several; for a slot only.
    #[serde(default)]
    pub partition: Option<String>,
    /// Serial or WWN of the disk, where a node has several.
    #[serde(default)]
    pub disk: Option<String>,
    /// Layout, if not the nodes' own; for a slot only.
    #[serde(default)]
    pub layout: Option<String>,
    /// Host name, if not the node's name; for one node only.
    #[serde(default)]
    pub hostname: Option<String>,
    /// How the deployed system reports.
    #[serde(default)]
    pub report: ReportMode,
    /// How it is adapted beyond that.
    #[serde(default)]
    pub adaptation: Adaptation,
    /// The filesystem that is made for a tar archive; ext4 otherwise.
    #[serde(default)]
    pub fs: Option<FreshKind>,
    /// And its label.
    #[serde(default)]
    pub label: Option<FreshLabel>,
    /// Give a whole disk ids of its own, so that it can be beside another one of the image.
    #[serde(default)]
    pub fresh_ids: bool,
    /// Have filesystems fill their slot or partitions, or a partition and its filesystem the disk.
    #[serde(default)]
    pub grow: Option<GrowRequest>,
    /// How long nodes may take to netboot.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// What is there may be lost.
    #[serde(default)]
    pub yes: bool,
}

/// What is to grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowRequest {
    /// Number of the partition; without one it is the last of a whole disk with a filesystem that can, or
    /// all that are deployed and can.
    #[serde(default)]
    pub partition: Option<u16>,
}

/// How a deployed system reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportMode {
    /// A systemd unit reports at the first start.
    #[default]
    Unit,
    /// It cannot report: the deployment ends as `done (unconfirmed)`.
    None,
}

/// A request to save what is on the disk of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// `project/name`: it becomes the next revision.
    pub image: String,
    /// Name of the node.
    pub node: String,
    /// The slot; without one it is the disk, or partitions of it.
    #[serde(default)]
    pub slot: Option<u16>,
    /// Serial or WWN of the disk; needed without a slot, or where a node has several.
    #[serde(default)]
    pub disk: Option<String>,
    /// Partitions of the disk, as numbers or names that end with them; without any it is all of it.
    #[serde(default)]
    pub partitions: Vec<String>,
    /// Layout of a slot's disk, if not the one that it was deployed with or the node's own.
    #[serde(default)]
    pub layout: Option<String>,
    /// What the slot or disk is called in the image; `sda5` or `sda` otherwise.
    #[serde(default)]
    pub name: Option<String>,
    /// Save what is in use, or was not unmounted properly: every block of it.
    #[serde(default)]
    pub force: bool,
    /// Save every block, whatever is in it.
    #[serde(default)]
    pub raw: bool,
    /// Save the files of a slot as a tar archive.
    #[serde(default)]
    pub tar: bool,
    /// How long the node may take to netboot.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer to a [`CaptureRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptureAnswer {
    /// What is, or would be, done.
    pub plan: CapturePlanView,
    /// The job; `None` for a dry run.
    pub job: Option<JobId>,
}

/// What a capture does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapturePlanView {
    /// It becomes the next revision of this image.
    pub image: ImageName,
    /// The node's name.
    pub node: String,
    /// Whether its agent is connected; otherwise the job waits for the node to netboot.
    pub online: bool,
    /// The disk, with model, serial and size.
    pub disk: String,
    /// The disk's size.
    pub disk_bytes: u64,
    /// What is on the disk, as its agent last saw it.
    pub contents: Vec<String>,
    /// What of it is saved.
    pub source: CaptureSource,
    /// What we know to be in the slot.
    pub present: Option<Revision>,
    /// What the slot or disk is called in the image.
    pub name: String,
    /// Whether what is in use or was not unmounted properly is saved too.
    pub force: bool,
    /// Whether every block is saved.
    pub raw: bool,
    /// Whether its files are saved, as a tar archive.
    pub tar: bool,
}

/// A request to put the system that runs on a node into a slot of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// Name of the node.
    pub from: String,
    /// Names of the others.
    pub nodes: Vec<String>,
    /// The slot.
    pub slot: u16,
    /// Serial or WWN of the disk, where a node has several.
    #[serde(default)]
    pub disk: Option<String>,
    /// Layout, if not the nodes' own.
    #[serde(default)]
    pub layout: Option<String>,
    /// Host name, if not the node's name; for one node only.
    #[serde(default)]
    pub hostname: Option<String>,
    /// How the deployed system reports.
    #[serde(default)]
    pub report: ReportMode,
    /// How it is adapted beyond that.
    #[serde(default)]
    pub adaptation: Adaptation,
    /// The filesystem that is made for it; ext4 otherwise.
    #[serde(default)]
    pub fs: Option<FreshKind>,
    /// And its label.
    #[serde(default)]
    pub label: Option<FreshLabel>,
    /// How long nodes may take to netboot, and the system to offer itself.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// What is there may be lost.
    #[serde(default)]
    pub yes: bool,
}

/// Answer to a [`CloneRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CloneAnswer {
    /// Name of the node that is cloned.
    pub from: String,
    /// Whether its system offers itself already; otherwise the job waits for that.
    pub golden: bool,
    /// What is, or would be, done on the others. The image is gone when the job has ended.
    pub plan: PlanView,
    /// The job; `None` for a dry run.
    pub job: Option<JobId>,
}

/// A request to compare what is in a slot of nodes with what was put there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// Names of nodes.
    pub nodes: Vec<String>,
    /// The slot; or else the whole disk.
    #[serde(default)]
    pub slot: Option<u16>,
    /// Whether a disk that was deployed as a whole is compared.
    #[serde(default)]
    pub whole_disk: bool,
    /// Serial or WWN of that disk, where a node has several.
    #[serde(default)]
    pub disk: Option<String>,
    /// Partition of the image, where it has several and it is not known which was deployed; for a slot only.
    #[serde(default)]
    pub partition: Option<String>,
    /// How long nodes may take to netboot.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
    /// Only say what would be compared.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer to a [`VerifyRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAnswer {
    /// The slot, or else the whole disk.
    pub slot: Option<u16>,
    /// What is, or would be, compared on each node.
    pub plan: Vec<VerifyPlanView>,
    /// The job; `None` for a dry run.
    pub job: Option<JobId>,
}

/// What is compared on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyPlanView {
    /// The node's name.
    pub node: String,
    /// Whether its agent is connected; otherwise the job waits for the node to netboot.
    pub online: bool,
    /// The disk, with model, serial and size.
    pub disk: String,
    /// What was put there.
    pub image: Revision,
    /// Which of its partitions, for a slot.
    pub partition: Option<String>,
    /// Whether its system was started since, so that drift is to be expected.
    pub has_reported: bool,
    /// Whether it is known what the deploy left; otherwise its fix-ups count as drift.
    pub has_as_left: bool,
}

/// A request to start a slot of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootRequest {
    /// Names of nodes.
    pub nodes: Vec<String>,
    /// The slot.
    pub slot: u16,
    /// How long nodes may take to netboot.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
}

/// Answer to a [`DeployRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeployAnswer {
    /// What is, or would be, done.
    pub plan: PlanView,
    /// The job; `None` for a dry run.
    pub job: Option<JobId>,
}

/// Answer to a [`BootRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootAnswer {
    /// The job.
    pub job: JobId,
}

/// What a deployment does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// The image.
    pub image: Revision,
    /// Where it goes.
    #[serde(flatten)]
    pub target: TargetView,
    /// How the system is adapted beyond what every one is.
    pub adaptation: Adaptation,
    /// What happens on each node.
    pub nodes: Vec<NodePlanView>,
}

/// Where an image goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetView {
    /// Into a slot.
    Slot {
        /// Which of its partitions.
        partition: String,
        /// Its filesystem.
        filesystem: String,
        /// The slot.
        slot: u16,
        /// The filesystem that is made, for a tar archive.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fresh: Option<Fresh>,
    },
    /// Onto a whole disk.
    WholeDisk {
        /// By what the disk's table will be known: `GPT, disk GUID ...`.
        table: String,
        /// The partitions that it will have.
        partitions: Vec<PartitionView>,
        /// Whether its ids, and those of its filesystems, will be others than the image's.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        fresh_ids: bool,
    },
    /// Into partitions that the disk has.
    Partitions {
        /// What goes where.
        placed: Vec<PlacedView>,
    },
}

/// A partition of an image, and its place on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedView {
    /// What it is called in the image.
    pub partition: String,
    /// Its filesystem, or `swap`.
    pub filesystem: String,
    /// Number of the partition on the disk.
    pub number: u16,
}

/// A partition that a disk will have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionView {
    /// Its number.
    pub number: u16,
    /// Where it begins, in bytes from the disk's start.
    pub start_bytes: u64,
    /// Its length.
    pub bytes: u64,
    /// What will be in it: a filesystem, `swap`, `extended`, or nothing.
    pub what: String,
}

/// What a deployment does to one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodePlanView {
    /// The node's name.
    pub node: String,
    /// Whether its agent is connected; otherwise the job waits for the node to netboot.
    pub online: bool,
    /// The disk, with model, serial and size.
    pub disk: String,
    /// The disk's size.
    pub disk_bytes: u64,
    /// What is on the disk, as its agent last saw it.
    pub contents: Vec<String>,
    /// The layout's name, for a slot.
    pub layout: Option<String>,
    /// What becomes of the partition table, for a slot.
    pub layout_action: Option<LayoutAction>,
    /// What grows, if that was asked for.
    #[serde(default)]
    pub grow: Vec<GrowView>,
    /// What we know to be in the slot, or to have made of the disk.
    pub present: Option<Revision>,
    /// What will be lost that we did not put there.
    pub lost: Vec<String>,
    /// What an operator should know beyond that.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Whether that takes `--yes`.
    pub needs_yes: bool,
    /// Host name of the deployed system.
    pub hostname: String,
    /// Bytes that will be written.
    pub write_bytes: u64,
    /// Bytes that will come over the network.
    pub wire_bytes: u64,
}

/// A slot or partition that grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrowView {
    /// Its number.
    pub number: u16,
    /// What is in it.
    pub filesystem: String,
    /// Whether that can be made larger; otherwise it stays as it is.
    pub filesystem_grows: bool,
    /// What the filesystem has in its slot, or the partition in the image.
    pub from_bytes: u64,
    /// What it will have.
    pub to_bytes: u64,
    /// Numbers of partitions that move to the end of the disk.
    pub moved: Vec<u16>,
}

/// How a job stands as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Some tasks have not ended.
    Running,
    /// All ended well.
    Done,
    /// Some ended well.
    Partial,
    /// None ended well.
    Failed,
    /// None ended well, and at least one was stopped by an operator.
    Cancelled,
}

/// A job in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSummary {
    /// Its number.
    pub id: JobId,
    /// What it is about.
    pub spec: JobSpec,
    /// How it stands.
    pub state: JobState,
    /// When it was asked for.
    pub created_unix_ms: i64,
    /// By whom.
    pub created_by: String,
    /// When its last task ended.
    pub ended_unix_ms: Option<i64>,
    /// Names of its nodes.
    pub nodes: Vec<String>,
}

/// A job with all its tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// What the list says.
    #[serde(flatten)]
    pub summary: JobSummary,
    /// One per node.
    pub tasks: Vec<TaskView>,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// The node's name.
    pub node: String,
    /// The node.
    pub node_id: NodeId,
    /// Its state's name, such as `running` or `done (unconfirmed)`.
    pub state: String,
    /// Whether nothing more will happen.
    pub ended: bool,
    /// Why it failed or was stopped.
    pub cause: Option<String>,
    /// What it waits for, in one sentence, and since when an agent is silent.
    pub waits_for: Option<String>,
    /// Since when the agent was not heard of, if that is long.
    pub silent_since_unix_ms: Option<i64>,
    /// When the present state ends by itself.
    pub deadline_unix_ms: Option<i64>,
    /// When it got into the state.
    pub since_unix_ms: i64,
    /// How often it was handed out.
    pub generation: u32,
    /// The revision that it made, if it has made one.
    #[serde(default)]
    pub saved: Option<Revision>,
    /// What it found, if it has compared something.
    #[serde(default)]
    pub compared: Option<Comparison>,
    /// The agent's steps in the last hand-out; not in a brief answer.
    pub steps: Vec<StepView>,
    /// How far the current step is.
    pub progress: Option<ProgressView>,
    /// What happened, from power-on to the deployed system; not in a brief answer.
    pub timeline: Vec<Moment>,
}

impl TaskView {
    /// Whether it found drift.
    pub fn has_drift(&self) -> bool {
        self.compared.as_ref().is_some_and(Comparison::has_drift)
    }
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgressView {
    /// What the agent said.
    #[serde(flatten)]
    pub progress: Progress,
    /// Bytes done per second, over the last seconds.
    pub bytes_per_second: u64,
}

/// Something that happened at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// When.
    pub at_unix_ms: i64,
    /// What, in a word: `dhcp-ack`, `script`, `kernel`, `agent:link`, `enrolled`, `registered`,
    /// `step-started`, `step-done`, `state`, `reboot-ordered`, `reported` ...
    pub what: String,
    /// More about it; may be empty.
    pub detail: String,
}

/// An event of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    /// Position; ask for those after the last one seen.
    pub seq: i64,
    /// When it came.
    pub at_unix_ms: i64,
    /// The node's name.
    pub node: String,
    /// Hand-out number.
    pub generation: u32,
    /// What.
    pub what: crate::store::Noted,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogView {
    /// When it came.
    pub at_unix_ms: i64,
    /// The node's name.
    pub node: String,
    /// How serious it is.
    pub level: LogLevel,
    /// The line.
    pub line: String,
}

/// What an operator did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeedView {
    /// When.
    pub at_unix_ms: i64,
    /// Who, as the kernel knows them.
    pub who: String,
    /// What.
    pub what: String,
}

/// The controller at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the program.
    pub version: String,
    /// When it was started.
    pub started_unix_ms: i64,
    /// How many nodes are known.
    pub nodes: usize,
    /// How many of them wait for an operator.
    pub nodes_awaiting_approval: usize,
    /// How many agents are connected.
    pub nodes_online: usize,
    /// How many tasks have not ended.
    pub active_tasks: usize,
    /// Why records cannot be written at present: a full disk, perhaps.
    pub records_trouble: Option<String>,
}
