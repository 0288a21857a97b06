use super::rig::{Agent, Machine, Rig, code};
use crate::service::{
    BootEventKind, Refusal, ScriptAnswer, UploadAnswer,
    view::{CaptureAnswer, CaptureRequest},
};
use metalcast_netboot::table::BootAnswer;
use metalcast_shared::{
    event::{Step, TaskEvent},
    hash::Hash,
    id::{JobId, TaskId},
    to_agent::{Capture, CaptureSource, Work},
};

pub(super) const TO_DISK: BootEventKind =
    BootEventKind::Script { answer: ScriptAnswer::LocalDisk, boot: None };

impl Rig {
    async fn capture_with(
        &self,
        change: impl Fn(&mut CaptureRequest),
    ) -> Result<CaptureAnswer, Refusal> {
        let mut request = CaptureRequest {
            image: "lab/saved".into(),
            node: "node1".into(),
            slot: Some(5),
            ..CaptureRequest::default()
        };
        change(&mut request);
        self.service.capture(&request, "tester").await
    }

    async fn capture(&self) -> JobId {
        self.capture_with(|_| ()).await.unwrap().job.unwrap()
    }

    /// Whether the node's agent may send for the task.
    async fn may_upload(&self, agent: &Agent, task: TaskId) -> bool {
        self.service.may_upload(agent.node, self.key(agent.node).await, task)
    }

    async fn order(&self, agent: &Agent) -> anyhow::Result<UploadAnswer> {
        self.service.upload_order(agent.node, self.key(agent.node).await, agent.id()).await
    }
}

/// The work in hand.
fn order(agent: &mut Agent) -> Capture {
    match agent.take_task().work {
        Work::Capture(order) => *order,
        other => panic!("{other:?}"),
    }
}

/// A node with a system of ours in slot 5, which has reported.
pub(super) async fn with_system(rig: &Rig) -> Machine {
    let mut agent = rig.approved(&Machine::new(1)).await;
    rig.deploy("node1").await.unwrap();
    agent.take_task();
    agent.work().await;
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    rig.report(rig.last_token()).await.unwrap();
    machine
}

#[tokio::test]
async fn a_capture_is_done_once_it_is_saved_and_the_machine_is_on_its_way() {
    let mut rig = Rig::new().await;
    let machine = with_system(&rig).await;
    let dry = rig.capture_with(|request| request.dry_run = true).await.unwrap();
    assert_eq!((dry.job, &*dry.plan.name), (None, "sda5"));
    assert_eq!(dry.plan.present.unwrap().to_string(), super::rig::IMAGE);
    let job = rig.capture().await;
    let mut agent = rig.agent(&machine).await;
    let order = order(&mut agent);
    assert!(matches!(order.source, CaptureSource::Slot { slot: 5, .. }), "{order:?}");
    assert_eq!((order.name.as_str(), order.force, order.raw), ("sda5", false, false));
    assert_eq!(rig.answer(&agent.machine), BootAnswer::RamImage);
    assert!(!rig.may_read(agent.node).await);

    let (task, key) = (agent.id(), rig.key(agent.node).await);
    assert!(rig.may_upload(&agent, task).await);
    assert!(!rig.service.may_upload(agent.node, Hash([99; 32]), task));
    let older = TaskId { generation: task.generation - 1, ..task };
    assert!(!rig.service.may_upload(agent.node, key, older));
    let error = rig.service.upload_order(agent.node, key, older).await.unwrap_err();
    assert!(error.to_string().contains("no such task"), "{error}");
    let UploadAnswer::Send(upload) = rig.order(&agent).await.unwrap() else { panic!("saved") };
    assert_eq!((upload.image.to_string(), upload.disk_bytes), ("lab/saved".into(), 4 << 30));
    for words in ["slot 5", "serial D1", "node1", "lab/debian@1 (which had reported in)"] {
        assert!(upload.provenance.contains(words), "{words}: {}", upload.provenance);
    }

    agent.step(Step::CheckDisk).await;
    let revision = "lab/saved@1".parse().unwrap();
    rig.service.uploaded(agent.node, task, &revision).await.unwrap();
    // What is in the store is not sent once more, whoever forgets.
    rig.restart().await;
    assert_eq!(rig.order(&agent).await.unwrap(), UploadAnswer::Saved(revision.clone()));
    let (machine, node, boot) = (agent.machine, agent.node, agent.boot);
    let mut agent = rig.connect(&machine, node, boot, Some(task)).await;
    agent.take_task();
    agent.repeat(3, TaskEvent::Done { reports: false }).await.unwrap();
    rig.check(job, "work-done").await;
    assert!(!rig.may_upload(&agent, task).await);
    assert_eq!(rig.answer(&machine), BootAnswer::LocalDisk);
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    let task = rig.task(job).await;
    assert_eq!((task.state.as_str(), task.saved), ("done", Some(revision)));
}

