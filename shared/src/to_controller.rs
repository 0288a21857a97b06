//! What an agent says to its controller. Every stream is opened by the agent and begins with an
//! [`Open`].

use crate::{
    event::{Numbered, Progress},
    hash::Hash,
    id::{BootId, Revision, TaskId},
    inventory::{Fingerprint, Inventory},
    upload::Survey,
};
use serde::{Deserialize, Serialize};

/// Most chunks in one request.
pub const MAX_CHUNKS_PER_REQUEST: usize = 64;

/// First message on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Open {
    /// Ask for a certificate; the only thing a connection without one may do.
    Enrol(Enrol),
    /// The session: [`ToController`] one way, [`crate::to_agent::ToAgent`] the other.
    Session(Hello),
    /// Ask for a page of a manifest.
    Page {
        /// Of which revision.
        revision: Revision,
        /// Of which partition.
        partition: String,
        /// Page number, from 0.
        page: u32,
    },
    /// Ask for chunks. The answers come in the order of the request, each behind a
    /// [`crate::to_agent::ChunkHeader`].
    Chunks {
        /// Of which revision.
        revision: Revision,
        /// Of which partition.
        partition: String,
        /// On which page they are listed.
        page: u32,
        /// Positions on that page, at most [`MAX_CHUNKS_PER_REQUEST`].
        positions: Vec<u16>,
    },
    /// Ask for a bundle of tools that belongs to the RAM image, or what a project adds
    /// ([`crate::post_install`]); the answer is a [`crate::to_agent::BundleReply`].
    Packed {
        /// The hash of its file.
        hash: Hash,
    },
    /// Begin to send what a task captures, or go on with it: see [`crate::upload`].
    Upload {
        /// Which task.
        task: TaskId,
        /// What will be sent; the same whenever the task goes on.
        survey: Box<Survey>,
    },
    /// Ask for a small file beside an image; the answer is a [`crate::to_agent::BundleReply`].
    SideFile {
        /// Of which revision.
        revision: Revision,
        /// Its name.
        name: String,
    },
    /// Hand over what a deploy left; the answer is a [`crate::to_agent::RecordReply`].
    Record {
        /// Which task.
        task: TaskId,
        /// So many bytes of an encoded [`crate::as_left::AsLeft`] follow, at most
        /// [`crate::as_left::MAX_AS_LEFT_BYTES`].
        bytes: u32,
    },
    /// Ask for what a deploy left of what a task compares; the answer is a
    /// [`crate::to_agent::BundleReply`].
    AsLeft {
        /// Which task.
        task: TaskId,
    },
    /// The session of a machine that runs its own system and gives nothing but that:
    /// [`crate::to_agent::Work::Golden`] is the only work for it.
    Golden(Hello),
}

/// A request for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrol {
    /// The token from [`crate::boot::BootConfig::token`].
    pub token: String,
    /// Certificate signing request (PKCS #10, RFC 2986), DER.
    pub request: Vec<u8>,
    /// By what the machine may be known.
    pub fingerprint: Fingerprint,
}

/// First message of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::version::PROTOCOL`] of the agent.
    pub protocol: u16,
    /// Version text of the agent.
    pub agent: String,
    /// This boot.
    pub boot: BootId,
    /// The task that the agent has in hand, if any.
    pub task: Option<TaskId>,
    /// Names and seconds of the phases from the kernel's start to this hello.
    pub phases: Vec<Phase>,
}

/// A phase of an agent's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name: `mounts`, `modules`, `link`, `dhcp` ...
    pub name: String,
    /// When it ended, in milliseconds since the kernel's start.
    pub ended_millis: u64,
}

/// A message on the session stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToController {
    /// What the machine is made of; follows the hello.
    Inventory(Box<Inventory>),
    /// Still alive; at least every 5 s.
    Heartbeat {
        /// Seconds since the kernel's start.
        uptime_seconds: u64,
        /// Resident memory of the agent in bytes.
        resident_bytes: u64,
    },
    /// Something that is kept.
    Event {
        /// Of which task.
        task: TaskId,
        /// What.
        event: Numbered,
    },
    /// How far the current step is; the latest counts.
    Progress {
        /// Of which task.
        task: TaskId,
        /// How far.
        progress: Progress,
    },
    /// A line of the agent's log.
    Log {
        /// How serious.
        level: LogLevel,
        /// The line.
        text: String,
    },
}

/// How serious a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Someone has to act.
    Error,
    /// Something is not as it should be, but work goes on.
    Warn,
    /// A milestone.
    Info,
    /// For developers.
    Debug,
}
