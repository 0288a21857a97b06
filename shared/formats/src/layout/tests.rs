use super::*;
use proptest::prelude::*;

fn centmesh() -> Layout {
    Layout {
        name: "centmesh".into(),
        boot_mib: 512,
        swap_mib: 4096,
        reserve_mib: 1024,
        slots: 21,
        slot_mib: 20480,
    }
}

const ROOMY_BYTES: u64 = 500 << 30;

#[test]
fn centmesh_is_placed() {
    let plan = compute(&centmesh(), ROOMY_BYTES, 512).unwrap();
    let at = |number: u16| plan.partition(number).map(|p| (p.start_lba / 2048, p.sectors / 2048));
    assert_eq!(at(1), Some((1, 512)));
    assert_eq!(at(2), Some((513, 4096)));
    assert_eq!(at(3), Some((4609, 1024)));
    assert_eq!(at(4), Some((5633, 21 * 20481)));
    assert_eq!(at(5), Some((5634, 20480)));
    assert_eq!(at(25), Some((5634 + 20 * 20481, 20480)));
    assert_eq!(at(26), None);
    let slot = plan.partition(6).unwrap();
    assert_eq!(slot.ebr_lba, Some(slot.start_lba - 2048));
    assert_eq!(slot.gap(), Some(Gap { first_lba: slot.start_lba - 2047, sectors: 2047 }));
    assert_eq!(plan.slots().count(), 21);
    assert_eq!(plan.boot().role, Role::Boot);
}

#[test]
fn what_is_left_out_leaves_the_slots_their_numbers() {
    let layout = Layout { swap_mib: 0, reserve_mib: 0, ..centmesh() };
    let plan = compute(&layout, ROOMY_BYTES, 512).unwrap();
    let numbers: Vec<u16> = plan.partitions.iter().map(|p| p.number).take(3).collect();
    assert_eq!(numbers, [1, 4, 5]);
}

#[test]
fn a_disk_that_cannot_hold_it_is_refused_with_figures() {
    let needed_bytes = (5633 + 21 * 20481) << 20;
    assert!(compute(&centmesh(), needed_bytes, 512).is_ok());
    let had_bytes = needed_bytes - 1;
    let refusal = compute(&centmesh(), had_bytes, 512).unwrap_err();
    let layout = String::from("centmesh");
    assert_eq!(refusal, LayoutError::DoesNotFit { layout, needed_bytes, had_bytes });
    assert_eq!(
        compute(&centmesh(), ROOMY_BYTES, 4096),
        Err(LayoutError::SectorSize { sector_bytes: 4096 })
    );
    let huge = Layout { slot_mib: 100_000, ..centmesh() };
    assert!(matches!(compute(&huge, u64::MAX, 512), Err(LayoutError::BeyondMbr { .. })));
    let none = Layout { slots: 0, ..centmesh() };
    assert!(matches!(compute(&none, ROOMY_BYTES, 512), Err(LayoutError::Slots { .. })));
    let many = Layout { slots: 129, slot_mib: 1, ..centmesh() };
    assert!(matches!(compute(&many, ROOMY_BYTES, 512), Err(LayoutError::Slots { .. })));
    let bootless = Layout { boot_mib: 0, ..centmesh() };
    assert!(matches!(compute(&bootless, ROOMY_BYTES, 512), Err(LayoutError::NoBoot { .. })));
}

#[test]
fn an_equal_table_is_kept_and_another_one_is_explained() {
    let plan = compute(&centmesh(), ROOMY_BYTES, 512).unwrap();
    let mut found = plan.table(1);
    assert!(plan.matches(&found));
    found.entries[6].kind = 0x07;
    found.entries[3].kind = mbr::KIND_EXTENDED;
    found.entries[0].bootable = false;
    assert!(plan.matches(&found), "types and flags are not the layout");
    found.entries[6].sectors -= 1;
    found.entries[1].number = 9;
    let differences = plan.differences(&found);
    assert_eq!(differences.len(), 3, "{differences:?}");
    assert!(matches!(differences[0], Difference::Missing(p) if p.number == 2));
    assert!(matches!(differences[1], Difference::Differs { planned, .. } if planned.number == 7));
    assert!(differences[1].to_string().starts_with("partition 7 is 41943039 sectors at"));
}

proptest! {
    #[test]
    fn every_plan_can_be_written_and_fits(
        boot_mib in 0u32.., swap_mib in 0u32.., reserve_mib in 0u32..5, slots in 0u16..140,
        slot_mib in 0u32..9000, disk_bytes: u64,
    ) {
        let layout = Layout {
            name: "any".into(),
            boot_mib: boot_mib % 2000,
            swap_mib: swap_mib % 2000,
            reserve_mib,
            slots,
            slot_mib,
        };
        if let Ok(plan) = compute(&layout, disk_bytes, 512) {
            prop_assert!(plan.writes(1).is_ok());
            prop_assert!(plan.partitions.iter().all(|p| p.end_lba() * 512 <= disk_bytes));
            prop_assert!(plan.partitions.iter().all(|p| p.start_lba % 2048 == 0));
        }
    }

    #[test]
    fn no_layout_makes_it_panic(
        boot_mib: u32, swap_mib: u32, reserve_mib: u32, slots: u16, slot_mib: u32, disk_bytes: u64,
    ) {
        let name = String::new();
        let layout = Layout { name, boot_mib, swap_mib, reserve_mib, slots, slot_mib };
        let _ = compute(&layout, disk_bytes, 512);
    }
}
