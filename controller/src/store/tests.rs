use super::*;
use crate::jobs::{
    node::NodeState,
    plan::{DiskUse, SlotStage, SlotUse},
    task::{Finish, Life, TaskState},
};
use metalcast_shared::{
    disk::DiskSelector,
    event::{Step, TaskEvent},
    fix_up::Adaptation,
    hash::Hash,
    id::{BootId, JobId, Mac, NodeId, Revision},
    inventory::{Fingerprint, Inventory},
    layout::Layout,
    to_agent::{CompareSource, Overwrite},
    to_controller::LogLevel,
    whole_disk::TableId,
};
use uuid::Uuid;

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn node(name: &str, macs: &[u8]) -> NodeRecord {
    let macs: Vec<Mac> = macs.iter().map(|last| mac(*last)).collect();
    NodeRecord {
        id: NodeId(Uuid::now_v7()),
        name: name.into(),
        state: NodeState::IdentityChanged { reason: "serial \"X\" ' ; --".into() },
        fingerprint: Fingerprint { macs: macs.clone(), ..Fingerprint::default() },
        candidate: Some(Fingerprint::default()),
        key: Hash([0x5a; 32]),
        inventory: Some(Inventory { memory_bytes: u64::MAX, ..Inventory::default() }),
        layout: None,
        default_boot: DefaultBoot::LocalDisk,
        boot_mac: macs[0],
        enrolled: 1,
        registered: Some(2),
        last_seen: 3,
    }
}

fn layout() -> Layout {
    Layout { name: "lab".into(), boot_mib: 1, swap_mib: 1, reserve_mib: 0, slots: 1, slot_mib: 9 }
}

fn job(number: i64) -> JobRecord {
    let image = "lab/debian@1".parse().unwrap();
    let finish = Finish::Report;
    JobRecord {
        id: JobId(number),
        spec: JobSpec::Deploy { image, partition: "sda1".into(), slot: 5, finish },
        created: 10,
        created_by: "uid 0".into(),
        netboot_limit_ms: 1000,
    }
}

fn task(number: i64, node: &NodeRecord) -> TaskRecord {
    let work = Work::Deploy {
        image: "lab/debian@1".parse().unwrap(),
        partition: "sda1".into(),
        disk: DiskSelector { serial: Some("A".into()), wwn: None, bytes: u64::MAX },
        layout: layout(),
        slot: 5,
        overwrite: Overwrite::BlankOnly,
        hostname: "node1".into(),
        adaptation: Adaptation::default(),
        fresh: None,
        grow: true,
        write_bytes: 1,
        wire_bytes: 2,
        finish: Finish::Report,
    };
    let (job, node_name) = (JobId(number), node.name.clone());
    TaskRecord { job, node: node.id, node_name, work, life: Life::new(10), changed: 10 }
}

fn event(task: &TaskRecord, number: Option<u32>) -> EventRecord {
    EventRecord {
        seq: 0,
        job: task.job,
        node: task.node,
        generation: 1,
        number,
        at: 11,
        what: Noted::Agent(TaskEvent::StepDone { step: Step::Clear, millis: 7 }),
    }
}

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("metalcast.db")).await.unwrap();
    (dir, store)
}

