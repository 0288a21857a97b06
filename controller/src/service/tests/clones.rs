//! Clones: one job, whose source is sent first and removed at the end, however that comes.

use super::{
    captures::TO_DISK,
    rig::{Agent, Machine, Rig, code},
};
use crate::{
    images::clones,
    service::{
        Refusal, Role, Run, UploadAnswer,
        view::{CaptureRequest, CloneAnswer, CloneRequest, JobState, ReportMode, TargetView},
    },
    store::DefaultBoot,
};
use metalcast_netboot::table::BootAnswer;
use metalcast_shared::{
    event::{Step, TaskEvent},
    fresh::FreshKind,
    id::{JobId, Revision},
    to_agent::{Task, ToAgent, Work},
};
use std::sync::atomic::Ordering;

impl Rig {
    async fn clone_with(&self, change: impl Fn(&mut CloneRequest)) -> Result<CloneAnswer, Refusal> {
        let mut request = CloneRequest {
            from: "node1".into(),
            nodes: vec!["node2".into()],
            slot: 5,
            report: ReportMode::None,
            ..CloneRequest::default()
        };
        change(&mut request);
        self.service.clone_system(&request, "tester").await
    }

    async fn clone_job(&self) -> JobId {
        self.clone_with(|_| ()).await.unwrap().job.unwrap()
    }

    /// The states of a job's tasks, and the causes that there are.
    async fn states(&self, job: JobId) -> (JobState, Vec<String>) {
        let job = self.job(job).await;
        let state = |task: &crate::service::view::TaskView| match &task.cause {
            Some(cause) => format!("{}: {cause}", task.state),
            None => task.state.clone(),
        };
        (job.summary.state, job.tasks.iter().map(state).collect())
    }

    fn kept(&self) -> Vec<String> {
        self.catalog.clones.lock().unwrap().iter().map(ToString::to_string).collect()
    }

    /// What the store does when all of it has come.
    async fn save(&self, agent: &Agent) -> Revision {
        let key = self.key(agent.node).await;
        let order = self.service.upload_order(agent.node, key, agent.id()).await.unwrap();
        let UploadAnswer::Send(order) = order else { panic!("saved") };
        let revision = Revision { image: order.image, number: 1 };
        self.catalog.clones.lock().unwrap().insert(revision.clone());
        self.catalog.index.lock().unwrap().kernels.push("vmlinuz-6.1".into());
        self.service.uploaded(agent.node, agent.id(), &revision).await.unwrap();
        revision
    }
}

/// node1, which runs its own system, and node2, which waits for work.
async fn pair(rig: &Rig) -> (Agent, Agent) {
    let golden = rig.golden(&Machine::new(1), "node1").await;
    let agent = rig.agent(&Machine::new(2)).await;
    rig.service.approve("node2", "tester").await.unwrap();
    (golden, agent)
}

fn no_task(agent: &mut Agent) {
    while let Some(heard) = agent.heard() {
        assert!(!matches!(heard, ToAgent::Task(_)), "{heard:?}");
    }
}

#[tokio::test]
async fn a_running_system_is_sent_deployed_and_removed() {
    let rig = Rig::new().await;
    let (mut golden, mut agent) = pair(&rig).await;
    let shown = rig.service.node("node1").await.unwrap();
    assert!(shown.golden && shown.online, "{shown:?}");
    assert_eq!(shown.next_boot, DefaultBoot::LocalDisk, "it keeps its system");
    let dry =
        rig.clone_with(|request| (request.dry_run, request.fs) = (true, Some(FreshKind::Xfs)));
    let dry = dry.await.unwrap();
    assert!(dry.job.is_none() && dry.golden && dry.from == "node1", "{dry:?}");
    let TargetView::Slot { fresh: Some(fresh), slot: 5, .. } = dry.plan.target else { panic!() };
    assert_eq!(fresh.kind, FreshKind::Xfs);

    let job = rig.clone_job().await;
    assert_eq!(golden.take_task().work, Work::Golden);
    no_task(&mut agent);
    let view = rig.job(job).await;
    assert_eq!(view.summary.spec.to_string(), "clone node1 to slot 5");
    let waits = view.tasks[1].waits_for.as_ref().unwrap();
    assert!(waits.contains("the system of node1: nothing is written before"), "{waits}");
    assert!(view.tasks[1].deadline_unix_ms.is_some());
    assert_eq!(rig.answer(&golden.machine), BootAnswer::LocalDisk);
    assert_eq!(rig.answer(&agent.machine), BootAnswer::RamImage);

    golden.step(Step::Survey).await;
    golden.event(TaskEvent::StepStarted { step: Step::Capture }).await;
    let revision = rig.save(&golden).await;
    assert_eq!(revision.to_string(), format!("metalcast-clone/job-{job}@1"));
    no_task(&mut agent);
    golden.event(TaskEvent::Done { reports: false }).await;
    while let Some(heard) = golden.heard() {
        assert!(!matches!(heard, ToAgent::Reboot { .. }), "it goes on");
    }
    let Task { work: Work::Deploy(deploy), .. } = agent.take_task() else { panic!() };
    assert_eq!((&deploy.image, deploy.partition.as_str()), (&revision, "system"));
    let key = rig.key(agent.node).await;
    assert!(rig.service.may_read(agent.node, key, &revision));
    assert!(!rig.service.may_read(golden.node, rig.key(golden.node).await, &revision));
    agent.work().await;
    assert_eq!(rig.states(job).await.1, ["done", "work-done"]);
    assert_eq!(rig.kept().len(), 1);
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    rig.service.tick().await.unwrap();
    let ended = (JobState::Done, vec!["done".to_owned(), "done (unconfirmed)".to_owned()]);
    assert_eq!(rig.states(job).await, ended);
    assert!(rig.kept().is_empty(), "no image is kept");
    let slots = rig.service.node("node2").await.unwrap().slots;
    assert_eq!(slots[0].image, revision, "it says of which job it is");
}

