//! What machines boot, and what the boot services saw of them.

use super::{
    Service,
    core::Core,
    types::{BootEvent, BootEventKind, ScriptAnswer},
};
use crate::{
    jobs::task::TaskEvent,
    store::{BootRecord, BootSeen, Change, DefaultBoot},
};
use metalcast_netboot::table::{BootAnswer, BootEntry, BootTable};

/// What every known address boots. An unknown one gets the RAM image, so that it registers.
pub(super) fn table(core: &Core) -> BootTable {
    let entries = core.nodes.values().flat_map(|node| {
        let answer = match core.next_boot(node) {
            DefaultBoot::RamImage => BootAnswer::RamImage,
            DefaultBoot::LocalDisk => BootAnswer::LocalDisk,
        };
        let entry = BootEntry { node: node.name.clone(), answer };
        node.fingerprint.macs.iter().map(move |mac| (*mac, entry.clone()))
    });
    BootTable::new(entries, BootAnswer::RamImage)
}

impl Service {
    /// Keeps what the boot services did, and draws the conclusions: a netboot that was expected, or a
    /// task whose node went to its disk.
    pub async fn boot_event(&self, event: BootEvent) {
        let mut core = self.core().await;
        if let Err(error) = self.conclude(&mut core, &event).await {
            let error = format!("{error:#}");
            let node = core.node_of(event.mac).map(|node| tracing::field::display(&node.name));
            tracing::error!(node, mac = %event.mac, error, "keeping what a machine booted");
        }
        let (what, detail) = describe(&event.kind);
        core.gather_boot(BootSeen {
            mac: event.mac,
            at: event.at_unix_ms,
            what: what.to_owned(),
            detail,
        });
    }

    async fn conclude(&self, core: &mut Core, event: &BootEvent) -> anyhow::Result<()> {
        let BootEventKind::Script { answer, boot } = &event.kind else {
            return Ok(());
        };
        let node = core.node_of(event.mac).map(|node| (node.id, core.next_boot(node)));
        match (answer, boot, node) {
            // Only a boot that was expected of a node matters later; anyone can ask for others.
            (ScriptAnswer::RamImage, Some(boot), Some((node, DefaultBoot::RamImage))) => {
                let record = BootRecord {
                    boot: *boot,
                    mac: event.mac,
                    node: Some(node),
                    at: event.at_unix_ms,
                };
                self.store().apply(&[Change::Boot(record)]).await?;
            }
            (ScriptAnswer::LocalDisk, _, Some((node, _))) if core.tasks.contains_key(&node) => {
                let waited = core.tasks.get(&node).map(|task| task.record.life.clone());
                self.advance(core, node, &TaskEvent::SentToDisk, Vec::new()).await?;
                // The machine restarted, so its agent is gone, whatever the network says.
                if waited != core.tasks.get(&node).map(|task| task.record.life.clone()) {
                    core.sessions.remove(&node);
                    self.publish(core);
                }
            }
            (ScriptAnswer::RamImage | ScriptAnswer::LocalDisk, _, _) => {}
        }
        Ok(())
    }
}

fn describe(kind: &BootEventKind) -> (&'static str, String) {
    match kind {
        BootEventKind::DhcpOffer => ("dhcp-offer", String::new()),
        BootEventKind::DhcpAck { ip } => ("dhcp-ack", ip.to_string()),
        BootEventKind::DhcpAckHeld => (
            "dhcp-ack-held",
            "its lease could not be written; the controller's log says why".into(),
        ),
        BootEventKind::BootFile { name } => ("boot-file", name.chars().take(200).collect()),
        BootEventKind::Script { answer: ScriptAnswer::RamImage, .. } => {
            ("script", RAM_IMAGE.to_owned())
        }
        BootEventKind::Script { answer: ScriptAnswer::LocalDisk, .. } => {
            ("script", "local-disk".to_owned())
        }
        BootEventKind::Kernel => ("kernel", String::new()),
        BootEventKind::Initramfs => ("initramfs", String::new()),
        BootEventKind::Segment => ("segment", String::new()),
    }
}

/// Detail of a `script` moment that led into the RAM image.
pub(super) const RAM_IMAGE: &str = "ram-image";
