//! Enrolment: which node a machine is.
//!
//! A token is used up by the first key that comes with it; the same key may repeat and gets the same
//! answer. A known node is taken for itself only if it looks the same *and* the boot was expected of
//! it; otherwise an operator has to look, and nothing is handed to it until then.

use super::{Service, core::Core, types::EnrolRefusal};
use crate::{
    config::{Approve, Reenrol},
    jobs::node::{self, NodeEffect, NodeEvent, NodeState},
    store::{BootSeen, Change, DefaultBoot, EnrolmentRecord, LogRecord, NodeRecord, StoreError},
};
use metalcast_shared::{
    boot::EnrolmentToken,
    hash::Hash,
    id::{Mac, NodeId},
    inventory::{Fingerprint, Likeness},
    to_agent::{Standing, awaiting_approval},
    to_controller::LogLevel,
};
use uuid::Uuid;

/// Nodes that may wait for approval: machines, and those who pretend, can netboot without end.
pub const MAX_NEW_NODES: usize = 1024;

/// What a line begins with that an operator has to look at.
pub(super) const ALARM: &str = "ALARM: ";

/// Most addresses or disks in a fingerprint that are looked at.
const MAX_PARTS: usize = 256;

impl Service {
    /// Says which node a machine is. The token's seal was checked by the caller.
    ///
    /// # Errors
    /// A refusal that the machine's console can show; operators find it with the node whose address
    /// the token was made for.
    pub async fn enrol(
        &self,
        token: EnrolmentToken,
        key: Hash,
        fingerprint: Fingerprint,
    ) -> Result<NodeId, EnrolRefusal> {
        let mut core = self.core().await;
        let outcome = self.admit(&mut core, &token, key, fingerprint).await;
        if let Err(refusal) = &outcome {
            let (mac, at) = (token.mac, self.now());
            let detail = refusal.to_string();
            core.gather_boot(BootSeen { mac, at, what: "enrolment-refused".into(), detail });
            if let (EnrolRefusal::Expired { .. } | EnrolRefusal::WrongMac { .. }, Some(node)) =
                (refusal, core.node_of(mac).map(|node| node.id))
            {
                self.alarm(&mut core, node, &format!("an enrolment was refused: {refusal}"));
            }
        }
        outcome
    }

    async fn admit(
        &self,
        core: &mut Core,
        token: &EnrolmentToken,
        key: Hash,
        mut fingerprint: Fingerprint,
    ) -> Result<NodeId, EnrolRefusal> {
        fingerprint.macs.truncate(MAX_PARTS);
        fingerprint.disk_serials.truncate(MAX_PARTS);
        let seconds = (self.now() / 1000).saturating_sub(token.expires_unix);
        if seconds > 0 {
            return Err(EnrolRefusal::Expired { seconds });
        }
        if !fingerprint.macs.contains(&token.mac) {
            return Err(EnrolRefusal::WrongMac { mac: token.mac });
        }
        if let Some(used) =
            self.store().enrolment(token.boot).await.map_err(|e| internal(token, e))?
        {
            return self.repeat(core, token, key, &used);
        }
        let failed = |error| internal(token, error);
        let recognised = self.recognise(core, token, &fingerprint).await.map_err(failed)?;
        let record = match recognised {
            Recognised::Nobody => self.new_node(core, token, key, fingerprint)?,
            Recognised::Known(id) => {
                let mut record = core.nodes[&id].clone();
                match record.state {
                    NodeState::IdentityChanged { .. } => record.candidate = Some(fingerprint),
                    NodeState::New | NodeState::Ready => record.fingerprint = fingerprint,
                }
                record
            }
            Recognised::Doubtful { id, reason } => self.doubt(core, id, &reason, fingerprint)?,
        };
        self.enrolled(core, token, key, record).await.map_err(failed)
    }

    fn repeat(
        &self,
        core: &mut Core,
        token: &EnrolmentToken,
        key: Hash,
        used: &EnrolmentRecord,
    ) -> Result<NodeId, EnrolRefusal> {
        if used.key == key && core.nodes.contains_key(&used.node) {
            return Ok(used.node);
        }
        let name = core.name_of(used.node);
        tracing::warn!(node = %name, mac = %token.mac, boot = %token.boot,
            "ALARM: a second key tried to use an enrolment token");
        self.alarm(core, used.node, "a second key tried to use the enrolment token of this boot");
        Err(EnrolRefusal::TokenUsed)
    }

