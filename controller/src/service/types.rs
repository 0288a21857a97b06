//! What callers hand to the service and get from it, apart from what the API shows.

use super::view::PlanView;
use crate::images::UploadOrder;
use metalcast_shared::id::{BootId, Mac, Revision};
use std::net::Ipv4Addr;

/// One session of one agent, counted from 1 since the controller's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// What the machine of a session is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its agent is in charge of it.
    Node,
    /// It runs its own system, offers that, and does nothing else.
    Golden,
}

/// Something that the boot services did for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootEvent {
    /// The machine's address.
    pub mac: Mac,
    /// When, milliseconds since 1970-01-01 UTC.
    pub at_unix_ms: i64,
    /// What.
    pub kind: BootEventKind,
}

/// What the boot services did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootEventKind {
    /// Offered an address.
    DhcpOffer,
    /// Lent an address.
    DhcpAck {
        /// Which.
        ip: Ipv4Addr,
    },
    /// Lent no address, because that could not be written to the disk.
    DhcpAckHeld,
    /// Sent a boot file over TFTP or HTTP.
    BootFile {
        /// Its name.
        name: String,
    },
    /// Answered with a boot script.
    Script {
        /// What it makes the machine boot.
        answer: ScriptAnswer,
        /// The netboot that it began, if it is one into the RAM image.
        boot: Option<BootId>,
    },
    /// Sent the RAM image's kernel.
    Kernel,
    /// Sent the RAM image's initramfs.
    Initramfs,
    /// Sent the per-boot segment.
    Segment,
}

/// What a boot script made a machine boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptAnswer {
    /// The RAM image.
    RamImage,
    /// Its own disk.
    LocalDisk,
}

/// Why a machine gets no certificate; the text goes to its console.
#[derive(Debug, thiserror::Error)]
pub enum EnrolRefusal {
    /// The token has ended.
    #[error("the enrolment token ended {seconds} s ago: netboot again")]
    Expired {
        /// How long ago.
        seconds: i64,
    },
    /// The token was used with another key.
    #[error("this boot has enrolled with another key already; netboot again")]
    TokenUsed,
    /// The token was made for an address that the machine does not have.
    #[error("the token was made for {mac}, which this machine does not have")]
    WrongMac {
        /// The token's address.
        mac: Mac,
    },
    /// Someone who is not quite the node claims to be one that is at work.
    #[error("this machine resembles {name}, which is connected; an operator has to look")]
    Doubtful {
        /// The node.
        name: String,
    },
    /// Too many machines wait for approval.
    #[error("{limit} new nodes wait for approval already; approve or remove some")]
    TooManyNew {
        /// How many may wait.
        limit: usize,
    },
    /// The controller cannot keep it.
    #[error("the controller cannot write its records; see its log")]
    Internal,
}

/// Why a system's report is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReportRefusal {
    /// No such deployment.
    #[error("the token belongs to no deployment that is known here")]
    Unknown,
    /// It was handed out again since.
    #[error("the token belongs to a deployment that was superseded")]
    Superseded,
    /// It was used.
    #[error("the deployment was reported on already")]
    Used,
    /// The agent still works on it, or it failed before there was a system.
    #[error("the deployment is not at the point where its system could report")]
    NotExpected,
    /// The controller cannot keep it: try again later.
    #[error("the controller cannot write its records; try again")]
    Internal,
}

/// What an agent may do that wants to send something for its task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadAnswer {
    /// Send it.
    Send(UploadOrder),
    /// It has sent it before.
    Saved(Revision),
}

/// Whether a request that destroys something is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// It is only checked whether it could be.
    Dry,
    /// It is.
    Real,
}

/// Why an operator's request is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// What it names does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be done now.
    #[error("{message}")]
    Conflict {
        /// A stable word for programs.
        code: &'static str,
        /// A sentence for people.
        message: String,
    },
    /// Data would be lost that is not ours.
    #[error("data would be lost; look at the plan and repeat with --yes if that is meant")]
    NeedsYes {
        /// What would be done.
        plan: Box<PlanView>,
    },
    /// Something broke here.
    #[error("the controller could not do it")]
    Internal(#[from] anyhow::Error),
}

impl From<crate::store::StoreError> for Refusal {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Internal(error.into())
    }
}
