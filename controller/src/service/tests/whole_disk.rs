//! Whole disks: planned, deployed, remembered, and lost to what comes after them.

use super::rig::{Machine, Rig};
use crate::{
    images::DiskImage,
    jobs::plan::SlotStage,
    service::{
        BootEventKind, Refusal, Run, ScriptAnswer,
        view::{DeployAnswer, DeployRequest, GrowRequest, PartitionView, ReportMode, TargetView},
    },
};
use metalcast_shared::{
    event::{Step, TaskEvent},
    to_agent::{Overwrite, Placed, Work},
    whole_disk::{BootCode, DiskTable, MbrPartition, Swap, TableId, WholeDisk},
};

const TO_DISK: BootEventKind =
    BootEventKind::Script { answer: ScriptAnswer::LocalDisk, boot: None };

/// A disk of 2 GiB with the image's only partition and swap.
pub(super) fn disk_image(signature: u32) -> DiskImage {
    let part = |number, kind, start_lba, sectors| MbrPartition {
        number,
        kind,
        start_lba,
        sectors,
        bootable: number == 1,
        ebr_lba: None,
    };
    let partitions = vec![part(1, 0x83, 2048, 1 << 21), part(2, 0x82, 1 << 22, 2048)];
    DiskImage {
        whole: WholeDisk {
            sector_bytes: 512,
            table: DiskTable::Mbr { signature, partitions },
            swaps: vec![Swap { number: 2, uuid: None, label: String::new() }],
            boot: BootCode::default(),
        },
        partitions: vec![Placed { number: 1, partition: "sda1".into() }],
    }
}

impl Rig {
    pub(super) async fn with_disk(signature: u32) -> Self {
        let rig = Self::new().await;
        *rig.catalog.disk.lock().unwrap() = Some(disk_image(signature));
        rig
    }

    pub(super) async fn deploy_disk(
        &self,
        change: impl Fn(&mut DeployRequest),
    ) -> Result<DeployAnswer, Refusal> {
        let whole = |request: &mut DeployRequest| {
            (request.slot, request.whole_disk) = (None, true);
            change(request);
        };
        self.deploy_with("node1", whole).await
    }
}

#[tokio::test]
async fn a_whole_disk_from_the_plan_to_the_report_and_to_what_replaces_it() {
    let rig = Rig::with_disk(0x77).await;
    let mut agent = rig.approved(&Machine::new(1).with_data()).await;
    let refused = rig.deploy_disk(|_| ()).await.unwrap_err();
    let Refusal::NeedsYes { plan } = refused else { panic!("{refused}") };
    let TargetView::WholeDisk { table, partitions, .. } = &plan.target else { panic!("{plan:?}") };
    assert_eq!(table, "MBR, disk signature 00000077");
    let swap =
        PartitionView { number: 2, start_bytes: 2 << 30, bytes: 1 << 20, what: "swap".into() };
    assert_eq!((partitions[0].what.as_str(), &partitions[1]), ("ext4 of sda1", &swap));
    assert!(plan.nodes[0].lost[0].contains("Windows"), "{plan:?}");
    assert_eq!(plan.nodes[0].write_bytes, 10_000 * 4096);
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["table"], "MBR, disk signature 00000077");
    assert_eq!(serde_json::from_value::<crate::service::view::PlanView>(json).unwrap(), *plan);

    let job = rig.deploy_disk(|request| request.yes = true).await.unwrap().job.unwrap();
    let Work::DeployDisk(order) = agent.take_task().work else { panic!() };
    assert_eq!((order.overwrite, order.own), (Overwrite::WholeDisk, None));
    assert_eq!(
        (&order.whole, &order.partitions),
        (&disk_image(0x77).whole, &disk_image(0x77).partitions)
    );
    assert!(rig.may_read(agent.node).await);
    assert!(matches!(
        rig.service.remove_image(&order.image, Run::Dry, "tester").await,
        Err(Refusal::Conflict { code: "image-in-use", .. })
    ));
    let disks = async || rig.service.node("node1").await.unwrap().whole_disks;
    agent.event(TaskEvent::StepStarted { step: Step::CheckDisk }).await;
    assert_eq!(disks().await, []);
    agent.event(TaskEvent::StepStarted { step: Step::Partition }).await;
    assert_eq!(disks().await[0].stage, SlotStage::Writing);
    agent.event(TaskEvent::Done { reports: true }).await;
    assert_eq!(disks().await[0].stage, SlotStage::Deployed);
    let machine = agent.vanish().await;
    rig.boot_event(&machine, TO_DISK).await;
    rig.check(job, "awaiting-report").await;
    rig.report(rig.last_token()).await.unwrap();
    rig.check(job, "done").await;
    let known = disks().await.remove(0);
    assert_eq!((known.stage, known.table), (SlotStage::Confirmed, TableId::Mbr(0x77)));
    assert_eq!(known.image.to_string(), super::rig::IMAGE);

    // Our own whole disk is replaced without being asked about, if the agent finds it there.
    *rig.catalog.disk.lock().unwrap() = Some(disk_image(0x99));
    let job = rig.deploy_disk(|_| ()).await.unwrap().job.unwrap();
    let mut agent = rig.agent(&machine).await;
    let Work::DeployDisk(order) = agent.take_task().work else { panic!() };
    assert_eq!((order.overwrite, order.own), (Overwrite::BlankOnly, Some(TableId::Mbr(0x77))));
    agent.event(TaskEvent::StepStarted { step: Step::Partition }).await;
    // The machine dies: what its successor finds half-made there is ours.
    let machine = agent.vanish().await;
    let mut agent = rig.agent(&machine).await;
    let Work::DeployDisk(order) = agent.take_task().work else { panic!() };
    assert_eq!(order.overwrite, Overwrite::WholeDisk);
    agent.work().await;
    rig.service.cancel(job, Run::Real, "tester").await.unwrap();
    assert_eq!(disks().await[0].table, TableId::Mbr(0x99));

    // A slot takes the disk's place in the records as soon as its table is written.
    let refused = rig.deploy("node1").await.unwrap_err();
    let Refusal::NeedsYes { plan } = refused else { panic!("{refused}") };
    assert!(plan.nodes[0].lost.contains(&"the whole disk: lab/debian@1".to_owned()), "{plan:?}");
    rig.deploy_with("node1", |request| request.yes = true).await.unwrap();
    agent.take_task();
    agent.event(TaskEvent::StepStarted { step: Step::Partition }).await;
    assert_eq!(disks().await, []);
    agent.event(TaskEvent::StepStarted { step: Step::Clear }).await;
    assert_eq!(rig.service.node("node1").await.unwrap().slots.len(), 1);
}