    async fn recognise(
        &self,
        core: &Core,
        token: &EnrolmentToken,
        seen: &Fingerprint,
    ) -> Result<Recognised, StoreError> {
        let like = |wanted: Likeness| {
            core.nodes.values().filter(move |node| node.fingerprint.compare(seen) == wanted)
        };
        let same: Vec<&NodeRecord> = like(Likeness::Same).collect();
        let node = match same[..] {
            [node] => node,
            [] => {
                return Ok(match like(Likeness::Changed).next() {
                    None => Recognised::Nobody,
                    Some(node) => Recognised::Doubtful {
                        id: node.id,
                        reason: differences(&node.fingerprint, seen),
                    },
                });
            }
            [node, ..] => {
                let names: Vec<&str> = same.iter().map(|node| node.name.as_str()).collect();
                let reason = format!("it could be any of {}", names.join(", "));
                return Ok(Recognised::Doubtful { id: node.id, reason });
            }
        };
        let expected = match self.settings().policy.reenrol {
            Reenrol::Any => true,
            // Nobody told it to, and what it offers may come to other machines.
            Reenrol::Expected if token.golden => {
                let reason = "it runs its own system and offers it to be cloned".to_owned();
                return Ok(Recognised::Doubtful { id: node.id, reason });
            }
            Reenrol::Expected => {
                let boot = self.store().boot(token.boot).await?;
                core.next_boot(node) == DefaultBoot::RamImage
                    || boot.is_some_and(|boot| boot.node == Some(node.id))
            }
        };
        Ok(if expected {
            Recognised::Known(node.id)
        } else {
            let reason = "it netbooted into the agent without being told to".to_owned();
            Recognised::Doubtful { id: node.id, reason }
        })
    }

    fn new_node(
        &self,
        core: &Core,
        token: &EnrolmentToken,
        key: Hash,
        fingerprint: Fingerprint,
    ) -> Result<NodeRecord, EnrolRefusal> {
        let waiting = core.nodes.values().filter(|node| node.state == NodeState::New).count();
        if waiting >= MAX_NEW_NODES {
            return Err(EnrolRefusal::TooManyNew { limit: MAX_NEW_NODES });
        }
        let state = match self.settings().policy.approve {
            Approve::Manual => NodeState::New,
            Approve::Auto => node::step(&NodeState::New, &NodeEvent::Approved).0,
        };
        let now = self.now();
        Ok(NodeRecord {
            id: NodeId(Uuid::now_v7()),
            name: free_name(core, &self.settings().policy.name_prefix),
            state,
            fingerprint,
            candidate: None,
            key,
            inventory: None,
            layout: None,
            default_boot: match token.golden {
                // It has a system, which it is to keep.
                true => DefaultBoot::LocalDisk,
                false => DefaultBoot::RamImage,
            },
            boot_mac: token.mac,
            enrolled: now,
            registered: None,
            last_seen: now,
        })
    }

    fn doubt(
        &self,
        core: &mut Core,
        id: NodeId,
        reason: &str,
        fingerprint: Fingerprint,
    ) -> Result<NodeRecord, EnrolRefusal> {
        let mut record = core.nodes[&id].clone();
        // The real one is there: whoever this is must not take its place.
        if core.sessions.contains_key(&id) {
            let line = format!("a machine that resembles this node tried to enrol: {reason}");
            tracing::warn!(node = %record.name, reason, "ALARM: a resembling machine tried to enrol");
            self.alarm(core, id, &line);
            return Err(EnrolRefusal::Doubtful { name: record.name });
        }
        let effects;
        let event = NodeEvent::Doubted { reason: reason.to_owned() };
        (record.state, effects) = node::step(&record.state, &event);
        record.candidate = Some(fingerprint);
        for effect in effects {
            match effect {
                NodeEffect::AdoptFingerprint => {
                    if let Some(candidate) = record.candidate.take() {
                        record.fingerprint = candidate;
                    }
                }
                NodeEffect::Alarm { reason } => {
                    tracing::warn!(node = %record.name, reason, "ALARM: identity changed");
                    self.alarm(core, id, &format!("identity changed: {reason}"));
                }
                // It learns how it stands when its session opens.
                NodeEffect::TellStanding | NodeEffect::HandOut => {}
            }
        }
        Ok(record)
    }

