use super::*;
use metalcast_shared::{
    disk::Content,
    table::{FoundPartition, FoundTable, PartitionKind},
    to_agent::CaptureSource,
    whole_disk::TableId,
};

fn layout(name: &str) -> Layout {
    Layout {
        name: name.into(),
        boot_mib: 64,
        swap_mib: 64,
        reserve_mib: 0,
        slots: 3,
        slot_mib: 512,
    }
}

fn disk(serial: Option<&str>, gib: u64, contents: &[(Option<u32>, &str)]) -> Disk {
    Disk {
        name: "vda".into(),
        serial: serial.map(Into::into),
        bytes: gib << 30,
        logical_sector: 512,
        contents: contents
            .iter()
            .map(|(partition, what)| Content {
                partition: *partition,
                what: (*what).into(),
                bytes: 1,
            })
            .collect(),
        ..Disk::default()
    }
}

fn used(serial: &str, gib: u64, layout: &Layout, slot: u16, stage: SlotStage) -> SlotUse {
    SlotUse {
        disk: DiskSelector::of(&disk(Some(serial), gib, &[])).unwrap().to_string(),
        slot,
        layout: layout.clone(),
        image: "lab/debian@1".parse().unwrap(),
        stage,
        at_unix_ms: 1,
    }
}

fn plan(
    disks: Vec<Disk>,
    slots: &[SlotUse],
    named: Option<&str>,
    yes: bool,
) -> Result<DiskPlan, PlanError> {
    let inventory = Inventory { disks, ..Inventory::default() };
    deployment(&Ask {
        inventory: &inventory,
        ours: Ours { slots, disks: &[], partitions: &[] },
        layout: &layout("lab"),
        slot: 5,
        disk: named,
        needed_bytes: 512 << 20,
        yes,
    })
}

#[test]
fn a_blank_disk_gets_the_layout() {
    let plan = plan(vec![disk(Some("A"), 4, &[])], &[], None, false).unwrap();
    assert_eq!((plan.layout, plan.overwrite), (LayoutAction::Write, Overwrite::BlankOnly));
    assert!(!plan.needs_yes());
}

#[test]
fn foreign_data_needs_a_yes() {
    let foreign = || vec![disk(Some("A"), 4, &[(None, "GPT"), (Some(1), "ntfs")])];
    let asked = plan(foreign(), &[], None, false).unwrap();
    assert_eq!((asked.layout, asked.foreign.len()), (LayoutAction::Replace, 2));
    assert!(asked.needs_yes());
    let agreed = plan(foreign(), &[], None, true).unwrap();
    assert_eq!(agreed.overwrite, Overwrite::WholeDisk);
    assert!(!agreed.needs_yes());
}

#[test]
fn what_we_deployed_is_ours_to_replace_but_only_in_its_slot() {
    let lab = layout("lab");
    let disks = || vec![disk(Some("A"), 4, &[(None, "MBR"), (Some(5), "ext4"), (Some(6), "xfs")])];
    let own = plan(disks(), &[used("A", 4, &lab, 5, SlotStage::Writing)], None, false).unwrap();
    assert_eq!((own.layout, own.overwrite), (LayoutAction::Keep, Overwrite::OwnSlot));
    assert!(!own.needs_yes());
    let other = plan(disks(), &[used("A", 4, &lab, 6, SlotStage::Deployed)], None, false).unwrap();
    assert_eq!((other.layout, other.overwrite), (LayoutAction::Keep, Overwrite::BlankOnly));
    assert_eq!(other.foreign, ["partition 5: ext4 (1 bytes)"]);
    let old = used("A", 4, &layout("old"), 5, SlotStage::Confirmed);
    let relaid = plan(disks(), &[old], None, false).unwrap();
    assert_eq!((relaid.layout, relaid.foreign.len()), (LayoutAction::Replace, 4));
    // Another disk's slots say nothing about this one.
    let elsewhere =
        plan(disks(), &[used("B", 4, &lab, 5, SlotStage::Deployed)], None, false).unwrap();
    assert!(elsewhere.needs_yes());
}

