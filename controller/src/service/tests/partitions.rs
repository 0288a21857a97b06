//! Partitions that a disk has: planned, deployed, remembered, and everything that is refused first.

use super::{
    rig::{Machine, Rig},
    whole_disk::disk_image,
};
use crate::{
    jobs::plan::SlotStage,
    service::{
        Refusal,
        view::{DeployAnswer, DeployRequest, GrowRequest, PlacedView, ReportMode, TargetView},
    },
};
use metalcast_formats::layout;
use metalcast_shared::{
    disk::Content,
    event::{Step, TaskEvent},
    layout::Layout,
    table::{FoundPartition, FoundTable, PartitionKind},
    to_agent::{Overwrite, Placed, Work},
    whole_disk::TableId,
};

const GIB: u64 = 1 << 30;

fn part(number: u16, kind: u8, start_bytes: u64, bytes: u64) -> FoundPartition {
    let kind = PartitionKind::Mbr(kind);
    FoundPartition { number, start_bytes, bytes, kind, in_use: None }
}

/// Windows, data, and swap in a logical partition.
fn table() -> FoundTable {
    let partitions = vec![
        part(1, 0x07, 1 << 20, GIB),
        part(2, 0x83, GIB + (1 << 20), GIB),
        part(3, 0x0f, 2 * GIB + (1 << 20), GIB),
        part(5, 0x82, 2 * GIB + (2 << 20), 64 << 20),
    ];
    FoundTable { id: TableId::Mbr(0x99), partitions }
}

fn machine(change: impl Fn(&mut FoundTable)) -> Machine {
    let mut machine = Machine::new(1).with_data();
    let mut table = table();
    change(&mut table);
    machine.disks[0].table = Some(table);
    let others = Content { partition: Some(2), what: "xfs \"data\"".into(), bytes: GIB };
    machine.disks[0].contents.push(others);
    machine
}

fn placed(texts: &[&str]) -> Vec<Placed> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

impl Rig {
    async fn deploy_partitions(
        &self,
        texts: &[&str],
        change: impl Fn(&mut DeployRequest),
    ) -> Result<DeployAnswer, Refusal> {
        let asked = |request: &mut DeployRequest| {
            (request.slot, request.partitions) = (None, placed(texts));
            change(request);
        };
        self.deploy_with("node1", asked).await
    }
}

#[tokio::test]
async fn partitions_from_the_plan_to_the_report_and_to_a_whole_disk() {
    let rig = Rig::new().await;
    *rig.catalog.disk.lock().unwrap() = Some(disk_image(0x77));
    let mut agent = rig.approved(&machine(|_| ())).await;
    let grown = |request: &mut DeployRequest| request.grow = Some(GrowRequest::default());
    let refused = rig.deploy_partitions(&["sda1:2", "sda2:5"], grown).await.unwrap_err();
    let Refusal::NeedsYes { plan } = refused else { panic!("{refused}") };
    let TargetView::Partitions { placed: views } = &plan.target else { panic!("{plan:?}") };
    let view = |partition: &str, filesystem: &str, number| PlacedView {
        partition: partition.into(),
        filesystem: filesystem.into(),
        number,
    };
    assert_eq!(*views, [view("sda1", "ext4", 2), view("sda2", "swap", 5)]);
    let node = &plan.nodes[0];
    assert_eq!(node.lost, ["partition 2: xfs \"data\" (1073741824 bytes)"], "Windows stays");
    assert_eq!((node.grow.len(), node.grow[0].number, node.grow[0].to_bytes), (1, 2, GIB));
    assert!(node.warnings.is_empty() && node.layout.is_none(), "{node:?}");
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(serde_json::from_value::<crate::service::view::PlanView>(json).unwrap(), *plan);

    let agreed = |request: &mut DeployRequest| {
        grown(request);
        request.yes = true;
    };
    let answer = rig.deploy_partitions(&["sda1:2", "sda2:5"], agreed).await.unwrap();
    let job = answer.job.unwrap();
    let spec = rig.job(job).await.summary.spec.to_string();
    assert_eq!(spec, "deploy lab/debian@1 to partitions sda1:2,sda2:5");
    let task = agent.take_task();
    let steps = task.work.steps();
    assert!(steps.contains(&Step::Clear) && !steps.contains(&Step::Partition), "{steps:?}");
    let Work::DeployPartitions(order) = task.work else { panic!() };
    assert_eq!((order.overwrite, &order.table), (Overwrite::AnySlot, &table()));
    assert_eq!((order.partitions, order.grow), (placed(&["sda1:2"]), vec![2]));
    assert_eq!(order.swaps.iter().map(|swap| swap.number).collect::<Vec<_>>(), [5]);
    assert!(rig.may_read(agent.node).await);
    let known = async || rig.service.node("node1").await.unwrap().partitions;
    agent.event(TaskEvent::StepStarted { step: Step::CheckDisk }).await;
    assert_eq!(known().await, []);
    agent.event(TaskEvent::StepStarted { step: Step::Clear }).await;
    assert_eq!(known().await[0].stage, SlotStage::Writing);
    agent.event(TaskEvent::Done { reports: true }).await;
    let machine = agent.vanish().await;
    let to_disk = crate::service::BootEventKind::Script {
        answer: crate::service::ScriptAnswer::LocalDisk,
        boot: None,
    };
    rig.boot_event(&machine, to_disk).await;
    rig.report(rig.last_token()).await.unwrap();
    rig.check(job, "done").await;
    let used = known().await.remove(0);
    assert_eq!((used.number, used.stage), (2, SlotStage::Confirmed));
    assert_eq!(
        (used.partition.as_str(), used.image.to_string()),
        ("sda1", super::rig::IMAGE.into())
    );

    // A whole disk takes the place of all of them.
    let whole = |request: &mut DeployRequest| {
        (request.slot, request.whole_disk, request.yes) = (None, true, true);
    };
    rig.deploy_with("node1", whole).await.unwrap();
    let mut agent = rig.agent(&machine).await;
    agent.take_task();
    agent.event(TaskEvent::StepStarted { step: Step::Partition }).await;
    assert_eq!(known().await, []);
}