#[tokio::test]
async fn a_source_that_fails_fails_all_others_and_writes_nothing() {
    let mut rig = Rig::new().await;
    let (mut golden, mut agent) = pair(&rig).await;
    let failed = |cause: &str| {
        (
            JobState::Failed,
            vec![format!("failed: {cause}"), format!("failed: the source failed: {cause}")],
        )
    };
    // By its own word.
    let job = rig.clone_job().await;
    golden.take_task();
    golden.event(TaskEvent::StepStarted { step: Step::Capture }).await;
    let cause = "/etc/x: reading 5 bytes".to_owned();
    golden.event(TaskEvent::Failed { step: Some(Step::Capture), cause }).await;
    assert_eq!(rig.states(job).await, failed("capture: /etc/x: reading 5 bytes"));

    // By the end of its connection.
    let job = rig.clone_job().await;
    golden.take_task();
    golden.event(TaskEvent::StepStarted { step: Step::Capture }).await;
    let (node, boot, id) = (golden.node, golden.boot, golden.id());
    let machine = golden.vanish().await;
    let (state, states) = rig.states(job).await;
    assert_eq!(state, JobState::Failed);
    assert!(
        states[0].contains("(time-out), and a running system cannot be read a second"),
        "{states:?}"
    );
    assert!(states[1].starts_with("failed: the source failed: its system was being"), "{states:?}");

    // By the end of the controller.
    let mut golden = rig.connect_as(Role::Golden, &machine, node, (boot, Some(id))).await;
    while golden.heard().is_some() {}
    let job = rig.clone_job().await;
    golden.take_task();
    golden.event(TaskEvent::StepStarted { step: Step::Capture }).await;
    rig.catalog.clones.lock().unwrap().insert("metalcast-clone/job-99@1".parse().unwrap());
    rig.restart().await;
    let (_, states) = rig.states(job).await;
    assert!(states[1].contains("the source failed: its system was being sent"), "{states:?}");
    assert!(states[1].contains("the controller was stopped"), "{states:?}");
    assert!(rig.kept().is_empty(), "what no job needs is removed");
    no_task(&mut agent);
}

#[tokio::test]
async fn what_came_is_removed_when_the_job_is_cancelled_or_has_no_room() {
    let rig = Rig::new().await;
    let (mut golden, mut agent) = pair(&rig).await;
    let job = rig.clone_job().await;
    golden.take_task();
    golden.event(TaskEvent::StepStarted { step: Step::Capture }).await;
    rig.save(&golden).await;
    rig.service.cancel(job, Run::Real, "tester").await.unwrap();
    let (_, states) = rig.states(job).await;
    assert_eq!(states, ["cancelling: cancelled by tester", "cancelled: cancelled by tester"]);
    golden.event(TaskEvent::Failed { step: None, cause: "cancelled".into() }).await;
    assert_eq!(rig.states(job).await.0, JobState::Cancelled);
    assert!(rig.kept().is_empty());

    rig.catalog.clone_bytes.store(600 << 20, Ordering::Relaxed);
    let job = rig.clone_job().await;
    golden.take_task();
    rig.save(&golden).await;
    golden.event(TaskEvent::Done { reports: false }).await;
    let (state, states) = rig.states(job).await;
    assert_eq!(state, JobState::Failed, "that it could be read is no end of its own");
    assert!(states[1].contains("needs 629145600 bytes, a slot of layout lab has"), "{states:?}");
    assert!(rig.kept().is_empty());
    no_task(&mut agent);
}

