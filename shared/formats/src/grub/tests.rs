use super::*;
use crate::layout::{PlannedPartition, Role};
use crate::probe::Kind;
use proptest::prelude::*;
use std::process::Command;
use std::sync::OnceLock;

const MODULE_DIRECTORY: &str = "/usr/lib/grub/i386-pc";

fn boot_img() -> Vec<u8> {
    std::fs::read(format!("{MODULE_DIRECTORY}/boot.img")).expect("grub-pc-bin is installed")
}

fn build(recipe: &recipe::Recipe, prefix: Option<&str>) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (config, memdisk, output) = (path("early.cfg"), path("memdisk.tar"), path("core.img"));
    std::fs::write(&config, recipe.early_config).unwrap();
    std::fs::write(&memdisk, &recipe.memdisk).unwrap();
    let mut args = recipe.mkimage_args(&config, &memdisk, &output);
    if let Some(prefix) = prefix {
        args.extend(["-p".into(), prefix.into()]);
    }
    let status = Command::new("grub-mkimage").args(args).status();
    assert!(status.expect("grub-mkimage (package grub-common) starts").success());
    std::fs::read(output).unwrap()
}

fn slot_core() -> &'static [u8] {
    static CORE: OnceLock<Vec<u8>> = OnceLock::new();
    CORE.get_or_init(|| build(&recipe::slot_core(), None))
}

fn slot() -> PlannedPartition {
    let (start_lba, sectors, ebr_lba) = (8192, 4096, Some(6144));
    PlannedPartition { number: 5, role: Role::Slot, start_lba, sectors, ebr_lba }
}

#[test]
fn both_cores_fit_where_they_go() {
    let disk = build(&recipe::disk_core(), None);
    assert!(place_core(&disk, 1, 2047).is_ok(), "{} bytes", disk.len());
    let room = SlotBoot::core_room_sectors(&slot()).unwrap();
    let placed = place_core(slot_core(), SlotBoot::core_lba(&slot()).unwrap(), room).unwrap();
    assert_eq!(placed.len() % 512, 0);
    let tight = place_core(slot_core(), 1, 100).unwrap_err();
    assert!(matches!(tight, CoreError::NoRoom { had_sectors: 100, .. }));
    assert!(slot_core().len() < core_image::MAX_CORE_BYTES * 9 / 10, "room for a newer GRUB");
}

/// The prefix in a core which we changed is found where one that grub-mkimage built with that prefix has
/// it, and nothing else of the unpacked content changes but the padding.
#[test]
fn a_new_prefix_is_the_one_grub_mkimage_would_have_put_there() {
    let wanted = recipe::slot_prefix(25);
    let ours = core_image::unpack(&reprefix(slot_core(), &wanted).unwrap()).unwrap();
    let theirs = core_image::unpack(&build(&recipe::slot_core(), Some(&wanted))).unwrap();
    let text = |payload: &[u8]| {
        let range = core_image::find_prefix(payload).unwrap();
        let (before, prefix) = (payload[..range.start - 8].len(), &payload[range]);
        (before, String::from_utf8(prefix.split(|&b| b == 0).next().unwrap().to_vec()).unwrap())
    };
    assert_eq!(text(&ours), text(&theirs));
    let original = core_image::unpack(slot_core()).unwrap();
    let range = core_image::find_prefix(&original).unwrap();
    assert!(ours[..range.start] == original[..range.start]);
    assert!(ours[range.end..] == original[range.end..]);
    assert_eq!(reprefix(&reprefix(slot_core(), "(,msdos9)/x").unwrap(), &wanted).unwrap(), {
        reprefix(slot_core(), &wanted).unwrap()
    });
}

#[test]
fn a_prefix_that_has_no_room_is_refused() {
    let long = format!("(,msdos5)/{}", "x".repeat(80));
    assert!(matches!(reprefix(slot_core(), &long), Err(CoreError::PrefixTooLong { .. })));
}

