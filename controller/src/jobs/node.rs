//! The life of a node.
//!
//! ```text
//!         approved               doubted
//!  new ─────────────> ready ────────────────> identity-changed
//!                       ^                         │ approved: what it now shows is its fingerprint
//!                       └─────────────────────────┘
//! ```
//!
//! **Invariant**: only a ready node gets tasks and images.

use serde::{Deserialize, Serialize};

/// How a node stands with us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum NodeState {
    /// It registered; nobody has approved it yet.
    New,
    /// Approved.
    Ready,
    /// It claims to be a node that we know, but an operator has to look first.
    IdentityChanged {
        /// Why, in one sentence.
        reason: String,
    },
}

/// Something that happens to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// An operator, or the policy, takes it in.
    Approved,
    /// An enrolment under its name that may be someone else's.
    Doubted {
        /// Why, in one sentence.
        reason: String,
    },
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEffect {
    /// The fingerprint that was last shown becomes the one on record.
    AdoptFingerprint,
    /// Tell the agent how it stands.
    TellStanding,
    /// Give it the task that waits for it.
    HandOut,
    /// Make an operator look.
    Alarm {
        /// Why.
        reason: String,
    },
}

/// The state and the effects that follow from an event.
pub fn step(state: &NodeState, event: &NodeEvent) -> (NodeState, Vec<NodeEffect>) {
    match (state, event) {
        (NodeState::New, NodeEvent::Approved) => {
            (NodeState::Ready, vec![NodeEffect::TellStanding, NodeEffect::HandOut])
        }
        (NodeState::Ready, NodeEvent::Approved) => (NodeState::Ready, Vec::new()),
        (NodeState::IdentityChanged { .. }, NodeEvent::Approved) => (
            NodeState::Ready,
            vec![NodeEffect::AdoptFingerprint, NodeEffect::TellStanding, NodeEffect::HandOut],
        ),
        // Nobody has vouched for it yet, so there is nothing to doubt.
        (NodeState::New, NodeEvent::Doubted { .. }) => {
            (NodeState::New, vec![NodeEffect::AdoptFingerprint])
        }
        (NodeState::Ready | NodeState::IdentityChanged { .. }, NodeEvent::Doubted { reason }) => (
            NodeState::IdentityChanged { reason: reason.clone() },
            vec![NodeEffect::Alarm { reason: reason.clone() }, NodeEffect::TellStanding],
        ),
    }
}

impl NodeState {
    /// Whether it may have tasks and images.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Ready => true,
            Self::New | Self::IdentityChanged { .. } => false,
        }
    }

    /// Its name in tables and in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Ready => "ready",
            Self::IdentityChanged { .. } => "identity-changed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever happens, a node is ready only if the last word on it was an approval.
        #[test]
        fn only_an_approval_makes_a_node_ready(events in prop::collection::vec(any::<bool>(), 0..20)) {
            let mut state = NodeState::New;
            for approved in &events {
                let event = if *approved {
                    NodeEvent::Approved
                } else {
                    NodeEvent::Doubted { reason: "another serial".into() }
                };
                let before = state.clone();
                let effects;
                (state, effects) = step(&before, &event);
                prop_assert_eq!(effects.contains(&NodeEffect::HandOut), !before.is_ready() && state.is_ready());
                prop_assert_eq!(effects.contains(&NodeEffect::TellStanding), before.name() != state.name()
                    || matches!(state, NodeState::IdentityChanged { .. }));
            }
            prop_assert_eq!(state.is_ready(), events.last() == Some(&true));
        }
    }
}