#[tokio::test]
async fn what_was_put_into_a_disk_of_ours_is_not_lost_with_it_unseen() {
    let rig = Rig::new().await;
    *rig.catalog.disk.lock().unwrap() = Some(disk_image(0x77));
    let mut agent = rig.approved(&machine(|_| ())).await;
    let whole = |request: &mut DeployRequest| (request.slot, request.whole_disk) = (None, true);
    let agreed = |request: &mut DeployRequest| {
        whole(request);
        request.yes = true;
    };
    let job = rig.deploy_with("node1", agreed).await.unwrap().job.unwrap();
    agent.take_task();
    agent.work().await;
    rig.service.cancel(job, crate::service::Run::Real, "tester").await.unwrap();
    let job = rig.deploy_partitions(&["sda1:2"], |request| request.yes = true).await;
    let job = job.unwrap().job.unwrap();
    agent.take_task();
    agent.work().await;
    rig.service.cancel(job, crate::service::Run::Real, "tester").await.unwrap();
    let refused = rig.deploy_with("node1", whole).await.unwrap_err();
    let Refusal::NeedsYes { plan } = refused else { panic!("{refused}") };
    assert_eq!(plan.nodes[0].lost, ["partition 2: sda1 of lab/debian@1"]);
}

/// What an earlier hand-out left half-made is our own.
#[tokio::test]
async fn a_blank_partition_needs_no_leave_and_is_gone_on_with() {
    let rig = Rig::new().await;
    let mut machine = machine(|_| ());
    machine.disks[0].contents.clear();
    let mut agent = rig.approved(&machine).await;
    rig.deploy_partitions(&["sda1:1"], |_| ()).await.unwrap();
    let overwrite = |work| match work {
        Work::DeployPartitions(order) => order.overwrite,
        other => panic!("{other:?}"),
    };
    assert_eq!(overwrite(agent.take_task().work), Overwrite::BlankOnly);
    agent.event(TaskEvent::StepStarted { step: Step::CheckDisk }).await;
    let machine = agent.vanish().await;
    let mut agent = rig.agent(&machine).await;
    assert_eq!(overwrite(agent.take_task().work), Overwrite::BlankOnly);
    agent.event(TaskEvent::StepStarted { step: Step::Clear }).await;
    let machine = agent.vanish().await;
    let mut agent = rig.agent(&machine).await;
    assert_eq!(overwrite(agent.take_task().work), Overwrite::AnySlot);
}

/// The reason in a dry run, and that it is the same without.
async fn refused(rig: &Rig, texts: &[&str], change: fn(&mut DeployRequest)) -> String {
    let dry = |request: &mut DeployRequest| {
        change(request);
        (request.dry_run, request.yes) = (true, true);
    };
    let dry = rig.deploy_partitions(texts, dry).await.unwrap_err().to_string();
    let real = |request: &mut DeployRequest| {
        change(request);
        request.yes = true;
    };
    assert_eq!(rig.deploy_partitions(texts, real).await.unwrap_err().to_string(), dry);
    dry
}