#[test]
fn boot_sectors_keep_what_is_not_theirs() {
    let existing: [u8; 512] = std::array::from_fn(|at| at as u8 ^ 0x5a);
    let disk = boot_sector(&boot_img(), Place::Disk(&existing), 1).unwrap();
    assert_eq!(disk[3..0x5a], existing[3..0x5a]);
    assert_eq!(disk[0x1b8..0x1fe], existing[0x1b8..0x1fe]);
    let lba = 0x0123_4567_89ab;
    let partition = boot_sector(&boot_img(), Place::Partition(&existing), lba).unwrap();
    assert_eq!(partition[3..0x5a], existing[3..0x5a]);
    assert_eq!(partition[0x1b8..], boot_img()[0x1b8..]);
    assert_eq!(partition[0x5c..0x64], lba.to_le_bytes());
    assert!(!is_blank(&partition));
    let blank = blank_boot_code(&disk);
    assert!(is_blank(&blank));
    assert_eq!(blank[3..0x5a], existing[3..0x5a]);
    assert_eq!(blank[0x1b8..0x1fe], existing[0x1b8..0x1fe]);
    assert!(blank[0x5a..0x1b8].iter().all(|&byte| byte == 0));
}

#[test]
fn other_files_are_not_taken_for_grub() {
    let shape = boot_sector(&[0; 511], Place::Gap, 1);
    assert_eq!(shape, Err(BootImageError::Shape { bytes: 511 }));
    let patched = boot_sector(&boot_img(), Place::Gap, 77).unwrap();
    assert_eq!(boot_sector(&patched, Place::Gap, 1), Err(BootImageError::NotGrub));
    assert!(matches!(place_core(&boot_img(), 1, 9), Err(CoreError::Short { bytes: 512 })));
    assert!(matches!(place_core(&[7; 9000], 1, 90), Err(CoreError::NotCore)));
    assert!(matches!(place_core(&vec![0; 1 << 20], 1, 9000), Err(CoreError::TooLarge { .. })));
    assert!(matches!(reprefix(&slot_core()[..9000], "/"), Err(CoreError::Short { .. })));
}

#[test]
fn a_slot_starts_from_its_own_sector_or_from_the_gap() {
    assert_eq!(SlotBoot::of(&slot(), Kind::Ext4), Some(SlotBoot::Partition(8192)));
    assert_eq!(SlotBoot::of(&slot(), Kind::Xfs), Some(SlotBoot::Gap(6145)));
    assert_eq!(SlotBoot::core_lba(&slot()), Some(6146));
    assert_eq!(SlotBoot::of(&PlannedPartition { ebr_lba: None, ..slot() }, Kind::Xfs), None);
}

fn script_check(text: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let status = Command::new("grub-script-check").arg(file.path()).status();
    assert!(status.expect("grub-script-check (package grub-common) starts").success(), "{text}");
}

#[test]
fn the_menu_is_a_script_whatever_the_titles_are() {
    let titles = ["Debian 12", "it's \"x\" $(y) \\ }\n;reboot", "", "ünïcode"];
    let slot = |(number, title): (u16, &str)| MenuSlot {
        number,
        title: title.into(),
        gap_lba: u64::from(number),
    };
    let slots = (5..).zip(titles).map(slot).collect();
    let text = grub_cfg(&Menu { slots, timeout_s: 3, restart_after_s: 20 });
    script_check(&text);
    assert!(text.contains("menuentry '6: its x (y)  };reboot' --id slot6 {"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("menuentry")).count(), 5);
}

#[test]
fn memory_disks_are_archives_of_valid_scripts() {
    for recipe in [recipe::disk_core(), recipe::slot_core()] {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("memdisk.tar");
        std::fs::write(&archive, &recipe.memdisk).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(&archive).arg("-C").arg(directory.path());
        assert!(tar.status().expect("tar starts").success());
        let script = std::fs::read_to_string(directory.path().join("start.cfg")).unwrap();
        script_check(&script);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damaged_cores_do_no_harm(
        changes in prop::collection::vec((0usize..0x2000, any::<u8>()), 1..8), cut in 0usize..300_000,
    ) {
        let mut core = slot_core().to_vec();
        for (at, value) in changes {
            core[at] = value;
        }
        let _ = reprefix(&core, "(,msdos5)/boot/grub");
        core.truncate(cut);
        let _ = reprefix(&core, "(,msdos5)/boot/grub");
        let _ = place_core(&core, u64::from(u32::MAX), 2000);
    }
}
