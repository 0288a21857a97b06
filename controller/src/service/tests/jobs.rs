use super::rig::{Machine, Rig, code};
use crate::{
    jobs::{plan::SlotStage, task::MAX_GENERATION},
    service::{
        AGENT_QUEUE, BootEventKind, Refusal, ReportRefusal, Run, ScriptAnswer,
        view::{GrowRequest, JobState, ReportMode},
    },
};
use metalcast_netboot::table::BootAnswer;
use metalcast_shared::{
    event::{Progress, Step, StepState, TaskEvent},
    fix_up::{Adaptation, FixUpStep},
    to_agent::{Overwrite, ToAgent, Work},
    to_controller::{LogLevel, ToController},
};
use std::time::Duration;

const TO_DISK: BootEventKind =
    BootEventKind::Script { answer: ScriptAnswer::LocalDisk, boot: None };

/// A controller that was away for a day finds its jobs as they were.
#[tokio::test]
async fn a_long_absence_of_the_controller_fails_no_job() {
    let mut rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    agent.take_task();
    agent.work().await;
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    rig.pass_minutes(24 * 60);
    rig.restart().await;
    rig.service.tick().await.unwrap();
    rig.check(job, "awaiting-report").await;
    rig.report(rig.last_token()).await.unwrap();
    rig.check(job, "done").await;
}

/// A system that repeats itself, because it did not hear our answer, is answered alike; another one
/// with its token is not.
async fn check_used(rig: &Rig) {
    rig.report(rig.last_token()).await.unwrap();
    let other = rig.report_as("4567", rig.last_token()).await;
    assert!(matches!(other, Err(ReportRefusal::Used)), "{other:?}");
}

#[tokio::test]
async fn a_deployment_from_the_plan_to_the_systems_report() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let dry = rig.deploy_with("node1", |request| request.dry_run = true).await.unwrap();
    assert_eq!(dry.job, None);
    let plan = &dry.plan.nodes[0];
    assert_eq!((plan.write_bytes, plan.wire_bytes), (10_000 * 4096, 5_000_000));
    assert!(agent.heard().is_none(), "a dry run hands nothing out");

    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    let task = agent.take_task();
    let Work::Deploy(deploy) = &task.work else { panic!("{task:?}") };
    assert_eq!((deploy.slot, deploy.overwrite), (5, Overwrite::BlankOnly));
    assert_eq!(deploy.fix_up.hostname, "node1");
    let report = deploy.fix_up.report.as_ref().unwrap();
    assert_eq!(
        (report.url.as_str(), report.token.as_str()),
        ("http://127.0.0.1:80/report", "sealed-1")
    );
    rig.check(job, "handed-out").await;
    assert!(rig.may_read(agent.node).await);
    assert_eq!(rig.answer(&agent.machine), BootAnswer::RamImage);

    agent.work().await;
    rig.check(job, "work-done").await;
    assert!(!rig.may_read(agent.node).await);
    assert_eq!(rig.answer(&agent.machine), BootAnswer::LocalDisk);
    let machine = agent.vanish().await;
    rig.check(job, "rebooting").await;
    rig.boot_event(&machine, TO_DISK).await;
    rig.check(job, "awaiting-report").await;
    rig.report(rig.last_token()).await.unwrap();

    let view = rig.job(job).await;
    assert_eq!(view.summary.state, JobState::Done);
    let task = &view.tasks[0];
    assert_eq!((task.state.as_str(), task.steps.len()), ("done", 11));
    assert!(task.steps.iter().all(|step| step.state == StepState::Done(5)));
    let whats: Vec<&str> = task.timeline.iter().map(|moment| moment.what.as_str()).collect();
    let mut rest = whats.iter();
    for expected in [
        "dhcp-ack",
        "script",
        "agent:mounts",
        "agent:dhcp",
        "registered",
        "state",
        "step-started",
        "step-done",
        "work-done",
        "reboot-ordered",
        "script",
        "reported",
    ] {
        assert!(rest.any(|what| *what == expected), "{expected} is missing in {whats:?}");
    }
    let node = rig.service.node("node1").await.unwrap();
    assert_eq!(node.slots[0].stage, SlotStage::Confirmed);
    check_used(&rig).await;
}

