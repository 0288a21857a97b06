use super::{
    captures::{TO_DISK, with_system},
    rig::{Agent, Machine, Rig},
};
use crate::service::{
    Refusal,
    view::{ReportMode, VerifyAnswer, VerifyRequest},
};
use metalcast_shared::{
    as_left::{AsLeft, Change, Comparison, LeftBlocks, LeftPartition, MAX_RANGES, Range, Ranges},
    event::{Step, TaskEvent},
    hash::Hash,
    to_agent::{Compare, CompareSource, Work},
};

impl Rig {
    async fn verify(&self, dry_run: bool) -> Result<VerifyAnswer, Refusal> {
        let nodes = vec!["node1".to_owned()];
        let request = VerifyRequest { nodes, slot: Some(5), dry_run, ..VerifyRequest::default() };
        self.service.verify(&request, "tester").await
    }

    async fn keep(&self, agent: &Agent, encoded: Vec<u8>) -> anyhow::Result<()> {
        let key = self.key(agent.node).await;
        self.service.keep_left((agent.node, key), agent.id(), encoded).await
    }
}

fn left(total_blocks: u64) -> Vec<u8> {
    let blocks = Some(LeftBlocks { block_bytes: 4096, total_blocks, ..LeftBlocks::default() });
    let (number, partition, start, bytes) = (5, "sda1".to_owned(), 1 << 20, 1 << 30);
    let partitions = vec![LeftPartition { number, partition, start, bytes, blocks }];
    AsLeft { partitions, ..AsLeft::default() }.encode()
}