#[tokio::test]
async fn a_capture_that_fails_or_is_stopped_changes_nothing_of_the_node() {
    let rig = Rig::new().await;
    let machine = with_system(&rig).await;
    let job = rig.capture().await;
    let mut agent = rig.agent(&machine).await;
    order(&mut agent);
    agent.event(TaskEvent::Done { reports: false }).await;
    let task = rig.task(job).await;
    assert_eq!(task.cause.unwrap(), "the agent says that it is done, but nothing came of it");
    assert_eq!(rig.answer(&agent.machine), BootAnswer::LocalDisk);
    assert!(!rig.may_upload(&agent, agent.id()).await);

    let job = rig.capture().await;
    order(&mut agent);
    agent.step(Step::CheckDisk).await;
    assert_eq!(code(rig.capture_with(|_| ()).await), "node-busy");
    rig.service.cancel(job, crate::service::Run::Real, "tester").await.unwrap();
    assert!(!rig.may_upload(&agent, agent.id()).await, "what is to be stopped is not waited for");
    let id = agent.id();
    let late = rig.service.uploaded(agent.node, id, &"lab/saved@1".parse().unwrap()).await;
    late.unwrap();
    while agent.heard().is_some() {}
    agent.event(TaskEvent::Failed { step: None, cause: "cancelled".into() }).await;
    rig.check(job, "cancelled").await;
    assert_eq!(rig.answer(&agent.machine), BootAnswer::LocalDisk);
}

#[tokio::test]
async fn what_cannot_be_captured_is_refused_with_what_to_say_instead() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let check = async |change: fn(&mut CaptureRequest), expected: &str| {
        let message = match rig.capture_with(change).await {
            Err(Refusal::Invalid(message) | Refusal::NotFound(message)) => message,
            Err(Refusal::Conflict { message, .. }) => message,
            other => panic!("{other:?}"),
        };
        assert!(message.contains(expected), "{message}");
    };
    check(|it| it.image = "lab/saved@3".into(), "not an image name").await;
    check(|it| it.node = "node9".into(), "no node is called node9").await;
    check(|it| it.slot = Some(9), "slots 5 to 7, not 9").await;
    check(|it| it.slot = None, "--slot NUMBER, or --disk SERIAL").await;
    check(|it| it.disk = Some("X".into()), "no disk has serial or WWN X").await;
    check(|it| it.layout = Some("x".into()), "no layout is called x").await;
    check(|it| it.name = Some("../sda".into()), "cannot be the name").await;
    check(|it| it.partitions = vec!["sda1".into()], "not both").await;
    check(|it| (it.slot, it.partitions) = (None, vec!["sda".into()]), "write sda1 or 1").await;
    check(|it| (it.slot, it.partitions) = (None, vec!["1".into(), "sda1".into()]), "twice").await;

    // A disk whose parts nobody of us made.
    let whole = |it: &mut CaptureRequest| {
        (it.slot, it.disk, it.dry_run) = (None, Some("D1".into()), true);
    };
    let plan = rig.capture_with(whole).await.unwrap().plan;
    assert_eq!((plan.source, plan.name.as_str()), (CaptureSource::Disk, "sda"));
    let some = |it: &mut CaptureRequest| {
        whole(it);
        it.partitions = vec!["nvme0n1p12".into(), "sda1".into()];
    };
    let plan = rig.capture_with(some).await.unwrap().plan;
    assert_eq!(plan.source, CaptureSource::Partitions(vec![1, 12]));

    // A deployment that was cut off.
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    agent.take_task();
    agent.step(Step::Clear).await;
    agent.event(TaskEvent::Failed { step: None, cause: "gone".into() }).await;
    rig.check(job, "failed").await;
    check(|_| (), "not completed; it can be saved with --force").await;
    let forced = rig.capture_with(|it| it.force = true).await.unwrap();
    assert!(forced.plan.force);
}