#[tokio::test]
async fn what_a_disk_or_an_image_does_not_have_is_refused_with_what_it_has() {
    let rig = Rig::new().await;
    let mut machine = machine(|table| {
        table.partitions[1].in_use = Some("it is a physical volume of LVM".into());
        table.partitions.push(part(6, 0x83, 3 << 30, 1 << 20));
    });
    machine.disks[0].logical_sector = 512;
    let _agent = rig.approved(&machine).await;
    for (texts, why) in [
        (&["sda9:1"][..], "lab/debian@1 has no partition sda9; it has sda1 (ext4)"),
        (&["sda2:5"], "has no partition sda2"),
        (&["sda1:9"], "it has no partition 9; it has 1, 2, 3, 5, 6"),
        (&["sda1:3"], "partition 3 only holds other partitions"),
        (&["sda1:6"], "sda1 needs 409600000 bytes, partition 6 has 1048576"),
        (&["sda1:1", "sda1:1"], "sda1 and sda1 cannot both go into partition 1"),
        (&["sda1:2"], "partition 2 cannot be overwritten: it is a physical volume of LVM"),
    ] {
        let error = refused(&rig, texts, |_| ()).await;
        assert!(error.contains(why), "{error}");
    }
    for (change, why) in [
        (
            (|request| request.disk = Some("D9".into())) as fn(&mut DeployRequest),
            "serial or WWN D9",
        ),
        (|request| request.whole_disk = true, "name either a slot, the whole disk, or partitions"),
        (|request| request.slot = Some(5), "name either a slot, the whole disk, or partitions"),
        (|request| request.layout = Some("lab".into()), "--layout is about slots"),
        (|request| request.partition = Some("sda1".into()), "--partition is about slots"),
        (|request| request.fresh_ids = true, "--fresh-ids is about whole disks"),
        (
            |request| request.grow = Some(GrowRequest { partition: Some(2) }),
            "partition 2 gets no filesystem that can grow",
        ),
    ] {
        let error = refused(&rig, &["sda1:1"], change).await;
        assert!(error.contains(why), "{error}");
    }
    // Nothing can be told where there is swap only.
    *rig.catalog.disk.lock().unwrap() = Some(disk_image(1));
    let error = refused(&rig, &["sda2:5"], |_| ()).await;
    assert!(error.contains("--report none"), "{error}");
    let error = refused(&rig, &["sda9:5"], |_| ()).await;
    assert!(error.ends_with("it has sda1 (ext4), sda2 (swap)"), "{error}");
    let mut large = disk_image(1);
    large.whole.sector_bytes = 4096;
    *rig.catalog.disk.lock().unwrap() = Some(large);
    let error = refused(&rig, &["sda1:1"], |_| ()).await;
    assert!(error.contains("sectors of 4096 bytes, this one has sectors of 512"), "{error}");
}

#[tokio::test]
async fn a_disk_is_named_where_a_node_has_several_and_must_have_a_table() {
    let rig = Rig::new().await;
    let mut machine = machine(|_| ());
    let mut second = machine.disks[0].clone();
    (second.serial, second.table) = (Some("D2".into()), None);
    machine.disks.push(second);
    let _agent = rig.approved(&machine).await;
    let error = refused(&rig, &["sda1:1"], |_| ()).await;
    assert!(error.contains("choose one with --disk SERIAL"), "{error}");
    let error = refused(&rig, &["sda1:1"], |request| request.disk = Some("D2".into())).await;
    assert!(error.contains("it has no partition table that its agent could read"), "{error}");
    let named = |request: &mut DeployRequest| {
        (request.disk, request.dry_run) = (Some("D1".into()), true);
    };
    let plan = rig.deploy_partitions(&["sda1:1"], named).await.unwrap().plan;
    assert!(plan.nodes[0].disk.contains("serial D1"), "{plan:?}");
    // The type is not changed.
    assert_eq!(
        plan.nodes[0].warnings,
        ["partition 1 has type 0x07, which is not that of ext4; it stays as it is"]
    );
    *rig.catalog.filesystem.lock().unwrap() = Some("ntfs");
    let error = refused(&rig, &["sda1:1"], |request| request.disk = Some("D1".into())).await;
    assert!(error.contains("--report none"), "{error}");
    let windows = |request: &mut DeployRequest| {
        named(request);
        request.report = ReportMode::None;
    };
    let plan = rig.deploy_partitions(&["sda1:1"], windows).await.unwrap().plan;
    assert_eq!(plan.nodes[0].warnings, [""; 0]);
}

#[tokio::test]
async fn slots_of_a_layout_have_a_way_of_their_own() {
    let rig = Rig::new().await;
    let (bytes, lab) = (
        4 << 30,
        Layout {
            name: "lab".into(),
            boot_mib: 64,
            swap_mib: 64,
            reserve_mib: 0,
            slots: 3,
            slot_mib: 512,
        },
    );
    let plan = layout::compute(&lab, bytes, 512).unwrap();
    let found = |planned: &layout::PlannedPartition| {
        let kind = if planned.role == layout::Role::Extended { 0x0f } else { 0x83 };
        part(planned.number, kind, planned.start_lba * 512, planned.sectors * 512)
    };
    let partitions: Vec<FoundPartition> = plan.partitions.iter().map(found).collect();
    let machine = machine(|table| table.partitions = partitions.clone());
    let _agent = rig.approved(&machine).await;
    let error = refused(&rig, &["sda1:6"], |_| ()).await;
    assert!(
        error.contains("partition 6 is a slot of layout lab: deploy to it with --slot 6"),
        "{error}"
    );
    let error = refused(&rig, &["sda1:1"], |_| ()).await;
    assert!(error.contains("partition 1 belongs to layout lab"), "{error}");
}