#[tokio::test]
async fn what_is_written_is_read_back() {
    let (_dir, store) = store().await;
    let node = node("node1", &[1, 2]);
    let (job, mut task) = (job(1), task(1, &node));
    let used = SlotUse {
        disk: "serial A".into(),
        slot: 5,
        layout: layout(),
        image: "lab/debian@1".parse().unwrap(),
        stage: SlotStage::Writing,
        at_unix_ms: 5,
    };
    let boot = BootRecord { boot: BootId(Uuid::now_v7()), mac: mac(1), node: Some(node.id), at: 4 };
    let enrolment =
        EnrolmentRecord { boot: boot.boot, key: Hash([0xa5; 32]), node: node.id, at: 4 };
    let changes = [
        Change::Node(Box::new(node.clone())),
        Change::Boot(boot.clone()),
        Change::Enrolment(enrolment.clone()),
        Change::Job(job.clone()),
        Change::Task(Box::new(task.clone())),
        Change::Event(event(&task, Some(1))),
        Change::Slot { node: node.id, used: used.clone() },
        Change::Audit(AuditRecord { at: 1, who: "uid 0".into(), what: "deploy".into() }),
    ];
    store.apply(&changes).await.unwrap();
    assert_eq!(store.nodes().await.unwrap(), std::slice::from_ref(&node));
    assert_eq!(store.boot(boot.boot).await.unwrap(), Some(boot.clone()));
    assert_eq!(store.enrolment(boot.boot).await.unwrap(), Some(enrolment));
    assert_eq!(store.job(JobId(1)).await.unwrap(), Some(job.clone()));
    assert_eq!(store.jobs(9).await.unwrap(), [job]);
    assert_eq!(store.active_tasks().await.unwrap(), [task.clone()]);
    assert_eq!(store.slots(node.id).await.unwrap(), [used]);
    assert_eq!(store.audit(9).await.unwrap().len(), 1);
    assert_eq!(store.last_number(JobId(1), node.id, 1).await.unwrap(), 1);

    task.life.state = TaskState::Failed { cause: "late".into() };
    store.apply(&[Change::Task(Box::new(task.clone()))]).await.unwrap();
    assert_eq!(store.active_tasks().await.unwrap(), []);
    assert_eq!(store.task(JobId(1), node.id).await.unwrap(), Some(task));

    // History outlives the node, what describes its disks does not.
    store.apply(&[Change::ForgetNode(node.id)]).await.unwrap();
    assert_eq!(store.nodes().await.unwrap(), []);
    assert_eq!(store.slots(node.id).await.unwrap(), []);
    assert_eq!(store.tasks(JobId(1)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_list_of_changes_is_written_whole_or_not_at_all() {
    let (_dir, store) = store().await;
    let (first, second) = (node("node1", &[1]), node("node1", &[2]));
    let changes = [Change::Node(Box::new(first)), Change::Node(Box::new(second))];
    assert!(store.apply(&changes).await.is_err(), "two nodes of one name");
    assert_eq!(store.nodes().await.unwrap(), []);
}

/// As on a full disk, where SQLite rolls back by itself what it cannot commit.
#[tokio::test]
async fn what_is_written_after_failed_commits_is_really_written() {
    let (_dir, store) = store().await;
    let mut first = store.writer.begin().await.unwrap();
    sqlx::query("ROLLBACK").execute(&mut *first).await.unwrap();
    first.commit().await.unwrap_err();
    let mut second = store.writer.begin().await.unwrap();
    for statement in [
        "PRAGMA defer_foreign_keys = ON",
        "INSERT INTO node_macs (mac, node) VALUES ('02:00:00:00:00:09', 'nobody')",
    ] {
        sqlx::query(statement).execute(&mut *second).await.unwrap();
    }
    second.commit().await.unwrap_err();
    store.apply(&[Change::Node(Box::new(node("node1", &[1])))]).await.unwrap();
    // By another connection.
    assert_eq!(store.nodes().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_failed_write_is_told_of_until_one_succeeds() {
    let (_dir, store) = store().await;
    let changes = ["node1", "node1"].map(|name| Change::Node(Box::new(node(name, &[1]))));
    store.apply(&changes).await.unwrap_err();
    assert!(store.trouble().unwrap().contains("UNIQUE"), "{:?}", store.trouble());
    store.apply(&changes[..1]).await.unwrap();
    assert_eq!(store.trouble(), None);
}

#[tokio::test]
async fn a_node_has_one_unfinished_task() {
    let (_dir, store) = store().await;
    let node = node("node1", &[1]);
    store.apply(&[Change::Node(Box::new(node.clone())), Change::Job(job(1))]).await.unwrap();
    store.apply(&[Change::Task(Box::new(task(1, &node)))]).await.unwrap();
    let second = [Change::Job(job(2)), Change::Task(Box::new(task(2, &node)))];
    assert!(store.apply(&second).await.is_err());
    assert_eq!(store.last_job().await.unwrap(), 1);
}

#[tokio::test]
async fn an_event_is_kept_once_and_in_order() {
    let (_dir, store) = store().await;
    let node = node("node1", &[1]);
    let task = task(1, &node);
    let add = async |number| {
        store.apply(&[Change::Event(event(&task, number))]).await.unwrap();
    };
    for number in [Some(1), Some(2), Some(2), None, None, Some(1)] {
        add(number).await;
    }
    let events = store.events(JobId(1), 0, 100).await.unwrap();
    let numbers: Vec<Option<u32>> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, [Some(1), Some(2), None, None]);
    assert!(events.is_sorted_by(|a, b| a.seq < b.seq));
    assert_eq!(store.events(JobId(1), events[1].seq, 1).await.unwrap(), events[2..3]);
}

/// A copy of the files as they lie on the disk is what a killed controller leaves behind.
#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let (dir, store) = store().await;
    let node = node("node1", &[1]);
    store.apply(&[Change::Node(Box::new(node.clone()))]).await.unwrap();
    let crashed = tempfile::tempdir().unwrap();
    for name in ["metalcast.db", "metalcast.db-wal"] {
        std::fs::copy(dir.path().join(name), crashed.path().join(name)).unwrap();
    }
    let again = Store::open(&crashed.path().join("metalcast.db")).await.unwrap();
    assert_eq!(again.nodes().await.unwrap(), std::slice::from_ref(&node));
    store.close().await;
    let reopened = Store::open(&dir.path().join("metalcast.db")).await.unwrap();
    assert_eq!(reopened.nodes().await.unwrap(), [node]);
}

#[tokio::test]
async fn no_node_takes_the_address_of_another() {
    let (_dir, store) = store().await;
    let (first, second) = (node("node1", &[1, 2]), node("node2", &[2, 3]));
    store.apply(&[Change::Node(Box::new(first.clone()))]).await.unwrap();
    store.apply(&[Change::Node(Box::new(second.clone()))]).await.unwrap_err();
    assert_eq!(store.nodes().await.unwrap(), std::slice::from_ref(&first));
    // What its owner gives up is free.
    let first = NodeRecord { fingerprint: node("", &[1]).fingerprint, ..first };
    for node in [first, second] {
        store.apply(&[Change::Node(Box::new(node))]).await.unwrap();
    }
    assert_eq!(store.nodes().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_new_table_makes_the_slots_of_other_layouts_forgotten() {
    let (_dir, store) = store().await;
    let owner = node("node1", &[1]);
    store.apply(&[Change::Node(Box::new(owner.clone()))]).await.unwrap();
    let used = |disk: &str, slot, slot_mib| SlotUse {
        disk: disk.into(),
        slot,
        layout: Layout { slot_mib, ..layout() },
        image: "lab/debian@1".parse().unwrap(),
        stage: SlotStage::Confirmed,
        at_unix_ms: 5,
    };
    let old = [used("A", 5, 9), used("A", 6, 8), used("B", 5, 8)];
    let node = owner.id;
    let slots = old.clone().map(|used| Change::Slot { node, used });
    store.apply(&slots).await.unwrap();
    let forget = Change::ForgetOtherLayouts { node, disk: "A".into(), layout: layout() };
    store.apply(&[forget]).await.unwrap();
    assert_eq!(store.slots(node).await.unwrap(), [old[0].clone(), old[2].clone()]);
}

#[tokio::test]
async fn what_was_left_is_known_until_something_else_is_written_there() {
    let (_dir, store) = store().await;
    let owner = node("node1", &[1]);
    let (node, image): (_, Revision) = (owner.id, "lab/debian@1".parse().unwrap());
    let slot = |stage| {
        let (disk, image) = ("A".to_owned(), image.clone());
        let used = SlotUse { disk, slot: 5, layout: layout(), image, stage, at_unix_ms: 5 };
        Change::Slot { node, used }
    };
    let whole = |stage| {
        let (disk, image) = ("B".to_owned(), image.clone());
        let used = DiskUse { disk, table: TableId::Mbr(7), image, stage, at_unix_ms: 5 };
        Change::WholeDisk { node, used }
    };
    let left = |encoded: &[u8]| {
        let (partition, encoded) = ("sda1".to_owned(), encoded.to_vec());
        Change::AsLeft { node, disk: "A".into(), slot: 5, partition, encoded }
    };
    let disk_left =
        |encoded: &[u8]| Change::DiskAsLeft { node, disk: "B".into(), encoded: encoded.to_vec() };
    assert!(store.apply(&[left(b"1")]).await.is_err(), "nothing of ours is there");
    assert!(store.apply(&[disk_left(b"1")]).await.is_err(), "nothing of ours is there");

    let both = [slot(SlotStage::Writing), whole(SlotStage::Writing)];
    store.apply(&[Change::Node(Box::new(owner))]).await.unwrap();
    store.apply(&both).await.unwrap();
    for encoded in [b"1", b"2"] {
        store.apply(&[left(encoded), disk_left(encoded)]).await.unwrap();
    }
    store.apply(&[slot(SlotStage::Confirmed), whole(SlotStage::Confirmed)]).await.unwrap();
    let known = async || {
        let slot = store.as_left(node, "A", 5).await.unwrap();
        (slot, store.disk_as_left(node, "B").await.unwrap())
    };
    assert_eq!(known().await, (Some(("sda1".into(), b"2".to_vec())), Some(b"2".to_vec())));
    store.apply(&both).await.unwrap();
    assert_eq!(known().await, (None, None));

    // A disk that gets a table for slots is no whole one any more, and the other way round.
    store.apply(&[left(b"3"), disk_left(b"3")]).await.unwrap();
    let forget = Change::ForgetOtherLayouts { node, disk: "B".into(), layout: layout() };
    store.apply(&[forget]).await.unwrap();
    let Change::WholeDisk { mut used, .. } = whole(SlotStage::Writing) else { unreachable!() };
    used.disk = "A".into();
    store.apply(&[Change::WholeDisk { node, used }]).await.unwrap();
    assert_eq!(known().await, (None, None));
}

#[tokio::test]
async fn a_comparison_of_before_whole_disks_were_compared_is_read() {
    let (_dir, store) = store().await;
    let owner = node("node1", &[1]);
    let mut task = task(1, &owner);
    let source = CompareSource::Slot { layout: layout(), slot: 5, partition: "sda1".into() };
    let disk = DiskSelector { serial: Some("A".into()), wwn: None, bytes: 7 };
    let image = "lab/debian@1".parse().unwrap();
    task.work = Work::Compare { image, disk, source, as_left: None, found: None };
    let changes =
        [Change::Node(Box::new(owner)), Change::Job(job(1)), Change::Task(Box::new(task.clone()))];
    store.apply(&changes).await.unwrap();
    let old = "UPDATE tasks SET work = json_remove(json_patch(work, json_extract(work, '$.source.slot')), '$.source')";
    let migration = include_str!("../../migrations/0008_whole_disks_as_left.sql");
    let update = &migration[migration.find("UPDATE tasks").unwrap()..];
    for sql in [old, update] {
        sqlx::query(sql).execute(&store.writer).await.unwrap();
    }
    assert_eq!(store.task(JobId(1), task.node).await.unwrap(), Some(task));
}

#[tokio::test]
async fn logs_and_boot_events_are_bounded() {
    let (_dir, store) = store().await;
    let node = node("node1", &[1]);
    let line = |number: i64| LogRecord {
        node: node.id,
        job: Some(JobId(1)),
        at: number,
        level: LogLevel::Info,
        line: number.to_string(),
    };
    let lines: Vec<LogRecord> = (0..MAX_LOG_LINES_PER_NODE + 50).map(line).collect();
    store.append_logs(&lines).await.unwrap();
    let kept = store.node_logs(node.id, 100_000).await.unwrap();
    assert_eq!(kept, lines[50..]);
    assert_eq!(store.job_logs(JobId(1), 3).await.unwrap(), lines[lines.len() - 3..]);

    let seen = |at: i64| BootSeen { mac: mac(1), at, what: "dhcp".into(), detail: String::new() };
    let events: Vec<BootSeen> = (0..MAX_BOOT_EVENTS_PER_MAC + 5).map(seen).collect();
    store.append_boot_events(&events).await.unwrap();
    assert_eq!(store.boot_events(mac(1), 0).await.unwrap(), events[5..]);
    assert_eq!(store.boot_events(mac(2), 0).await.unwrap(), []);
}

#[tokio::test]
async fn old_netboots_are_forgotten() {
    let (_dir, store) = store().await;
    let boot = |at| BootRecord { boot: BootId(Uuid::now_v7()), mac: mac(1), node: None, at };
    let (old, new) = (boot(0), boot(BOOTS_KEPT_MS));
    store.apply(&[Change::Boot(old.clone()), Change::Boot(new.clone())]).await.unwrap();
    store.forget_old(BOOTS_KEPT_MS + 1).await.unwrap();
    assert_eq!(store.boot(old.boot).await.unwrap(), None);
    assert_eq!(store.boot(new.boot).await.unwrap(), Some(new));
}

#[tokio::test]
async fn jobs_and_deeds_are_bounded() {
    let (_dir, store) = store().await;
    let node = node("node1", &[1]);
    let mut ended = task(2, &node);
    ended.life.state = TaskState::Done { confirmed: true };
    let tasks = [task(1, &node), ended.clone()];
    let mut changes: Vec<Change> = (1..=MAX_JOBS + 2).map(|n| Change::Job(job(n))).collect();
    changes.extend(tasks.into_iter().map(|task| Change::Task(Box::new(task))));
    changes.push(Change::Event(event(&ended, None)));
    store.apply(&changes).await.unwrap();
    store.forget_old(0).await.unwrap();
    assert!(store.job(JobId(1)).await.unwrap().is_some(), "it has not ended");
    assert_eq!(store.job(JobId(2)).await.unwrap(), None);
    assert_eq!(store.task(JobId(2), node.id).await.unwrap(), None);
    assert_eq!(store.events(JobId(2), 0, 9).await.unwrap(), []);
    assert!(store.job(JobId(3)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_broken_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metalcast.db");
    std::fs::write(&path, vec![7; 5000]).unwrap();
    let error = Store::open(&path).await.unwrap_err().to_string();
    assert!(error.contains("metalcast.db"), "{error}");
    let (_dir, store) = store().await;
    sqlx::query("UPDATE nodes SET state = 'x'").execute(&store.writer).await.unwrap();
    store.apply(&[Change::Node(Box::new(node("node1", &[1])))]).await.unwrap();
    sqlx::query("UPDATE nodes SET state = 'x'").execute(&store.writer).await.unwrap();
    let error = store.nodes().await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { what: "node state", .. }), "{error}");
}
