use super::rig::{Machine, Rig, code};
use crate::{
    pki::RefusedCertificate,
    service::{BootEventKind, EnrolRefusal, Role, Run, ScriptAnswer},
};
use metalcast_netboot::table::BootAnswer;
use metalcast_shared::{
    boot::EnrolmentToken,
    hash::Hash,
    id::{BootId, Mac},
    inventory::Fingerprint,
    to_agent::{Standing, ToAgent},
    to_controller::ToController,
};
use uuid::Uuid;

#[tokio::test]
async fn a_new_machine_registers_and_waits_for_approval() {
    let rig = Rig::new().await;
    let machine = Machine::new(1);
    assert_eq!(rig.answer(&machine), BootAnswer::RamImage, "so that it can register at all");
    let mut agent = rig.agent(&machine).await;
    let node = rig.service.node("node1").await.unwrap();
    assert_eq!((node.state.as_str(), node.online), ("new", true));
    assert_eq!(node.inventory.unwrap().disks.len(), 1);
    assert_eq!(code(rig.deploy("node1").await), "node-not-approved");
    rig.service.approve("02:00:00:00:00:01", "tester").await.unwrap();
    let heard = agent.heard();
    assert!(
        matches!(&heard, Some(ToAgent::Welcome { standing: Standing::Approved, .. })),
        "{heard:?}"
    );
    let second = rig.agent(&Machine::new(2)).await;
    assert_eq!(rig.service.nodes().await.unwrap()[1].id, second.node);
}

#[tokio::test]
async fn an_approval_may_come_before_the_inventory() {
    let rig = Rig::new().await;
    rig.netboot(&Machine::new(1), 1).await.1.unwrap();
    let node = rig.service.node("node1").await.unwrap();
    assert_eq!(node.state, "registering");
    assert!(node.reason.unwrap().contains("approve it"));
    let node = rig.service.approve("node1", "tester").await.unwrap();
    assert_eq!(node.state, "registering");
    assert!(node.reason.unwrap().contains("approved"));
}

#[tokio::test]
async fn a_policy_may_approve() {
    let rig = Rig::with(|config| config.replace("[nodes]", "[nodes]\napprove = \"auto\"")).await;
    rig.agent(&Machine::new(1)).await;
    assert!(rig.deploy("node1").await.is_ok());
}

#[tokio::test]
async fn a_token_is_used_up_by_its_first_key() {
    let mut rig = Rig::new().await;
    let machine = Machine::new(1);
    let (boot, node) = rig.netboot(&machine, 1).await;
    let node = node.unwrap();
    assert_eq!(rig.enrol(&machine, boot, 1).await.unwrap(), node);
    rig.restart().await;
    assert_eq!(rig.enrol(&machine, boot, 1).await.unwrap(), node);
    assert!(matches!(rig.enrol(&machine, boot, 2).await, Err(EnrolRefusal::TokenUsed)));
    let alarms = rig.service.node_logs("node1").await.unwrap();
    assert!(alarms[0].line.contains("ALARM: a second key"), "{alarms:?}");
}