#[tokio::test]
async fn slots_are_lost_to_a_whole_disk_and_only_with_leave() {
    let rig = Rig::with_disk(0x77).await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let job = rig.deploy("node1").await.unwrap().job.unwrap();
    agent.take_task();
    agent.work().await;
    rig.service.cancel(job, Run::Real, "tester").await.unwrap();
    let refused = rig.deploy_disk(|_| ()).await.unwrap_err();
    let Refusal::NeedsYes { plan } = refused else { panic!("{refused}") };
    assert_eq!(plan.nodes[0].lost, ["slot 5 of layout lab: lab/debian@1"]);
    rig.deploy_disk(|request| request.yes = true).await.unwrap();
    agent.take_task();
    agent.event(TaskEvent::StepStarted { step: Step::Partition }).await;
    assert_eq!(rig.service.node("node1").await.unwrap().slots, []);
}

#[tokio::test]
async fn what_no_whole_disk_can_be_is_refused_with_what_to_do() {
    let rig = Rig::new().await;
    let _agent = rig.approved(&Machine::new(1)).await;
    let refused = async |change: fn(&mut DeployRequest)| {
        rig.deploy_disk(change).await.unwrap_err().to_string()
    };
    let error = refused(|_| ()).await;
    assert!(error.ends_with("cannot be put on a whole disk: it holds no whole disk"), "{error}");
    *rig.catalog.disk.lock().unwrap() = Some(disk_image(1));
    for change in [(|request| request.slot = Some(5)) as fn(&mut DeployRequest), |request| {
        request.whole_disk = false;
    }] {
        assert_eq!(
            refused(change).await,
            "name either a slot, the whole disk, or partitions of the disk"
        );
    }
    assert!(refused(|request| request.layout = Some("lab".into())).await.contains("--layout"));
    assert!(
        refused(|request| request.partition = Some("sda1".into())).await.contains("--partition")
    );
    // A larger image than the disk, and sectors of another size.
    let mut large = disk_image(1);
    let DiskTable::Mbr { partitions, .. } = &mut large.whole.table else { panic!() };
    partitions[1].start_lba = 8 << 21;
    *rig.catalog.disk.lock().unwrap() = Some(large.clone());
    let error = refused(|_| ()).await;
    assert!(error.contains("has 8590983168 bytes, as the image needs them"), "{error}");
    let error = refused(|request| request.disk = Some("D1".into())).await;
    assert!(
        error.contains("cannot be used") && error.contains("this one has 4294967296"),
        "{error}"
    );
    large.whole.sector_bytes = 4096;
    *rig.catalog.disk.lock().unwrap() = Some(large);
    let error = refused(|request| request.disk = Some("D1".into())).await;
    assert!(error.contains("sectors of 4096 bytes, this one has sectors of 512"), "{error}");

    *rig.catalog.disk.lock().unwrap() = Some(disk_image(1));
    *rig.catalog.filesystem.lock().unwrap() = Some("ntfs");
    let error = refused(|_| ()).await;
    assert!(error.contains("--report none"), "{error}");
    let error = refused(|request| {
        request.report = ReportMode::None;
        request.hostname = Some("windows".into());
    });
    assert!(error.await.contains("there is no system for --hostname"));
    rig.deploy_disk(|request| request.report = ReportMode::None).await.unwrap();
}