/// The controller fails between the end of the source and what follows from it.
#[tokio::test]
async fn the_others_go_on_after_a_restart() {
    let mut rig = Rig::new().await;
    let (mut golden, mut agent) = pair(&rig).await;
    let job = rig.clone_job().await;
    golden.take_task();
    golden.event(TaskEvent::StepStarted { step: Step::Capture }).await;
    let revision = rig.save(&golden).await;
    no_task(&mut agent);
    let (machine, node, boot) = (agent.machine.clone(), agent.node, agent.boot);
    // What is in the store is complete, whatever became of who sent it.
    golden.vanish().await;
    assert_eq!(rig.states(job).await.1, ["done", "handed-out"]);
    rig.restart().await;
    assert_eq!(rig.kept(), [revision.to_string()], "it is still needed");
    let mut agent = rig.connect(&machine, node, boot, None).await;
    agent.take_task();
    rig.service.cancel(job, Run::Real, "tester").await.unwrap();
    rig.pass_minutes(10);
    rig.service.tick().await.unwrap();
    assert!(rig.kept().is_empty());
}

#[tokio::test]
async fn a_golden_machine_gets_no_other_work_and_no_other_machine_gets_its() {
    let rig = Rig::new().await;
    let (mut golden, agent) = pair(&rig).await;
    assert_eq!(code(rig.deploy("node1").await), "node-is-golden");
    assert_eq!(
        code(
            rig.clone_with(|it| (it.from, it.nodes) = ("node2".into(), vec!["node1".into()])).await
        ),
        "node-is-golden"
    );
    let message =
        rig.clone_with(|it| it.nodes = vec!["node1".into()]).await.unwrap_err().to_string();
    assert!(message.contains("node1 cannot be cloned to itself"), "{message}");

    // Ordered while nobody offers anything: the machine that netboots is not asked for it.
    let job =
        rig.clone_with(|it| (it.from, it.nodes) = ("node2".into(), vec!["node3".into()])).await;
    assert!(matches!(job, Err(Refusal::NotFound(_))));
    let machine = golden.machine.clone();
    no_task(&mut golden);
    golden.vanish().await;
    let job = rig.clone_job().await;
    let waits = rig.job(job).await.tasks.remove(0).waits_for.unwrap();
    assert!(waits.contains("run `metalcast-agent golden` on it"), "{waits}");
    rig.pass_minutes(31);
    rig.service.tick().await.unwrap();
    let (_, states) = rig.states(job).await;
    assert!(states[0].contains("did not offer itself in time"), "{states:?}");
    assert!(states[1].contains("the source failed: the system on it did not offer"), "{states:?}");
    drop(agent);

    // A deployment that waits is not given to a machine that runs its own system.
    rig.deploy("node1").await.unwrap();
    let mut golden = rig.golden(&machine, "node1").await;
    no_task(&mut golden);
    assert!(golden.task.is_none());
}

#[tokio::test]
async fn a_known_node_that_offers_its_system_is_approved_anew() {
    let rig = Rig::new().await;
    let machine = super::captures::with_system(&rig).await;
    let token = metalcast_shared::boot::EnrolmentToken {
        boot: metalcast_shared::id::BootId(uuid::Uuid::now_v7()),
        mac: machine.mac,
        expires_unix: i64::MAX,
        golden: true,
    };
    let fingerprint = (&machine.inventory()).into();
    rig.service.enrol(token, metalcast_shared::hash::Hash([9; 32]), fingerprint).await.unwrap();
    let node = rig.service.node("node1").await.unwrap();
    assert_eq!(node.state, "identity-changed");
    assert!(node.reason.unwrap().contains("offers it to be cloned"));
    assert_eq!(rig.answer(&machine), BootAnswer::LocalDisk, "it starts what it started before");
}

#[tokio::test]
async fn the_project_of_clones_is_nobody_elses() {
    let rig = Rig::new().await;
    let _pair = pair(&rig).await;
    let image = format!("{}/job-1", clones::PROJECT);
    let check = |answer: Result<(), Refusal>| {
        let refusal = answer.unwrap_err().to_string();
        assert!(refusal.contains("come and go with the jobs"), "{refusal}");
    };
    check(rig.deploy_with("node2", |request| request.image.clone_from(&image)).await.map(drop));
    let request = CaptureRequest {
        image: image.clone(),
        node: "node2".into(),
        slot: Some(5),
        ..CaptureRequest::default()
    };
    check(rig.service.capture(&request, "tester").await.map(drop));
    let revision = format!("{image}@1").parse().unwrap();
    check(rig.service.remove_image(&revision, Run::Real, "tester").await);
}