    async fn enrolled(
        &self,
        core: &mut Core,
        token: &EnrolmentToken,
        key: Hash,
        mut record: NodeRecord,
    ) -> Result<NodeId, StoreError> {
        let (id, now) = (record.id, self.now());
        record.boot_mac = token.mac;
        record.last_seen = now;
        record.key = key;
        let taken = core.unclaim(&mut record);
        let enrolment = EnrolmentRecord { boot: token.boot, key, node: id, at: now };
        let changes = [Change::Node(Box::new(record.clone())), Change::Enrolment(enrolment)];
        self.store().apply(&changes).await?;
        tracing::info!(node = %record.name, mac = %token.mac, state = record.state.name(), "enrolled");
        core.gather_boot(BootSeen {
            mac: token.mac,
            at: now,
            what: "enrolled".into(),
            detail: record.name.clone(),
        });
        core.nodes.insert(id, record);
        core.last_seen.insert(id, now);
        // Its agent was started anew, or is another machine's: the older key is void.
        core.sessions.remove(&id);
        self.alarm_taken(core, id, taken);
        self.publish(core);
        Ok(id)
    }

    /// Says which addresses a node shows that are another's.
    pub(super) fn alarm_taken(&self, core: &mut Core, node: NodeId, taken: Vec<(Mac, String)>) {
        for (mac, owner) in taken {
            let name = core.name_of(node);
            tracing::warn!(node = %name, %mac, owner, "ALARM: it shows another node's address");
            let line = format!(
                "this node shows {mac}, which is {owner}'s and stays so: netboot or remove {owner} if the interface has moved"
            );
            self.alarm(core, node, &line);
        }
    }

    /// Leaves a line in the node's log that an operator will find.
    pub(super) fn alarm(&self, core: &mut Core, node: NodeId, line: &str) {
        let job = core.job_of(node);
        core.gather_log(LogRecord {
            node,
            job,
            at: self.now(),
            level: LogLevel::Error,
            line: format!("{ALARM}{line}"),
        });
    }
}

enum Recognised {
    Nobody,
    Known(NodeId),
    Doubtful { id: NodeId, reason: String },
}

fn internal(token: &EnrolmentToken, error: StoreError) -> EnrolRefusal {
    let error = format!("{:#}", anyhow::Error::from(error));
    tracing::error!(mac = %token.mac, boot = %token.boot, error, "keeping an enrolment");
    EnrolRefusal::Internal
}

fn free_name(core: &Core, prefix: &str) -> String {
    let taken = |name: &String| core.nodes.values().any(|node| node.name == *name);
    (1..)
        .map(|number: u64| format!("{prefix}{number}"))
        .find(|name| !taken(name))
        .expect("there are more numbers than nodes")
}

fn differences(record: &Fingerprint, seen: &Fingerprint) -> String {
    let mut parts = Vec::new();
    let mut text = |what: &str, record: &Option<String>, seen: &Option<String>| {
        if record != seen {
            let show = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".into());
            parts.push(format!("{what} was {} and is {}", show(record), show(seen)));
        }
    };
    text("firmware UUID", &record.smbios_uuid, &seen.smbios_uuid);
    text("firmware serial", &record.smbios_serial, &seen.smbios_serial);
    let list = |macs: &[Mac]| macs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut several = |what: &str, before: String, now: String| {
        if before != now {
            parts.push(format!("{what} were [{before}] and are [{now}]"));
        }
    };
    several("addresses", list(&record.macs), list(&seen.macs));
    several("disks", record.disk_serials.join(" "), seen.disk_serials.join(" "));
    parts.join("; ")
}

/// What a node may expect, as its agent is told.
pub(super) fn standing(node: &NodeRecord) -> Standing {
    match &node.state {
        NodeState::Ready => Standing::Approved,
        NodeState::New => {
            Standing::AwaitingApproval { reason: awaiting_approval(&node.name, node.boot_mac) }
        }
        NodeState::IdentityChanged { reason } => Standing::AwaitingApproval {
            reason: format!(
                "{name} is not what it was ({reason}): if it is meant to be {name}, approve it with `metalcast node approve {name}`",
                name = node.name
            ),
        },
    }
}
