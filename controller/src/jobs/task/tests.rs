use super::*;
use proptest::prelude::*;
use uuid::Uuid;

const DONE: TaskEvent = TaskEvent::WorkDone { finish: Finish::Report };
const NEVER: Heard = Heard { started: 0, agent: 0, work: 0 };

fn boot(number: u128) -> BootId {
    BootId(Uuid::from_u128(number))
}

fn ready(number: u128, generation: Option<u32>) -> TaskEvent {
    let holding = generation.map_or(Holding::Nothing, |generation| Holding::This { generation });
    TaskEvent::AgentReady { boot: boot(number), holding }
}

/// Takes events one after the other, a second apart, and compares the names of the states.
fn check(events: &[(TaskEvent, &str)]) -> Life {
    let mut life = Life::new(0);
    for (second, (event, expected)) in events.iter().enumerate() {
        life = step(&life, event, second as i64 * 1000).0;
        assert_eq!(life.state.name(), *expected, "after {event:?}");
    }
    life
}

#[test]
fn a_deploy_ends_with_the_systems_report() {
    let life = check(&[
        (ready(1, None), "handed-out"),
        (TaskEvent::Progressed, "running"),
        (DONE, "work-done"),
        (TaskEvent::AgentGone, "rebooting"),
        (TaskEvent::SentToDisk, "awaiting-report"),
        (TaskEvent::Reported, "done"),
        (TaskEvent::Reported, "done"),
    ]);
    assert_eq!(life.generation, 1);
}

#[test]
fn without_a_report_it_ends_unconfirmed_when_the_disk_starts() {
    check(&[
        (ready(1, None), "handed-out"),
        (TaskEvent::WorkDone { finish: Finish::LocalBoot }, "work-done"),
        (TaskEvent::SentToDisk, "done (unconfirmed)"),
    ]);
}

#[test]
fn a_fresh_agent_gets_the_task_again_a_known_one_goes_on() {
    let life = check(&[
        (ready(1, None), "handed-out"),
        (ready(1, None), "handed-out"),
        (TaskEvent::Progressed, "running"),
        (ready(1, Some(1)), "running"),
        (TaskEvent::AgentGone, "running"),
        (ready(2, None), "handed-out"),
        (TaskEvent::Progressed, "running"),
        // An agent that came back with what it had before the other one got it.
        (ready(1, Some(1)), "handed-out"),
    ]);
    assert_eq!(life.generation, 3);
}

#[test]
fn a_node_that_resets_for_ever_is_given_up() {
    let mut life = Life::new(0);
    for number in 1..=u128::from(MAX_GENERATION) {
        life = step(&life, &ready(number, None), 0).0;
        assert_eq!(life.generation, number as u32);
        life = step(&life, &TaskEvent::Progressed, 0).0;
    }
    life = step(&life, &ready(99, None), 0).0;
    assert!(matches!(life.state, TaskState::Failed { .. }), "{life:?}");
}

#[test]
fn a_cancelled_task_waits_for_the_agents_safe_point() {
    let cancel = TaskEvent::CancelAsked { reason: "asked".into() };
    check(&[(cancel.clone(), "cancelled")]);
    let begun = [(ready(1, None), "handed-out"), (cancel.clone(), "cancelling")];
    let with = |event: TaskEvent, state| {
        let mut events = begun.to_vec();
        events.push((event, state));
        check(&events);
    };
    with(TaskEvent::WorkFailed { cause: "cancelled".into() }, "cancelled");
    with(ready(2, None), "cancelled");
    with(ready(1, Some(1)), "cancelling");
    with(TaskEvent::Expired { cause: "slow".into() }, "cancelled");
    // Too late to stop it.
    with(DONE, "work-done");
}