#[tokio::test]
async fn what_an_operator_says_of_the_adaptation_reaches_the_agent() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let adaptation = Adaptation {
        without: vec![FixUpStep::Hostname],
        authorized_keys: vec!["ssh-ed25519 AAAAC3Nz me".parse().unwrap()],
        kernel_args: vec!["quiet".parse().unwrap()],
        post_install: None,
    };
    for step in [FixUpStep::AuthorizedKeys, FixUpStep::BootConfig] {
        let refused = rig.deploy_with("node1", |request| {
            request.adaptation = Adaptation { without: vec![step], ..adaptation.clone() };
        });
        let Err(Refusal::Invalid(message)) = refused.await else { panic!("{step} is taken") };
        assert!(message.contains(step.name()), "{message}");
    }
    let order = rig.deploy_with("node1", |request| request.adaptation = adaptation.clone());
    assert_eq!(order.await.unwrap().plan.adaptation, adaptation, "the plan shows it");
    let Work::Deploy(deploy) = agent.take_task().work else { panic!() };
    assert_eq!(deploy.fix_up.adaptation, adaptation);
}

#[tokio::test]
async fn a_filesystem_grows_to_its_slot_only_where_that_is_asked_for() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let named = rig.deploy_with("node1", |request| {
        request.grow = Some(GrowRequest { partition: Some(5) });
    });
    let Err(Refusal::Invalid(message)) = named.await else { panic!() };
    assert!(message.contains("for a slot --grow alone will do"), "{message}");
    let order = rig.deploy_with("node1", |request| request.grow = Some(GrowRequest::default()));
    let plan = order.await.unwrap().plan;
    let grow = plan.nodes[0].grow.first().unwrap();
    assert_eq!((grow.number, grow.filesystem_grows), (5, true));
    assert!(grow.from_bytes < grow.to_bytes, "{grow:?}");
    let task = agent.take_task();
    assert!(task.work.steps().contains(&Step::Grow));
    let Work::Deploy(deploy) = task.work else { panic!() };
    assert!(deploy.grow);
}

#[tokio::test]
async fn without_a_report_the_deployment_ends_unconfirmed() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let answer = rig.deploy_with("node1", |request| request.report = ReportMode::None).await;
    let job = answer.unwrap().job.unwrap();
    let Work::Deploy(deploy) = agent.take_task().work else { panic!() };
    assert_eq!(deploy.fix_up.report, None);
    agent.work().await;
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    rig.check(job, "done (unconfirmed)").await;
    assert_eq!(rig.job(job).await.summary.state, JobState::Done);

    // The other slot has nothing of ours; this one can be started through the agent.
    assert_eq!(code(rig.boot_slot("node1", 6).await), "disk-will-not-do");
    let boot = rig.boot_slot("node1", 5).await.unwrap();
    assert_eq!(rig.answer(&machine), BootAnswer::RamImage);
    let mut agent = rig.agent(&machine).await;
    assert!(matches!(agent.take_task().work, Work::SelectSlot(_)));
    agent.work().await;
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    rig.check(boot, "done (unconfirmed)").await;
}

#[tokio::test]
async fn after_a_power_cut_the_task_is_handed_out_again() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    agent.take_task();
    agent.step(Step::CheckDisk).await;
    agent.event(TaskEvent::StepStarted { step: Step::Partition }).await;
    let first = rig.last_token();
    let machine = agent.vanish().await;
    assert_eq!(rig.answer(&machine), BootAnswer::RamImage, "its disk is half written");
    let mut agent = rig.agent(&machine).await;
    let task = agent.take_task();
    assert_eq!(task.id.generation, 2);
    let Work::Deploy(deploy) = task.work else { panic!() };
    assert_eq!(deploy.overwrite, Overwrite::WholeDisk, "the disk was blank when we began");
    agent.work().await;
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    assert!(matches!(rig.report(first).await, Err(ReportRefusal::Superseded)));
    rig.report(rig.last_token()).await.unwrap();
    let task = rig.task(job).await;
    assert_eq!((task.state.as_str(), task.generation), ("done", 2));
    assert_eq!(task.steps.len(), 11, "only the last hand-out's steps");
}