#[tokio::test]
async fn a_partition_of_a_whole_disk_grows_and_swap_moves_out_of_its_way() {
    let rig = Rig::with_disk(0x77).await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    for named in [None, Some(1)] {
        let dry = rig.deploy_disk(|request| {
            (request.grow, request.dry_run) = (Some(GrowRequest { partition: named }), true);
        });
        let plan = dry.await.unwrap().plan;
        let grow = plan.nodes[0].grow.first().unwrap();
        // The disk has 4 GiB; swap of one MiB ended at two GiB and one MiB.
        assert_eq!((grow.number, grow.from_bytes), (1, 1 << 30));
        assert_eq!(grow.to_bytes, (3 << 30) - (1 << 20));
        assert_eq!((grow.moved.as_slice(), grow.filesystem_grows), (&[2][..], true));
    }
    let refused = async |partition| {
        let grow = Some(GrowRequest { partition });
        let refused = rig.deploy_disk(|request| request.grow = grow).await.unwrap_err();
        let Refusal::Invalid(message) = refused else { panic!("{refused}") };
        message
    };
    assert_eq!(refused(Some(2)).await, "partition 2 is swap; name one with a filesystem");
    assert_eq!(refused(Some(7)).await, "the image's disk has no partition 7; it has 1, 2");

    rig.deploy_disk(|request| request.grow = Some(GrowRequest::default())).await.unwrap();
    let task = agent.take_task();
    assert!(task.work.steps().contains(&Step::Grow));
    let Work::DeployDisk(order) = task.work else { panic!() };
    assert_eq!((order.grow, &order.whole), (Some(1), &disk_image(0x77).whole));
}

#[tokio::test]
async fn what_cannot_grow_is_only_grown_by_its_number() {
    let rig = Rig::with_disk(0x77).await;
    let _agent = rig.approved(&Machine::new(1)).await;
    *rig.catalog.filesystem.lock().unwrap() = Some("vfat");
    let asked = |partition| {
        rig.deploy_disk(move |request| {
            (request.grow, request.dry_run) = (Some(GrowRequest { partition }), true);
            request.report = ReportMode::None;
        })
    };
    let refused = asked(None).await.unwrap_err().to_string();
    assert!(refused.contains("no partition with ext2, ext3") && refused.contains("--grow=NUMBER"));
    let plan = asked(Some(1)).await.unwrap().plan;
    let grow = plan.nodes[0].grow.first().unwrap();
    assert_eq!((grow.filesystem.as_str(), grow.filesystem_grows), ("vfat", false));
}

#[tokio::test]
async fn ids_of_its_own_stay_the_same_when_the_task_is_taken_again() {
    let rig = Rig::with_disk(0x77).await;
    let mut agent = rig.approved(&Machine::new(1)).await;
    let refused = rig.deploy_with("node1", |request| request.fresh_ids = true).await.unwrap_err();
    assert!(refused.to_string().contains("--fresh-ids is about whole disks"), "{refused}");
    let fresh = |request: &mut DeployRequest| request.fresh_ids = true;
    let plan = rig.deploy_disk(fresh).await.unwrap().plan;
    assert!(matches!(plan.target, TargetView::WholeDisk { fresh_ids: true, .. }), "{plan:?}");
    let task = agent.take_task();
    assert!(task.work.steps().contains(&Step::FreshIds));
    let Work::DeployDisk(first) = task.work else { panic!() };
    assert_eq!(first.whole, disk_image(0x77).whole, "the agent needs the old ids to find them");
    agent.event(TaskEvent::StepStarted { step: Step::Partition }).await;
    let machine = agent.vanish().await;
    let mut agent = rig.agent(&machine).await;
    let Work::DeployDisk(again) = agent.take_task().work else { panic!() };
    assert_eq!(again.fresh_ids, first.fresh_ids);
    // The table is known again by the id that it has.
    let table = first.fresh_ids.unwrap().renew(&first.whole).table.id();
    let known = rig.service.node("node1").await.unwrap().whole_disks.remove(0);
    assert_eq!(known.table, table);
    assert_ne!(table, TableId::Mbr(0x77));
}

#[tokio::test]
async fn windows_keeps_its_ids() {
    let rig = Rig::with_disk(0x77).await;
    let _agent = rig.approved(&Machine::new(1)).await;
    for (filesystem, why) in [("ntfs", "partition 1 is ntfs"), ("vfat", "no Linux system")] {
        *rig.catalog.filesystem.lock().unwrap() = Some(filesystem);
        let refused = rig.deploy_disk(|request| {
            (request.fresh_ids, request.report) = (true, ReportMode::None);
        });
        let refused = refused.await.unwrap_err().to_string();
        assert!(refused.contains(why) && refused.contains("leave out --fresh-ids"), "{refused}");
    }
}
