//! Ids follow from the seed, and no two are the same.

use super::*;
use crate::whole_disk::{BootCode, GptPartition, MbrPartition, Swap};
use std::collections::BTreeSet;

fn seed(number: u128) -> Seed {
    Seed(Uuid::from_u128(number))
}

fn whole(table: DiskTable) -> WholeDisk {
    let swaps = vec![Swap { number: 2, uuid: Some(Uuid::from_u128(9)), label: "theirs".into() }];
    WholeDisk { sector_bytes: 512, table, swaps, boot: BootCode::default() }
}

fn gpt() -> WholeDisk {
    let part = |number: u16| GptPartition {
        number,
        kind: Uuid::from_u128(7),
        guid: Uuid::from_u128(u128::from(number)),
        start_lba: 2048,
        sectors: 8,
        attributes: 4,
        name: "n".into(),
    };
    let partitions = vec![part(1), part(2)];
    whole(DiskTable::Gpt { guid: Uuid::from_u128(8), first_lba: 34, slots: 128, partitions })
}

fn mbr() -> WholeDisk {
    let part = |number| MbrPartition {
        number,
        kind: 0x83,
        start_lba: 2048,
        sectors: 8,
        bootable: false,
        ebr_lba: None,
    };
    whole(DiskTable::Mbr { signature: 0x1234_abcd, partitions: vec![part(1), part(12)] })
}

#[test]
fn a_seed_gives_the_same_ids_again_and_another_one_shares_none() {
    for image in [gpt(), mbr()] {
        let new = seed(1).renew(&image);
        assert_eq!(new, seed(1).renew(&image));
        assert_ne!(new.table.id(), image.table.id());
        let mut all = BTreeSet::new();
        for number in 1..=2 {
            for Renamed { old, new } in renamed(&image, &seed(number).renew(&image)) {
                all.insert(old);
                assert!(all.insert(new), "an id twice");
            }
        }
        assert_eq!(all.len(), 3 * renamed(&image, &new).len());
    }
    assert_ne!(seed(1).filesystem(1), seed(1).filesystem(2));
    assert_ne!(seed(1).serial(1), seed(2).serial(1));
}

#[test]
fn only_ids_are_others() {
    let (image, new) = (gpt(), seed(1).renew(&gpt()));
    let DiskTable::Gpt { partitions: olds, .. } = &image.table else { panic!() };
    let DiskTable::Gpt { partitions: news, .. } = &new.table else { panic!() };
    for (old, new) in olds.iter().zip(news) {
        assert_eq!(*new, GptPartition { guid: new.guid, ..old.clone() });
        assert_eq!(new.guid.get_version_num(), 4);
    }
    assert_eq!((new.swaps[0].number, new.swaps[0].label.as_str()), (2, "theirs"));
    let names = renamed(&mbr(), &seed(1).renew(&mbr()));
    assert_eq!(names[1].old, "1234abcd-0c");
    assert!(names[1].new.ends_with("-0c"), "{names:?}");
}