#[tokio::test]
async fn a_node_that_resets_for_ever_fails_with_a_cause() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    for generation in 1..=MAX_GENERATION {
        assert_eq!(agent.take_task().id.generation, generation);
        let machine = agent.vanish().await;
        agent = rig.agent(&machine).await;
    }
    let task = rig.task(job).await;
    assert_eq!(task.state, "failed");
    assert!(task.cause.unwrap().contains("restarts in the middle"));
    assert!(agent.heard().is_none());
}

#[tokio::test]
async fn an_agent_that_reconnects_goes_on() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    agent.take_task();
    agent.step(Step::CheckDisk).await;
    let id = agent.id();
    let mut again = rig.connect(&agent.machine, agent.node, agent.boot, Some(id)).await;
    assert!(agent.is_cut_off(), "the older session ends");
    assert_eq!(again.take_task().id, id);
    // What was said already is acknowledged, not kept twice.
    let step = Step::CheckDisk;
    again.repeat(1, TaskEvent::StepStarted { step }).await.unwrap();
    assert_eq!(again.heard(), Some(ToAgent::Ack { task: id, number: 2 }));
    again.repeat(2, TaskEvent::StepDone { step, millis: 5 }).await.unwrap();
    again.repeat(3, TaskEvent::StepStarted { step: Step::Partition }).await.unwrap();
    assert!(again.repeat(5, TaskEvent::Done { reports: true }).await.is_err(), "4 is missing");
    assert_eq!(rig.task(job).await.steps.len(), 2);
    let events = rig.service.job_events(job, 0, Duration::ZERO).await.unwrap();
    let agents = events.iter().filter(|e| matches!(e.what, crate::store::Noted::Agent(_)));
    assert_eq!(agents.count(), 3);
}

/// A crash of the controller in each state of a task: the store knows where things stand.
#[tokio::test]
async fn the_controller_may_restart_in_every_state() {
    let mut rig = Rig::new().await;
    let agent = rig.approved(&Machine::new(1)).await;
    let machine = agent.vanish().await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    rig.restart().await;
    rig.check(job, "waiting").await;
    assert_eq!(rig.answer(&machine), BootAnswer::RamImage);

    let mut agent = rig.agent(&machine).await;
    let id = agent.take_task().id;
    rig.restart().await;
    rig.check(job, "handed-out").await;
    let mut again = rig.connect(&machine, agent.node, agent.boot, Some(id)).await;
    assert_eq!(again.take_task().id, id);
    again.step(Step::CheckDisk).await;
    rig.restart().await;
    rig.check(job, "running").await;
    assert!(rig.may_read(again.node).await);
    let mut agent = rig.connect(&machine, again.node, again.boot, Some(id)).await;
    agent.take_task();
    // Its first two events were kept by the controller before the crash.
    agent.repeat(2, TaskEvent::StepDone { step: Step::CheckDisk, millis: 5 }).await.unwrap();
    agent.repeat(3, TaskEvent::Done { reports: true }).await.unwrap();
    rig.check(job, "work-done").await;
    assert_eq!(rig.answer(&machine), BootAnswer::LocalDisk);

    rig.restart().await;
    rig.check(job, "work-done").await;
    assert_eq!(rig.answer(&machine), BootAnswer::LocalDisk);
    let mut agent = rig.connect(&machine, agent.node, agent.boot, Some(id)).await;
    assert!(std::iter::from_fn(|| agent.heard()).any(|m| matches!(m, ToAgent::Reboot { .. })));
    agent.vanish().await;
    rig.restart().await;
    rig.check(job, "rebooting").await;
    rig.boot_event(&machine, TO_DISK).await;
    rig.restart().await;
    rig.check(job, "awaiting-report").await;
    rig.report(rig.last_token()).await.unwrap();
    rig.restart().await;
    rig.check(job, "done").await;
    assert_eq!(rig.answer(&machine), BootAnswer::LocalDisk);
    check_used(&rig).await;
    // Numbers go on where they were.
    let next = rig.deploy("node1").await.unwrap().job.unwrap();
    assert_eq!(next.0, job.0 + 1);
}

