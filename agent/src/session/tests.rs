//! The agent's side of the protocol against a controller of the test's own, over loopback.

mod controller;

use super::*;
use crate::task::{
    PackedFile,
    tests::rig::{Rig, TestImage, tool},
};
use controller::{Behaviour, Controller, Seen};
use fetch::Line;
use metalcast_shared::{
    boot::BootConfig,
    disk::Disk,
    event::{Step, TaskEvent},
    hash::Hash,
    id::{BootId, JobId, Mac, NodeId, TaskId},
    inventory::{Fingerprint, Inventory, Nic},
    to_agent::{Overwrite, Standing, Task, ToAgent, Work},
    to_controller::ToController,
};
use std::{process::Command, time::Duration};
use uuid::Uuid;

/// Far more than any test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

fn config(controller: &Controller, machine: Arc<Machine>) -> Config {
    Config {
        role: Role::Node,
        boot: BootConfig {
            boot: BootId(Uuid::from_u128(7)),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            controllers: vec![controller.address],
            ca_pem: controller.ca_pem.clone(),
            unix_time: 0,
            token: "abcd".into(),
        },
        phases: Vec::new(),
        machine,
        inventory: Arc::new(inventory),
        logs: Arc::default(),
    }
}

fn inventory() -> Inventory {
    let nic = Nic {
        name: "eth0".into(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        driver: None,
        link: true,
        speed_mbit: None,
        pci_id: None,
        boot: true,
    };
    Inventory { nics: vec![nic], ..Inventory::default() }
}

fn empty_machine() -> Arc<Machine> {
    Arc::new(empty_machine_value())
}

fn empty_machine_value() -> Machine {
    Machine::this(std::path::Path::new("/nonexistent"))
}

fn task_id(generation: u32) -> TaskId {
    TaskId { job: JobId(1), node: NodeId(Uuid::from_u128(1)), generation }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("nothing takes this long")
}

/// Events until the task ends, acknowledged or not as the test likes.
async fn until_end(
    controller: &mut Controller,
    mut each: impl FnMut(&Controller, u32, &TaskEvent),
) -> TaskEvent {
    loop {
        if let Seen::Message(ToController::Event { event, .. }) = controller.next().await {
            each(controller, event.number, &event.what);
            if matches!(event.what, TaskEvent::Done { .. } | TaskEvent::Failed { .. }) {
                return event.what;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_survives_lost_connections_and_spoiled_chunks() {
    let image = TestImage::ordinary();
    let rig = Rig::new(image.clone());
    // Every chunk comes wrong once, and the connection breaks twice in the middle.
    let behaviour =
        Behaviour { spoil_first: true, break_after: vec![7, 12], ..Behaviour::default() };
    let mut controller = Controller::start(image, behaviour);
    let agent = tokio::spawn(run(config(&controller, rig.machine.clone())));
    let Seen::Hello(hello) = within(controller.next()).await else { panic!("no hello") };
    assert_eq!((hello.boot, hello.task), (BootId(Uuid::from_u128(7)), None));
    let Seen::Message(ToController::Inventory(inventory)) = within(controller.next()).await else {
        panic!("no inventory")
    };
    assert_eq!(inventory.nics.len(), 1);
    let standing = Standing::AwaitingApproval { reason: "approve it".into() };
    controller.tell(ToAgent::Welcome { name: "node1".into(), standing });
    controller.tell(ToAgent::Welcome { name: "node1".into(), standing: Standing::Approved });
    let work = Work::Deploy(Box::new(rig.order(5, Overwrite::BlankOnly)));
    let task = Task { id: task_id(1), work };
    controller.tell(ToAgent::Task(Box::new(task.clone())));

    let (mut events, mut hellos, mut progress) = (Vec::new(), Vec::new(), 0);
    let end = loop {
        match within(controller.next()).await {
            Seen::Hello(hello) => {
                hellos.push(hello.task);
                // What a controller does after a reconnect.
                controller.tell(ToAgent::Task(Box::new(task.clone())));
            }
            Seen::Message(ToController::Event { event, .. }) => {
                let (number, end) = (event.number, event.what.clone());
                events.push(event.number);
                if number % 3 == 0 {
                    controller.tell(ToAgent::Ack { task: task.id, number });
                }
                if matches!(end, TaskEvent::Done { .. } | TaskEvent::Failed { .. }) {
                    break end;
                }
            }
            Seen::Message(ToController::Progress { .. }) => progress += 1,
            Seen::Message(_) => {}
        }
    };
    assert_eq!(end, TaskEvent::Done { reports: true });
    assert_eq!(hellos, [Some(task.id), Some(task.id)], "the task went on");
    let last = *events.last().unwrap();
    assert!((1..=last).all(|number| events.contains(&number)), "{events:?}");
    assert!(events.len() > last as usize, "what was not acknowledged came again: {events:?}");
    assert!(progress > 0);
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
    assert!(rig.is_startable(5));

    controller.tell(ToAgent::Reboot { reason: "to start slot 5".into() });
    let ending = within(agent).await.unwrap().unwrap();
    assert_eq!(ending, Ending::Reboot { reason: "to start slot 5".into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_the_controller_did_not_sign_is_refused() {
    let image = TestImage::ordinary();
    let rig = Rig::new(image.clone());
    let before = rig.whole_hash();
    let behaviour = Behaviour { other_manifest_key: true, ..Behaviour::default() };
    let mut controller = Controller::start(image, behaviour);
    let agent = tokio::spawn(run(config(&controller, rig.machine.clone())));
    let work = Work::Deploy(Box::new(rig.order(5, Overwrite::WholeDisk)));
    controller.tell(ToAgent::Task(Box::new(Task { id: task_id(1), work })));
    let end = within(until_end(&mut controller, |_, _, _| {})).await;
    let TaskEvent::Failed { step: None, cause } = end else { panic!("{end:?}") };
    assert!(cause.contains("not signed by this controller"), "{cause}");
    assert!(before == rig.whole_hash());
    agent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_stops_and_another_one_follows() {
    let image = TestImage::ordinary();
    let rig = Rig::new(image.clone());
    // Frames never come: the task would wait for ever.
    let behaviour = Behaviour { silent: true, ..Behaviour::default() };
    let mut controller = Controller::start(image, behaviour);
    let agent = tokio::spawn(run(config(&controller, rig.machine.clone())));
    let work = Work::Deploy(Box::new(rig.order(5, Overwrite::BlankOnly)));
    controller.tell(ToAgent::Task(Box::new(Task { id: task_id(1), work: work.clone() })));
    let end = within(until_end(&mut controller, |controller, _, event| {
        if *event == (TaskEvent::StepStarted { step: Step::Transfer }) {
            let reason = "the operator".into();
            controller.tell(ToAgent::Cancel { task: task_id(1), reason });
        }
    }));
    let TaskEvent::Failed { step: Some(Step::Transfer), cause } = end.await else { panic!() };
    assert_eq!(cause, "cancelled: the operator");
    controller.tell(ToAgent::Task(Box::new(Task { id: task_id(2), work })));
    let started = async {
        loop {
            if let Seen::Message(ToController::Event { task, event }) = controller.next().await
                && task == task_id(2)
            {
                break event.number;
            }
        }
    };
    assert_eq!(within(started).await, 1);
    controller.tell(ToAgent::Reboot { reason: "enough".into() });
    let TaskEvent::Failed { cause, .. } = within(until_end(&mut controller, |_, _, _| {})).await
    else {
        panic!("the restart stops the task")
    };
    assert_eq!(cause, "cancelled: enough", "and the controller hears of it");
    within(agent).await.unwrap().unwrap();
    assert!(!rig.is_startable(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_is_refused_ends() {
    let image = TestImage::ordinary();
    let refusing = Behaviour { refuse_enrolment: true, ..Behaviour::default() };
    let controller = Controller::start(image.clone(), refusing);
    let ending = within(run(config(&controller, empty_machine()))).await.unwrap();
    assert_eq!(ending, Ending::Refused { reason: "token was used by another key".into() });

    let expired = Behaviour { expired_certificates: true, ..Behaviour::default() };
    let controller = Controller::start(image.clone(), expired);
    let ending = within(run(config(&controller, empty_machine()))).await.unwrap();
    let Ending::Refused { reason } = ending else { panic!("{ending:?}") };
    assert!(reason.contains("refuses our certificate"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_removed_netboots_again() {
    let removed = Behaviour { unwanted: true, ..Behaviour::default() };
    let controller = Controller::start(TestImage::ordinary(), removed);
    let ending = within(run(config(&controller, empty_machine()))).await.unwrap();
    let Ending::Refused { reason } = ending else { panic!("{ending:?}") };
    assert!(reason.contains("does not want"), "{reason}");
    assert_eq!(controller.enrolments(), 1, "one key and one certificate for all sessions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_with_another_ca_learns_nothing() {
    let image = TestImage::ordinary();
    let mut stranger = Controller::start(image.clone(), Behaviour::default());
    let ours = Controller::start(image, Behaviour::default());
    let mut config = config(&stranger, empty_machine());
    config.boot.ca_pem = ours.ca_pem.clone();
    let boot = config.boot.clone();
    let agent = tokio::spawn(run(config));
    let heard = tokio::time::timeout(Duration::from_secs(3), stranger.next()).await;
    assert!(heard.is_err() && stranger.enrolments() == 0);
    assert!(!agent.is_finished(), "it goes on trying");
    agent.abort();

    let connector = Connector::new(&boot).unwrap();
    let error = connector.connect(stranger.address, None).await.unwrap_err();
    let mut strangers = Strangers::default();
    assert!(!strangers.is_enough(&error, STRANGER_LIMIT), "but not for ever: {error:#}");
    assert!(strangers.is_enough(&error, Duration::ZERO), "{error:#}");
    assert!(!strangers.is_enough(&anyhow::anyhow!("no answer"), Duration::ZERO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_approved_does_nothing() {
    let image = TestImage::ordinary();
    let rig = Rig::new(image.clone());
    let before = rig.whole_hash();
    let behaviour = Behaviour { silent_standing: true, ..Behaviour::default() };
    let mut controller = Controller::start(image, behaviour);
    let agent = tokio::spawn(run(config(&controller, rig.machine.clone())));
    let standing = Standing::AwaitingApproval { reason: "approve it".into() };
    controller.tell(ToAgent::Welcome { name: "node1".into(), standing });
    let work = Work::Deploy(Box::new(rig.order(5, Overwrite::WholeDisk)));
    controller.tell(ToAgent::Task(Box::new(Task { id: task_id(1), work })));
    let end = within(until_end(&mut controller, |_, _, _| {})).await;
    let TaskEvent::Failed { step: None, cause } = end else { panic!("{end:?}") };
    assert_eq!(cause, "this node was not told that it is approved");
    assert!(before == rig.whole_hash());
    agent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_golden_machine_takes_no_other_work_is_not_restarted_and_ends_when_it_is_told_to() {
    let image = TestImage::ordinary();
    let rig = Rig::new(image.clone());
    let before = rig.whole_hash();
    let mut controller = Controller::start(image.clone(), Behaviour::default());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut golden = config(&controller, rig.machine.clone());
    golden.role = Role::Golden;
    let agent = tokio::spawn(run_until(golden, async { drop(stopped.await) }));
    let work = Work::Deploy(Box::new(rig.order(5, Overwrite::WholeDisk)));
    controller.tell(ToAgent::Reboot { reason: "the work is done".into() });
    controller.tell(ToAgent::Task(Box::new(Task { id: task_id(1), work })));
    let end = within(until_end(&mut controller, |_, _, _| {})).await;
    let TaskEvent::Failed { step: None, cause } = end else { panic!("{end:?}") };
    assert_eq!(cause, "this machine offers the system that runs on it, and does nothing else");
    assert!(before == rig.whole_hash());
    stop.send(()).unwrap();
    assert_eq!(within(agent).await.unwrap().unwrap(), Ending::Stopped);

    let mut controller = Controller::start(image, Behaviour::default());
    let agent = tokio::spawn(run(config(&controller, rig.machine.clone())));
    controller.tell(ToAgent::Task(Box::new(Task { id: task_id(1), work: Work::Golden })));
    let end = within(until_end(&mut controller, |_, _, _| {})).await;
    let TaskEvent::Failed { step: None, cause } = end else { panic!("{end:?}") };
    assert!(cause.contains("`metalcast-agent golden`"), "{cause}");
    agent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_panics_fails_with_what_it_said() {
    let image = TestImage::ordinary();
    let rig = Rig::new(image.clone());
    let machine = Machine { disks: Box::new(|| panic!("no disks today")), ..empty_machine_value() };
    let mut controller = Controller::start(image, Behaviour::default());
    let agent = tokio::spawn(run(config(&controller, Arc::new(machine))));
    let work = Work::Deploy(Box::new(rig.order(5, Overwrite::BlankOnly)));
    controller.tell(ToAgent::Task(Box::new(Task { id: task_id(1), work })));
    let end = within(until_end(&mut controller, |_, _, _| {})).await;
    let TaskEvent::Failed { cause, .. } = end else { panic!("{end:?}") };
    assert_eq!(cause, "the task's thread panicked: no disks today");
    agent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_taken_only_as_they_were_built() {
    let tools: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let behaviour = Behaviour { tools: tools.clone(), ..Behaviour::default() };
    let controller = Controller::start(TestImage::ordinary(), behaviour);
    let boot = config(&controller, empty_machine()).boot;
    let connector = Connector::new(&boot).unwrap();
    let fingerprint = Fingerprint { macs: vec![boot.mac], ..Fingerprint::default() };
    let enrolled = within(enrol::enrol(&connector, &boot, &fingerprint)).await.unwrap();
    let Ok(identity) = enrolled else { panic!("a refusal") };
    let connection = connector.connect(controller.address, Some(&identity)).await.unwrap();
    let (_links, links) = watch::channel(Some(connection));
    let line = Line::new(links, Arc::default());
    let file = |bytes, hash| PackedFile { what: "tools xfs", bytes, hash };
    let good = file(300_000, Hash::of(&tools));
    assert_eq!(within(line.packed(good)).await.unwrap(), tools);
    let (other, longer) = (file(300_000, Hash::of(b"")), file(300_001, Hash::of(&tools)));
    let (other, longer) =
        within(async { tokio::join!(line.packed(other), line.packed(longer)) }).await;
    let error = other.unwrap_err().to_string();
    assert!(error.starts_with("the controller's is not what the hash says ("), "{error}");
    let error = longer.unwrap_err().to_string();
    assert!(error.starts_with("it has 300000 bytes instead of 300001 ("), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_plugged_in_later_is_in_the_inventory() {
    let disks = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = disks.clone();
    let machine = Machine {
        disks: Box::new(move || Ok(seen.lock().unwrap().clone())),
        ..empty_machine_value()
    };
    let mut controller = Controller::start(TestImage::ordinary(), Behaviour::default());
    let mut config = config(&controller, Arc::new(machine));
    let seen = disks.clone();
    config.inventory =
        Arc::new(move || Inventory { disks: seen.lock().unwrap().clone(), ..inventory() });
    let agent = tokio::spawn(run(config));
    let mut names = Vec::new();
    let messages = async {
        while names.len() < 2 {
            if let Seen::Message(ToController::Inventory(inventory)) = controller.next().await {
                names.push(inventory.disks.first().map_or("none", |disk| &disk.name).to_owned());
                disks.lock().unwrap().push(Disk { name: "nvme0n1".into(), ..Disk::default() });
            }
        }
    };
    within(messages).await;
    assert_eq!(names, ["none", "nvme0n1"]);
    agent.abort();
}