#[tokio::test]
async fn a_token_for_another_address_is_refused() {
    let rig = Rig::new().await;
    let mut machine = Machine::new(1);
    let boot = BootId(Uuid::now_v7());
    machine.disks.clear();
    let fingerprint_of = machine.clone();
    machine.mac = Mac([2, 0, 0, 0, 0, 9]);
    let token = EnrolmentToken { boot, mac: machine.mac, expires_unix: i64::MAX, golden: false };
    let fingerprint = Fingerprint { macs: vec![fingerprint_of.mac], ..Fingerprint::default() };
    let answer = rig.service.enrol(token, Hash([1; 32]), fingerprint).await;
    assert!(matches!(answer, Err(EnrolRefusal::WrongMac { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_refused_enrolment_is_found_with_the_node_whose_token_it_was() {
    let rig = Rig::new().await;
    let machine = Machine::new(1);
    rig.agent(&machine).await;
    let refused = async |expires_unix: i64, shown: Mac, expected: &str| {
        let boot = BootId(Uuid::now_v7());
        let token = EnrolmentToken { boot, mac: machine.mac, expires_unix, golden: false };
        let fingerprint = Fingerprint { macs: vec![shown], ..Fingerprint::default() };
        let answer = rig.service.enrol(token, Hash([1; 32]), fingerprint).await;
        assert!(answer.unwrap_err().to_string().contains(expected));
        let alarm = rig.service.node("node1").await.unwrap().alarm.unwrap();
        assert!(alarm.line.contains(expected), "{alarm:?}");
    };
    refused(0, machine.mac, "ended").await;
    refused(i64::MAX, Mac([2, 0, 0, 0, 0, 9]), "which this machine does not have").await;
}

#[tokio::test]
async fn a_refused_certificate_is_told_of_only_if_it_is_for_the_key_of_the_node() {
    let rig = Rig::new().await;
    let node = rig.agent(&Machine::new(1)).await.node;
    let refuse = async |key: Hash| {
        let reason = "it has ended".to_owned();
        rig.service.certificate_refused(RefusedCertificate { node, key, reason }).await;
        rig.service.node("node1").await.unwrap().alarm
    };
    assert_eq!(refuse(Hash([77; 32])).await, None);
    let alarm = refuse(rig.key(node).await).await.unwrap();
    assert!(alarm.line.contains("it has ended"), "{alarm:?}");
}

#[tokio::test]
async fn a_known_node_that_was_expected_is_itself_again() {
    let rig = Rig::new().await;
    let agent = rig.approved(&Machine::new(1)).await;
    let node = agent.node;
    let mut machine = agent.vanish().await;
    machine.disks[0].serial = Some("replaced".into());
    let again = rig.agent(&machine).await;
    assert_eq!(again.node, node);
    let view = rig.service.node("node1").await.unwrap();
    assert_eq!(view.state, "ready");
    assert_eq!(view.inventory.unwrap().disks[0].serial.as_deref(), Some("replaced"));
}

#[tokio::test]
async fn a_changed_machine_waits_for_an_operator() {
    let rig = Rig::new().await;
    let agent = rig.approved(&Machine::new(1)).await;
    let node = agent.node;
    let mut machine = agent.vanish().await;
    machine.serial = "another board".into();
    let mut agent = rig.agent(&machine).await;
    assert_eq!(agent.node, node);
    let view = rig.service.node("node1").await.unwrap();
    assert_eq!(view.state, "identity-changed");
    assert!(view.reason.unwrap().contains("another board"));
    assert_eq!(code(rig.deploy("node1").await), "node-not-approved");
    let alarms = rig.service.node_logs("node1").await.unwrap();
    assert!(alarms[0].line.contains("ALARM: identity changed"), "{alarms:?}");
    rig.service.approve("node1", "tester").await.unwrap();
    assert!(matches!(agent.heard(), Some(ToAgent::Welcome { standing: Standing::Approved, .. })));
    // From now on this is what node1 looks like.
    let machine = agent.vanish().await;
    rig.agent(&machine).await;
    assert_eq!(rig.service.node("node1").await.unwrap().state, "ready");
}

#[tokio::test]
async fn nobody_takes_the_place_of_a_node_at_work() {
    let rig = Rig::new().await;
    let agent = rig.approved(&Machine::new(1)).await;
    let mut other = Machine::new(1);
    other.serial = "someone else".into();
    let (_, refused) = rig.netboot(&other, 2).await;
    assert!(matches!(refused, Err(EnrolRefusal::Doubtful { .. })), "{refused:?}");
    assert_eq!(rig.service.node("node1").await.unwrap().state, "ready");
    agent.say(ToController::Heartbeat { uptime_seconds: 1, resident_bytes: 1 }).await.unwrap();
}

/// A node that should be on its disk has no business in the agent, unless the policy says so.
#[tokio::test]
async fn an_unexpected_netboot_waits_for_an_operator() {
    for (policy, state) in [("expected", "identity-changed"), ("any", "ready")] {
        let with = format!("[nodes]\nreenrol = \"{policy}\"");
        let rig = Rig::with(|config| config.replace("[nodes]", &with)).await;
        let mut agent = rig.approved(&Machine::new(1)).await;
        rig.deploy_with("node1", |request| request.report = crate::service::view::ReportMode::None)
            .await
            .unwrap();
        agent.take_task();
        agent.work().await;
        let machine = agent.vanish().await;
        assert_eq!(rig.answer(&machine), BootAnswer::LocalDisk);
        let answer = ScriptAnswer::LocalDisk;
        rig.boot_event(&machine, BootEventKind::Script { answer, boot: None }).await;
        // It shows up with a boot that some other address began.
        let boot = BootId(Uuid::now_v7());
        let stranger = Machine::new(7);
        let answer = ScriptAnswer::RamImage;
        rig.boot_event(&stranger, BootEventKind::Script { answer, boot: Some(boot) }).await;
        rig.enrol(&machine, boot, 3).await.unwrap();
        assert_eq!(rig.service.node("node1").await.unwrap().state, state, "{policy}");
    }
}

#[tokio::test]
async fn a_forgotten_node_is_new_again_and_its_certificate_opens_nothing() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    rig.service.forget_node("node1", Run::Real, "tester").await.unwrap();
    assert!(agent.is_cut_off());
    assert!(
        agent.say(ToController::Heartbeat { uptime_seconds: 1, resident_bytes: 1 }).await.is_err()
    );
    rig.agent(&agent.machine).await;
    assert_eq!(rig.service.node("node1").await.unwrap().state, "new");
}

/// Whoever enrolled last is the node; what was issued before is void.
#[tokio::test]
async fn an_older_key_opens_nothing() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let (node, old) = (agent.node, rig.key(agent.node).await);
    rig.deploy("node1").await.unwrap();
    agent.take_task();
    let image = super::rig::IMAGE.parse().unwrap();
    assert!(rig.service.may_read(node, old, &image));
    // The same machine after a reset that nobody noticed.
    let machine = agent.machine.clone();
    let (boot, enrolled) = rig.netboot(&machine, 2).await;
    assert_eq!(enrolled.unwrap(), node);
    assert!(agent.is_cut_off());
    assert!(!rig.service.may_read(node, old, &image));
    let (to_agent, _from) = tokio::sync::mpsc::channel(1);
    let error =
        rig.service.session_opened(node, old, rig.hello(boot, None), Role::Node, to_agent).await;
    assert!(error.unwrap_err().to_string().contains("enrolled as node1 since"));
    let again = rig.connect(&machine, node, boot, None).await;
    assert!(rig.service.may_read(again.node, rig.key(node).await, &image));
}

#[tokio::test]
async fn nobody_takes_the_place_of_a_new_node_that_is_there() {
    let rig = Rig::new().await;
    let agent = rig.agent(&Machine::new(1)).await;
    let mut other = Machine::new(1);
    other.serial = "someone else".into();
    let (_, refused) = rig.netboot(&other, 2).await;
    assert!(matches!(refused, Err(EnrolRefusal::Doubtful { .. })), "{refused:?}");
    agent.say(ToController::Heartbeat { uptime_seconds: 1, resident_bytes: 1 }).await.unwrap();
}

/// Nobody has vouched for a node that shows what another one has: it gets no say in what that boots.
#[tokio::test]
async fn no_inventory_takes_another_nodes_address() {
    let mut rig = Rig::new().await;
    let victim = rig.approved(&Machine::new(1)).await;
    rig.deploy_with("node1", |request| request.report = crate::service::view::ReportMode::None)
        .await
        .unwrap();
    let mut victim = victim;
    victim.take_task();
    victim.work().await;
    let thief = rig.agent(&Machine::new(2)).await;
    let mut both = thief.machine.inventory();
    both.nics.extend(Machine::new(1).inventory().nics);
    thief.say(ToController::Inventory(Box::new(both))).await.unwrap();
    assert_eq!(rig.answer(&victim.machine), BootAnswer::LocalDisk);
    let alarms = rig.service.node_logs("node2").await.unwrap();
    assert!(alarms[0].line.contains("02:00:00:00:00:01, which is node1's"), "{alarms:?}");
    rig.restart().await;
    assert_eq!(rig.answer(&victim.machine), BootAnswer::LocalDisk);
    assert_eq!(rig.service.node("node2").await.unwrap().macs, [thief.machine.mac]);
}

#[tokio::test]
async fn names_and_layouts_can_be_changed() {
    let rig = Rig::new().await;
    rig.agent(&Machine::new(1)).await;
    rig.agent(&Machine::new(2)).await;
    let change = |name: Option<&str>, layout: Option<&str>| crate::service::view::NodeChange {
        name: name.map(Into::into),
        layout: layout.map(Into::into),
    };
    let set = |node: &'static str, what| rig.service.change_node(node, what, "tester");
    assert_eq!(code(set("node1", change(Some("node2"), None)).await), "name-taken");
    assert!(set("node1", change(Some("Bad Name"), None)).await.is_err());
    assert!(set("node1", change(None, Some("nowhere"))).await.is_err());
    let node = set("node1", change(Some("rack1-4"), Some("lab"))).await.unwrap();
    assert_eq!((node.name.as_str(), node.layout.as_str()), ("rack1-4", "lab"));
    assert!(rig.service.node("node1").await.is_err());
}