/// The slots that were there before the disk got another table are not there any more.
#[tokio::test]
async fn a_new_layout_makes_the_old_slots_forgotten() {
    let other = "[[layouts]]\nname = \"other\"\nboot_mib = 64\nswap_mib = 64\nreserve_mib = 0\n\
                 slots = 2\nslot_mib = 600\n[[layouts]]";
    let rig = Rig::with(|config| config.replace("[[layouts]]", other)).await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let end = async |agent: super::rig::Agent| {
        let machine = agent.vanish().await;
        rig.boot_event(&machine, TO_DISK).await;
        rig.report(rig.last_token()).await.unwrap();
        machine
    };
    rig.deploy("node1").await.unwrap();
    agent.take_task();
    agent.work().await;
    let machine = end(agent).await;
    let replace = |request: &mut crate::service::view::DeployRequest| {
        request.layout = Some("other".into());
        request.slot = Some(6);
        request.yes = true;
    };
    rig.deploy_with("node1", replace).await.unwrap();
    let mut agent = rig.agent(&machine).await;
    agent.take_task();
    agent.step(Step::CheckDisk).await;
    assert_eq!(rig.service.node("node1").await.unwrap().slots.len(), 1);
    agent.event(TaskEvent::StepStarted { step: Step::Partition }).await;
    assert_eq!(rig.service.node("node1").await.unwrap().slots, []);
}

#[tokio::test]
async fn an_image_that_a_job_needs_stays_and_one_that_is_removed_is_gone() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let image = super::rig::IMAGE.parse().unwrap();
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    assert_eq!(code(rig.service.remove_image(&image, Run::Real, "tester").await), "image-in-use");
    agent.take_task();
    agent.event(TaskEvent::Failed { step: None, cause: "x".into() }).await;
    rig.check(job, "failed").await;
    rig.service.remove_image(&image, Run::Real, "tester").await.unwrap();
    let again = rig.service.remove_image(&image, Run::Real, "tester").await;
    assert!(matches!(again, Err(Refusal::NotFound(_))), "{again:?}");
    // Though it was handed out a moment ago.
    let refused = rig.deploy_with("node1", |request| request.image = image.to_string()).await;
    assert!(matches!(refused, Err(Refusal::NotFound(_))), "{refused:?}");
}

#[tokio::test]
async fn a_second_job_for_a_busy_node_is_refused() {
    let rig = Rig::new().await;
    let agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    let refused = rig.deploy("node1").await.unwrap_err();
    assert!(refused.to_string().contains(&format!("busy with job {job}")), "{refused}");
    assert_eq!(code(rig.service.forget_node("node1", Run::Real, "tester").await), "node-busy");
    assert_eq!(code(rig.boot_slot("node1", 5).await), "node-busy");
    drop(agent);
}

#[tokio::test]
async fn data_that_is_not_ours_needs_a_yes() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1).with_data()).await;
    match rig.deploy("node1").await {
        Err(Refusal::NeedsYes { plan }) => {
            assert!(plan.nodes[0].lost[0].contains("Windows"), "{plan:?}");
        }
        other => panic!("{other:?}"),
    }
    let dry = rig.deploy_with("node1", |request| request.dry_run = true).await.unwrap();
    assert!(dry.plan.nodes[0].needs_yes);
    rig.deploy_with("node1", |request| request.yes = true).await.unwrap();
    let Work::Deploy(deploy) = agent.take_task().work else { panic!() };
    assert_eq!(deploy.overwrite, Overwrite::WholeDisk);
}

#[tokio::test]
async fn a_failed_step_is_the_tasks_cause_and_keeps_the_node_in_the_agent() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    agent.take_task();
    agent.say(ToController::Log { level: LogLevel::Warn, text: "slow".into() }).await.unwrap();
    agent.event(TaskEvent::StepStarted { step: Step::Verify }).await;
    let cause = "block 7 reads back wrong".to_owned();
    agent.event(TaskEvent::Failed { step: Some(Step::Verify), cause }).await;
    let task = rig.task(job).await;
    assert_eq!(task.cause.as_deref(), Some("verify: block 7 reads back wrong"));
    assert_eq!(rig.job(job).await.summary.state, JobState::Failed);
    assert_eq!(rig.answer(&agent.machine), BootAnswer::RamImage);
    assert_eq!(rig.service.job_logs(job).await.unwrap()[0].line, "slow");
    // The same agent can be given the next job.
    rig.deploy("node1").await.unwrap();
    assert_eq!(agent.take_task().id.job.0, job.0 + 1);
}