fn order(agent: &mut Agent) -> Compare {
    match agent.take_task().work {
        Work::Compare(order) => *order,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_deploy_left_is_kept_until_the_next_one_begins_and_given_to_who_compares() {
    let rig = Rig::new().await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    rig.deploy("node1").await.unwrap();
    agent.take_task();
    agent.work().await;
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    rig.report(rig.last_token()).await.unwrap();
    assert!(!rig.verify(true).await.unwrap().plan[0].has_as_left);

    // Another one, of which it is known.
    rig.deploy("node1").await.unwrap();
    let mut agent = rig.agent(&machine).await;
    agent.take_task();
    for step in [Step::Clear, Step::Record] {
        agent.step(step).await;
    }
    let bad = rig.keep(&agent, left(u64::MAX)).await.unwrap_err().to_string();
    assert!(bad.contains("inconsistent"), "{bad}");
    rig.keep(&agent, left(9)).await.unwrap();
    let key = Hash([9; 32]);
    let foreign = rig.service.keep_left((agent.node, key), agent.id(), left(9)).await;
    assert!(foreign.is_err(), "another machine's key");
    let own = rig.service.as_left((agent.node, rig.key(agent.node).await), agent.id()).await;
    assert_eq!(own.unwrap_err().to_string(), "the task is no comparison");
    agent.event(TaskEvent::Done { reports: true }).await;
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    rig.report(rig.last_token()).await.unwrap();

    let plan = rig.verify(true).await.unwrap();
    assert!(plan.job.is_none() && plan.plan[0].has_as_left && plan.plan[0].has_reported);
    let job = rig.verify(false).await.unwrap().job.unwrap();
    let mut agent = rig.agent(&machine).await;
    let order = order(&mut agent);
    let packed = order.as_left.unwrap();
    let agent_key = (agent.node, rig.key(agent.node).await);
    let given = rig.service.as_left(agent_key, agent.id()).await.unwrap();
    assert_eq!((packed.bytes as usize, packed.hash), (given.len(), Hash::of(&given)));
    assert!(rig.may_read(agent.node).await, "pages and chunks of the image");

    // More than an agent may say.
    let range = Range { start: 0, bytes: 1, change: Change::New, place: "x".repeat(9999) };
    let drift = Ranges { bytes: 4096, count: 1, first: vec![range; 999] };
    let comparison = Box::new(Comparison { drift, has_as_left: true, ..Comparison::default() });
    agent.event(TaskEvent::Compared { comparison }).await;
    agent.event(TaskEvent::Done { reports: false }).await;
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    let view = rig.service.job_state(job).await.unwrap();
    let task = &view.tasks[0];
    assert_eq!((task.state.as_str(), task.has_drift()), ("done", true), "{task:#?}");
    assert_eq!(task.compared.as_ref().unwrap().drift.first.len(), MAX_RANGES);

    // As soon as the next deploy clears the slot, nothing is known.
    rig.deploy("node1").await.unwrap();
    let mut agent = rig.agent(&machine).await;
    agent.take_task();
    agent.step(Step::Clear).await;
    let disk = order.disk.to_string();
    assert_eq!(rig.service.store().as_left(agent.node, &disk, 5).await.unwrap(), None);
    assert!(rig.verify(true).await.is_err(), "the node is busy");
}

#[tokio::test]
async fn an_agent_that_has_compared_nothing_is_not_done() {
    let rig = Rig::new().await;
    let machine = with_system(&rig).await;
    let job = rig.verify(false).await.unwrap().job.unwrap();
    let mut agent = rig.agent(&machine).await;
    assert!(order(&mut agent).as_left.is_none());
    agent.work().await;
    let view = rig.service.job_state(job).await.unwrap();
    assert_eq!(view.tasks[0].state, "failed");
    assert!(view.tasks[0].cause.as_ref().unwrap().contains("nothing came of it"));
}

#[tokio::test]
async fn a_whole_disk_is_compared_as_long_as_it_is_known_what_was_left() {
    let rig = Rig::with_disk(0x77).await;
    let deploy = async || {
        rig.deploy_disk(|request| request.report = ReportMode::None).await.unwrap();
    };
    let mut agent = rig.approved(&Machine::new(1)).await;
    let whole = |dry_run| VerifyRequest {
        nodes: vec!["node1".to_owned()],
        whole_disk: true,
        dry_run,
        ..VerifyRequest::default()
    };
    let verify = async |request: VerifyRequest| rig.service.verify(&request, "tester").await;
    let refused = verify(whole(true)).await.unwrap_err().to_string();
    assert!(refused.contains("no whole disk was deployed completely"), "{refused}");

    deploy().await;
    agent.take_task();
    agent.step(Step::Partition).await;
    rig.keep(&agent, left(9)).await.unwrap();
    agent.event(TaskEvent::Done { reports: false }).await;
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;

    let plan = verify(whole(true)).await.unwrap();
    let plan = &plan.plan[0];
    assert!(plan.has_as_left && plan.partition.is_none(), "{plan:?}");
    let named = VerifyRequest { disk: Some("nothing".into()), ..whole(true) };
    assert!(verify(named).await.unwrap_err().to_string().contains("no disk has serial"));
    for (spoilt, what) in [
        (VerifyRequest { slot: Some(5), ..whole(true) }, "not both"),
        (VerifyRequest { whole_disk: false, ..whole(true) }, "a slot, or the whole disk"),
        (VerifyRequest { partition: Some("sda1".into()), ..whole(true) }, "for a slot only"),
    ] {
        let refused = verify(spoilt).await.unwrap_err().to_string();
        assert!(refused.contains(what), "{refused}");
    }

    verify(whole(false)).await.unwrap();
    let mut agent = rig.agent(&machine).await;
    let order = order(&mut agent);
    assert_eq!(order.source, CompareSource::Disk);
    let agent_key = (agent.node, rig.key(agent.node).await);
    assert_eq!(rig.service.as_left(agent_key, agent.id()).await.unwrap(), left(9));
    let comparison = Box::new(Comparison { has_as_left: true, ..Comparison::default() });
    agent.event(TaskEvent::Compared { comparison }).await;
    agent.event(TaskEvent::Done { reports: false }).await;
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;

    // What is begun anew is not known.
    deploy().await;
    let mut agent = rig.agent(&machine).await;
    agent.take_task();
    agent.step(Step::Partition).await;
    agent.event(TaskEvent::Done { reports: false }).await;
    rig.boot_event(&agent.vanish().await, TO_DISK).await;
    let refused = verify(whole(true)).await.unwrap_err().to_string();
    assert!(refused.contains("it is not known what the deploy of"), "{refused}");
}