#[test]
fn a_clone_awaits_its_source_and_fails_with_it() {
    let awaiting = || Life::awaiting(NodeId(Uuid::nil()), 1000);
    let (life, effects) = step(&awaiting(), &ready(1, None), 2000);
    assert_eq!((life.state.name(), effects), ("awaiting-source", vec![]), "nothing is handed out");
    let (life, _) = step(&life, &TaskEvent::SourceReady, 3000);
    assert_eq!(life, Life::new(3000), "the time to netboot begins now");
    let failed = TaskEvent::SourceFailed { cause: "the source failed: disk".into() };
    assert_eq!(step(&life, &failed, 0).0, life, "too late");
    let (life, effects) = step(&awaiting(), &failed, 3000);
    assert_eq!((life.state.why().unwrap().as_str(), effects), ("the source failed: disk", vec![]));
    let cancel = TaskEvent::CancelAsked { reason: "asked".into() };
    let (life, effects) = step(&awaiting(), &cancel, 3000);
    assert_eq!((life.state.name(), effects), ("cancelled", vec![]));
    let late = deadline(&awaiting(), NEVER, 1_800_000).unwrap();
    assert!(late.at > 1000 + 1_800_000 + WORK_LIMIT_MS, "its source ends first: {late:?}");
    assert!(late.cause.contains("the system of the source did not come within 24 h"), "{late:?}");
}

#[test]
fn a_machine_that_runs_on_is_done_without_a_restart() {
    let done = TaskEvent::WorkDone { finish: Finish::RunsOn };
    let (life, _) = step(&Life::new(0), &ready(1, None), 0);
    let (life, _) = step(&life, &TaskEvent::Progressed, 0);
    let (life, effects) = step(&life, &done, 0);
    assert_eq!((life.state.name(), effects), ("done", vec![]));
}

#[test]
fn deadlines_name_what_did_not_happen() {
    let check = |life: &Life, last_seen, at, part: &str| {
        let heard = Heard { started: 0, agent: last_seen, work: last_seen };
        let deadline = deadline(life, heard, 1_800_000).unwrap();
        assert_eq!(deadline.at, at, "{deadline:?}");
        assert!(deadline.cause.contains(part), "{deadline:?}");
    };
    let life = Life::new(1000);
    check(&life, 0, 1_801_000, "did not netboot within 30 min");
    let (life, _) = step(&life, &ready(1, None), 2000);
    check(&life, 2000, 1_802_000, "fell silent");
    check(&life, 2000 + BEGIN_LIMIT_MS, 2000 + BEGIN_LIMIT_MS, "did not begin");
    let (life, _) = step(&life, &TaskEvent::Progressed, 3000);
    check(&life, 4000, 1_804_000, "fell silent");
    check(&life, 3000 + WORK_LIMIT_MS, 3000 + WORK_LIMIT_MS, "24");
    let (life, _) = step(&life, &DONE, 5000);
    check(&life, 0, 5000 + REBOOT_LIMIT_MS, "boot script");
    let (life, _) = step(&life, &TaskEvent::SentToDisk, 6000);
    check(&life, 0, 6000 + REPORT_LIMIT_MS, "did not report");
    let (life, _) = step(&life, &TaskEvent::Expired { cause: "x".into() }, 7000);
    assert_eq!(deadline(&life, NEVER, 0), None);
}

/// What nobody could say while the controller was away is not held against them.
#[test]
fn a_restart_of_the_controller_makes_nobody_late() {
    let mut life = Life::new(0);
    let long = WORK_LIMIT_MS * 3;
    let heard = Heard { started: long, ..NEVER };
    let events = [
        ready(1, None),
        TaskEvent::Progressed,
        DONE,
        TaskEvent::AgentGone,
        TaskEvent::SentToDisk,
        TaskEvent::Reported,
    ];
    for event in events {
        assert!(deadline(&life, heard, 60_000).unwrap().at >= long + 60_000, "{life:?}");
        life = step(&life, &event, 0).0;
    }
}