#[tokio::test]
async fn deadlines_end_what_waits() {
    let rig = Rig::new().await;
    let agent = rig.approved(&Machine::new(1)).await;
    let machine = agent.vanish().await;
    let fails = async |job, part: &str| {
        rig.service.tick().await.unwrap();
        let task = rig.task(job).await;
        assert_eq!(task.state, "failed", "{task:?}");
        assert!(task.cause.as_deref().unwrap().contains(part), "{task:?}");
    };
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    rig.pass_minutes(29);
    rig.service.tick().await.unwrap();
    rig.check(job, "waiting").await;
    rig.pass_minutes(2);
    fails(job, "did not netboot within 30 min").await;

    let job = rig
        .deploy_with("node1", |request| request.timeout_seconds = Some(90))
        .await
        .unwrap()
        .job
        .unwrap();
    let mut agent = rig.agent(&machine).await;
    agent.take_task();
    agent.step(Step::CheckDisk).await;
    let machine = agent.vanish().await;
    rig.pass_minutes(2);
    fails(job, "fell silent").await;
    assert_eq!(rig.answer(&machine), BootAnswer::RamImage);

    let mut agent = rig.agent(&machine).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    agent.take_task();
    agent.work().await;
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    rig.pass_minutes(11);
    fails(job, "did not report within 10 min").await;
    assert_eq!(rig.answer(&machine), BootAnswer::RamImage, "where it can be helped");
    // Late, but it did come up: the slot is confirmed, the job stays what it was.
    rig.report(rig.last_token()).await.unwrap();
    rig.check(job, "failed").await;
    assert_eq!(rig.answer(&machine), BootAnswer::LocalDisk);
    assert_eq!(rig.service.node("node1").await.unwrap().slots[0].stage, SlotStage::Confirmed);
    check_used(&rig).await;
}

#[tokio::test]
async fn a_silent_agent_is_shown() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    agent.take_task();
    agent.step(Step::CheckDisk).await;
    assert_eq!(rig.task(job).await.waits_for, None);
    rig.pass_minutes(3);
    let task = rig.task(job).await;
    assert!(task.waits_for.as_deref().unwrap().contains("silent since 180 s"), "{task:?}");
    assert!(task.silent_since_unix_ms.is_some());
}

#[tokio::test]
async fn a_cancelled_job_stops_at_the_agents_safe_point() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    agent.take_task();
    rig.service.cancel(job, Run::Real, "tester").await.unwrap();
    rig.check(job, "cancelling").await;
    let cancel = agent.heard();
    assert!(matches!(cancel, Some(ToAgent::Cancel { .. })), "{cancel:?}");
    agent.event(TaskEvent::Failed { step: None, cause: "cancelled".into() }).await;
    let task = rig.task(job).await;
    assert_eq!(task.cause.as_deref(), Some("cancelled by tester"));
    assert_eq!(rig.job(job).await.summary.state, JobState::Cancelled);
    assert_eq!(code(rig.service.cancel(job, Run::Real, "tester").await), "job-ended");
    // An agent that still holds a task of ours that has ended is told to drop it.
    let id = agent.id();
    let mut again = rig.connect(&agent.machine, agent.node, agent.boot, Some(id)).await;
    assert!(std::iter::from_fn(|| again.heard()).any(|m| matches!(m, ToAgent::Cancel { .. })));
}

/// One that enrolled under the node's name while its agent was away must not move its task.
#[tokio::test]
async fn a_doubted_node_neither_gets_nor_moves_its_task() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    agent.take_task();
    agent.step(Step::CheckDisk).await;
    let task = agent.task.clone();
    let mut machine = agent.vanish().await;
    machine.serial = "someone else".into();
    let mut other = rig.agent(&machine).await;
    assert!(other.heard().is_none(), "no task");
    assert!(!rig.may_read(other.node).await);
    other.task = task;
    assert!(other.repeat(3, TaskEvent::Done { reports: true }).await.is_err());
    rig.check(job, "running").await;
}