#[test]
fn a_disk_is_chosen_only_when_there_is_no_doubt() {
    let check = |disks: Vec<Disk>, named: Option<&str>, part: &str| {
        let error = plan(disks, &[], named, true).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let (a, b) = (|| disk(Some("A"), 4, &[]), || disk(Some("B"), 4, &[]));
    check(vec![a(), b()], None, "--disk SERIAL: vda (serial A");
    check(vec![disk(None, 4, &[])], None, "no disk is large enough");
    check(vec![disk(Some("A"), 1, &[])], None, "no disk is large enough");
    check(vec![disk(Some("A"), 1, &[])], Some("A"), "cannot be used");
    check(vec![a()], Some("X"), "no disk has serial or WWN X; the node has vda");
    check(vec![a(), a()], Some("A"), "refusing to choose");
    check(vec![], None, "no disks");
    assert_eq!(
        plan(vec![a(), b()], &[], Some("B"), false).unwrap().disk.serial.as_deref(),
        Some("B")
    );
    assert!(plan(vec![a(), disk(None, 9, &[]), disk(Some("C"), 1, &[])], &[], None, false).is_ok());
}

#[test]
fn slots_and_images_must_fit() {
    let inventory = Inventory { disks: vec![disk(Some("A"), 4, &[])], ..Inventory::default() };
    let ask = |slot, needed_bytes| Ask {
        inventory: &inventory,
        ours: Ours { slots: &[], disks: &[], partitions: &[] },
        layout: LAYOUT.get_or_init(|| layout("lab")),
        slot,
        disk: None,
        needed_bytes,
        yes: false,
    };
    static LAYOUT: std::sync::OnceLock<Layout> = std::sync::OnceLock::new();
    assert_eq!(
        deployment(&ask(8, 1)).unwrap_err().to_string(),
        "layout lab has slots 5 to 7, not 8"
    );
    assert!(matches!(
        deployment(&ask(5, (512 << 20) + 1)).unwrap_err(),
        PlanError::SlotTooSmall { .. }
    ));
}

#[test]
fn only_a_complete_system_can_be_selected() {
    let lab = layout("lab");
    let inventory = Inventory { disks: vec![disk(Some("A"), 4, &[])], ..Inventory::default() };
    let check = |slots: &[SlotUse]| selection(&inventory, slots, 5);
    assert!(check(&[used("A", 4, &lab, 5, SlotStage::Deployed)]).is_ok());
    for slots in [
        vec![],
        vec![used("A", 4, &lab, 5, SlotStage::Writing)],
        vec![used("B", 4, &lab, 5, SlotStage::Deployed)],
        vec![used("A", 4, &lab, 6, SlotStage::Deployed)],
    ] {
        assert_eq!(check(&slots), Err(PlanError::NothingThere { slot: 5 }));
    }
}

fn capture_of(
    disks: Vec<Disk>,
    slots: &[SlotUse],
    named: Option<&str>,
    what: Wanted<'_>,
) -> Result<CapturePlan, PlanError> {
    let inventory = Inventory { disks, ..Inventory::default() };
    let layout = layout("lab");
    capture(&CaptureAsk {
        inventory: &inventory,
        slots,
        layout: &layout,
        disk: named,
        what,
        force: false,
    })
}

#[test]
fn a_slot_is_captured_from_where_we_deployed_it_with_the_layout_of_then() {
    let disks = || vec![disk(Some("A"), 4, &[]), disk(Some("B"), 4, &[])];
    let slot = Wanted::Slot(5);
    let nothing = capture_of(disks(), &[], None, slot);
    assert!(matches!(nothing, Err(PlanError::SeveralDisks { .. })), "{nothing:?}");
    let then = Layout { slots: 2, ..layout("then") };
    let slots = [used("B", 4, &then, 5, SlotStage::Deployed)];
    let plan = capture_of(disks(), &slots, None, slot).unwrap();
    assert_eq!(plan.disk.serial.as_deref(), Some("B"));
    assert_eq!(plan.source, CaptureSource::Slot { layout: then.clone(), slot: 5 });
    assert_eq!(plan.present.as_ref(), Some(&slots[0]));
    // The other disk has nothing of ours: the node's own layout is what it may have.
    let plan = capture_of(disks(), &slots, Some("A"), slot).unwrap();
    assert_eq!(
        (plan.source, plan.present),
        (CaptureSource::Slot { layout: layout("lab"), slot: 5 }, None)
    );
    let both = [used("A", 4, &then, 5, SlotStage::Deployed), slots[0].clone()];
    let several = capture_of(disks(), &both, None, slot);
    assert!(matches!(several, Err(PlanError::SeveralDisks { .. })), "{several:?}");
    let half = [used("B", 4, &then, 5, SlotStage::Writing)];
    let half = capture_of(disks(), &half, None, slot);
    assert!(matches!(half, Err(PlanError::Incomplete { slot: 5, .. })), "{half:?}");
}

#[test]
fn a_whole_disk_of_any_size_is_captured_by_its_name_only() {
    let small = || vec![disk(Some("A"), 0, &[(None, "GPT")])];
    let plan = capture_of(small(), &[], Some("A"), Wanted::Disk).unwrap();
    assert_eq!(plan.source, CaptureSource::Disk);
    let plan = capture_of(small(), &[], Some("A"), Wanted::Partitions(&[2, 3])).unwrap();
    assert_eq!(plan.source, CaptureSource::Partitions(vec![2, 3]));
    for named in [None, Some("B")] {
        capture_of(small(), &[], named, Wanted::Disk).unwrap_err();
    }
}

/// A disk whose table is that of a layout.
fn laid_out(layout: &Layout) -> Disk {
    let mut disk = disk(Some("A"), 4, &[(Some(3), "xfs"), (Some(5), "ext4")]);
    let plan = compute(layout, disk.bytes, 512).unwrap();
    let found = |planned: &metalcast_formats::layout::PlannedPartition| FoundPartition {
        number: planned.number,
        start_bytes: planned.start_lba * 512,
        bytes: planned.sectors * 512,
        kind: PartitionKind::Mbr(0x83),
        in_use: None,
    };
    let partitions = plan.partitions.iter().map(found).collect();
    disk.table = Some(FoundTable { id: TableId::Mbr(1), partitions });
    disk
}

fn into(
    disk: &Disk,
    (slots, layouts): (&[SlotUse], &[Layout]),
    number: u16,
    yes: bool,
) -> Result<PartitionsPlan, PlanError> {
    let inventory = Inventory { disks: vec![disk.clone()], ..Inventory::default() };
    let incoming =
        Incoming { number, name: "sda1".into(), filesystem: "ext4".into(), needed_bytes: 16 << 20 };
    partitions(&PartitionsAsk {
        inventory: &inventory,
        ours: Ours { slots, disks: &[], partitions: &[] },
        layouts,
        incoming: &[incoming],
        sector_bytes: None,
        disk: None,
        yes,
    })
}

#[test]
fn of_a_layout_only_what_is_the_sites_own_is_a_partition_like_others() {
    let lab = Layout { reserve_mib: 32, ..layout("lab") };
    let disk = laid_out(&lab);
    let known = (&[][..], std::slice::from_ref(&lab));
    let plan = into(&disk, known, 3, false).unwrap();
    assert!(plan.needs_yes() && plan.overwrite == Overwrite::BlankOnly, "{plan:?}");
    assert_eq!(plan.lost, ["partition 3: xfs (1 bytes)"]);
    let plan = into(&disk, known, 3, true).unwrap();
    assert!(!plan.needs_yes() && plan.overwrite == Overwrite::AnySlot, "{plan:?}");
    for number in [1, 2, 4] {
        let error = into(&disk, known, number, true).unwrap_err();
        let PlanError::Partition { source, .. } = error else { panic!("{error}") };
        assert!(matches!(source, PartitionError::LayoutsOwn { .. }), "{number}: {source}");
    }
    // The configuration may have lost the layout since; then what was deployed with it tells.
    let slot = PartitionError::Slot { number: 6, layout: "lab".into() };
    let remembered = [used("A", 4, &lab, 5, SlotStage::Confirmed)];
    for known in [known, (&remembered[..], &[][..])] {
        let error = into(&disk, known, 6, true).unwrap_err();
        assert!(matches!(error, PlanError::Partition { source, .. } if source == slot));
    }
    assert!(into(&disk, (&[], &[]), 6, true).is_ok(), "nobody knows of a layout");
    let nameless = Disk { serial: None, ..disk };
    let error = into(&nameless, known, 3, true).unwrap_err();
    assert!(matches!(error, PlanError::NoIdentity { .. }), "{error}");
}