#[test]
fn work_that_stands_still_fails_though_its_agent_is_heard_of() {
    let (life, _) = step(&Life::new(0), &ready(1, None), 0);
    let (life, _) = step(&life, &TaskEvent::Progressed, 0);
    let at = |agent, work| deadline(&life, Heard { started: 0, agent, work }, 9_000_000).unwrap();
    let late = at(5000 + STILL_LIMIT_MS, 5000);
    assert_eq!(late.at, 5000 + STILL_LIMIT_MS);
    assert!(late.cause.contains("did not move on within 30 min"), "{late:?}");
    // One that is silent as well may be on its way through a netboot.
    assert!(at(5000 + STILL_LIMIT_MS - 1, 5000).cause.contains("fell silent"));
}

fn any_event() -> impl Strategy<Value = TaskEvent> {
    prop_oneof![
        (0u128..4, prop::option::of(0u32..12)).prop_map(|(number, held)| ready(number, held)),
        Just(TaskEvent::AgentGone),
        Just(TaskEvent::Progressed),
        Just(DONE),
        Just(TaskEvent::WorkDone { finish: Finish::LocalBoot }),
        Just(TaskEvent::WorkFailed { cause: "disk full".into() }),
        Just(TaskEvent::SentToDisk),
        Just(TaskEvent::Reported),
        Just(TaskEvent::SourceReady),
        Just(TaskEvent::SourceFailed { cause: "it is gone".into() }),
        Just(TaskEvent::WorkDone { finish: Finish::RunsOn }),
        Just(TaskEvent::CancelAsked { reason: "asked".into() }),
        Just(TaskEvent::Expired { cause: "late".into() }),
    ]
}

proptest! {
    /// Whatever happens in whatever order: the invariants at the head of the module hold.
    #[test]
    fn invariants_hold(
        awaits in any::<bool>(),
        events in prop::collection::vec(any_event(), 0..80),
    ) {
        let mut life = if awaits { Life::awaiting(NodeId(Uuid::nil()), 0) } else { Life::new(0) };
        for (second, event) in events.iter().enumerate() {
            let (next, effects) = step(&life, event, second as i64);
            let handed = effects.contains(&TaskEffect::HandOut);
            prop_assert!(next.generation >= life.generation && next.generation <= MAX_GENERATION);
            prop_assert!(next.generation == life.generation || handed);
            prop_assert!(!handed || next.state.is_with_agent());
            prop_assert!(!life.state.has_ended() || (next == life && effects.is_empty()));
            prop_assert_eq!(deadline(&next, NEVER, 1).is_none(), next.state.has_ended());
            // Nobody is sent to a disk that an agent may be writing to.
            let is_over = matches!(next.state, TaskState::WorkDone { .. });
            prop_assert!(!effects.contains(&TaskEffect::BootFromDisk) || is_over);
            if let TaskState::Done { confirmed } = next.state {
                let reported = *event == TaskEvent::Reported
                    || *event == TaskEvent::WorkDone { finish: Finish::RunsOn };
                prop_assert!(life.state.has_ended() || confirmed == reported);
            }
            life = next;
        }
        // A cancelled and expired task has ended, whatever it was.
        let cancel = TaskEvent::CancelAsked { reason: "asked".into() };
        let (life, _) = step(&life, &cancel, 0);
        let (life, _) = step(&life, &TaskEvent::Expired { cause: "late".into() }, 0);
        prop_assert!(life.state.has_ended());
    }

    #[test]
    fn states_survive_the_store(
        awaits in any::<bool>(),
        events in prop::collection::vec(any_event(), 0..20),
    ) {
        let mut life = if awaits { Life::awaiting(NodeId(Uuid::nil()), 7) } else { Life::new(7) };
        for event in &events {
            life = step(&life, event, 9).0;
            let text = serde_json::to_string(&life.state).unwrap();
            prop_assert_eq!(serde_json::from_str::<TaskState>(&text).unwrap(), life.state.clone());
        }
    }
}