#[tokio::test]
async fn a_job_over_several_nodes_may_end_partly_well() {
    let rig = Rig::with(|config| config.replace("[nodes]", "[nodes]\napprove = \"auto\"")).await;
    let mut first = rig.agent(&Machine::new(1)).await;
    let mut second = rig.agent(&Machine::new(2)).await;
    let both = |request: &mut crate::service::view::DeployRequest| {
        request.nodes = vec!["node1".into(), "node2".into(), "node1".into()];
        request.report = ReportMode::None;
    };
    let job = rig.deploy_with("", both).await.unwrap().job.unwrap();
    first.take_task();
    first.event(TaskEvent::Failed { step: None, cause: "no such disk".into() }).await;
    second.take_task();
    second.work().await;
    assert_eq!(rig.job(job).await.summary.state, JobState::Running);
    rig.boot_event(&second.machine, TO_DISK).await;
    assert!(second.is_cut_off(), "its machine restarted");
    let view = rig.job(job).await;
    assert_eq!(view.summary.state, JobState::Partial);
    let states: Vec<&str> = view.tasks.iter().map(|task| task.state.as_str()).collect();
    assert_eq!(states, ["failed", "done (unconfirmed)"]);
    let refused = rig.deploy_with("", |request| {
        both(request);
        request.hostname = Some("one".into());
    });
    assert!(matches!(refused.await, Err(Refusal::Invalid(_))));
}

#[tokio::test]
async fn progress_is_shown_with_its_rate() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    let task = agent.take_task().id;
    agent.event(TaskEvent::StepStarted { step: Step::Transfer }).await;
    for done_bytes in [0, 10_000_000, 20_000_000] {
        let progress = Progress {
            step: Step::Transfer,
            done_bytes,
            total_bytes: 40_960_000,
            wire_bytes: done_bytes / 4,
        };
        agent.say(ToController::Progress { task, progress }).await.unwrap();
        rig.now.fetch_add(2000, std::sync::atomic::Ordering::Relaxed);
    }
    let progress = rig.task(job).await.progress.unwrap();
    assert_eq!(progress.progress.done_bytes, 20_000_000);
    let rate = progress.bytes_per_second;
    assert!((4_900_000..=5_000_000).contains(&rate), "{rate}");
}

#[tokio::test]
async fn an_agent_that_does_not_read_is_cut_off() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    rig.deploy("node1").await.unwrap();
    agent.take_task();
    let step = Step::CheckDisk;
    for _ in 0..=AGENT_QUEUE {
        // The same event again: each is answered.
        let _ = agent.repeat(1, TaskEvent::StepStarted { step }).await;
    }
    assert!(agent.is_cut_off());
}

#[tokio::test]
async fn events_can_be_waited_for() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    let seen = rig.service.job_events(job, 0, Duration::ZERO).await.unwrap();
    let last = seen.last().unwrap().seq;
    let service = rig.service.clone();
    let waiting =
        tokio::spawn(async move { service.job_events(job, last, Duration::from_secs(20)).await });
    tokio::task::yield_now().await;
    agent.take_task();
    agent.event(TaskEvent::StepStarted { step: Step::CheckDisk }).await;
    let new = waiting.await.unwrap().unwrap();
    assert!(!new.is_empty() && new.iter().all(|event| event.seq > last));
    let none = rig.service.job_events(job, 1_000_000, Duration::from_millis(20)).await.unwrap();
    assert!(none.is_empty());
}

#[tokio::test]
async fn what_cannot_be_deployed_is_said_before_anything_is_done() {
    let rig = Rig::new().await;
    let _agent = rig.approved(&Machine::new(1)).await;
    let not_found = async |change: fn(&mut crate::service::view::DeployRequest)| {
        let refusal = rig.deploy_with("node1", change).await.unwrap_err();
        assert!(matches!(refusal, Refusal::NotFound(_)), "{refusal:?}");
    };
    not_found(|request| request.image = "lab/other".into()).await;
    not_found(|request| request.image = "lab/debian@2".into()).await;
    not_found(|request| request.nodes = vec!["node9".into()]).await;
    not_found(|request| request.partition = Some("sda9".into())).await;
    not_found(|request| request.layout = Some("other".into())).await;
    let slot = rig.deploy_with("node1", |request| request.slot = Some(9)).await;
    assert_eq!(code(slot), "disk-will-not-do");
    let image = rig.deploy_with("node1", |request| request.image = "Bad Name".into()).await;
    assert!(matches!(image, Err(Refusal::Invalid(_))));
    assert!(rig.service.jobs().await.unwrap().is_empty());
}
