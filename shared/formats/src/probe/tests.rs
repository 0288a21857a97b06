use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use tempfile::NamedTempFile;

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn file(mib: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(mib << 20).unwrap();
    file
}

fn probe_file(path: &Path) -> Contents {
    let mut file = File::open(path).unwrap();
    let bytes = file.metadata().unwrap().len();
    probe(&mut file, 0, bytes).unwrap()
}

fn blkid(path: &Path) -> BTreeMap<String, String> {
    let text = run(Command::new("blkid").args(["-p", "-o", "export"]).arg(path));
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.replace('\\', ""))).collect()
}

/// Formats a file of this size, then asks blkid and us.
fn agrees(kind: Kind, mib: u64, command: &[&str]) {
    let file = file(mib);
    run(Command::new(command[0]).args(&command[1..]).arg(file.path()));
    check(kind, file.path());
}

fn check(kind: Kind, path: &Path) {
    let theirs = blkid(path);
    let contents = probe_file(path);
    let ours = contents.find(kind).unwrap_or_else(|| panic!("{kind:?}: {contents}; {theirs:?}"));
    let their_name = theirs.get("TYPE").or(theirs.get("PTTYPE"));
    assert_eq!(their_name.map(String::as_str), Some(kind.name()));
    if let Some(uuid) = &ours.uuid {
        assert_eq!(theirs.get("UUID").or(theirs.get("PTUUID")), Some(uuid), "{contents}");
    }
    // NTFS and exFAT keep the label where we do not look.
    if !matches!(kind, Kind::Ntfs | Kind::Exfat) {
        assert_eq!(theirs.get("LABEL"), ours.label.as_ref(), "{contents}");
    }
    let alone = matches!(&contents, Contents::Known(found) if found.len() == 1);
    assert!(alone || kind == Kind::Gpt, "{contents}");
}

#[test]
fn file_systems_have_the_names_and_ids_that_blkid_gives_them() {
    agrees(Kind::Ext2, 8, &["mke2fs", "-q", "-F", "-t", "ext2", "-L", "old"]);
    agrees(Kind::Ext3, 8, &["mke2fs", "-q", "-F", "-t", "ext3"]);
    agrees(Kind::Ext4, 8, &["mke2fs", "-q", "-F", "-t", "ext4", "-L", "Debian root"]);
    agrees(Kind::ExtJournal, 8, &["mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "4096"]);
    agrees(Kind::Xfs, 320, &["mkfs.xfs", "-q", "-L", "data"]);
    agrees(Kind::Btrfs, 128, &["mkfs.btrfs", "-q", "-L", "a butter label"]);
    agrees(Kind::Ntfs, 8, &["mkfs.ntfs", "-q", "-F", "-f", "-L", "Windows"]);
    agrees(Kind::Vfat, 2, &["mkfs.vfat", "-F", "12", "-n", "FLOPPY"]);
    agrees(Kind::Vfat, 16, &["mkfs.vfat", "-F", "16"]);
    agrees(Kind::Vfat, 64, &["mkfs.vfat", "-F", "32", "-n", "ESP"]);
    agrees(Kind::Swap, 1, &["mkswap", "-L", "sw"]);
}

#[test]
fn containers_have_the_names_and_ids_that_blkid_gives_them() {
    let luks =
        ["cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let of = |more: &[&'static str]| [&luks[..], more, &["--key-file", "/proc/version"]].concat();
    agrees(Kind::Luks, 20, &of(&["--type", "luks1"]));
    agrees(Kind::Luks, 20, &of(&["--type", "luks2", "--label", "secret"]));
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("file"), "content").unwrap();
    let image = tree.path().join("image");
    run(Command::new("mksquashfs").arg(tree.path()).arg(&image).args(["-quiet", "-no-progress"]));
    check(Kind::Squashfs, &image);
    std::fs::remove_file(&image).unwrap();
    run(Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-V", "INSTALLER", "-o"])
        .arg(&image)
        .arg(tree.path()));
    check(Kind::Iso9660, &image);
}

#[test]
fn tables_have_the_ids_that_blkid_gives_them() {
    let file = file(16);
    run(Command::new("sgdisk").args(["-n", "1:0:0"]).arg(file.path()));
    check(Kind::Gpt, file.path());
    assert!(probe_file(file.path()).find(Kind::Mbr).is_some(), "with its protective MBR");
    file.as_file().write_all_at(&[0; 34 * 512], 0).unwrap();
    assert!(probe_file(file.path()).find(Kind::Gpt).is_some(), "the backup is enough");
    file.as_file().set_len(0).unwrap();
    file.as_file().set_len(16 << 20).unwrap();
    let script = "echo 'label: dos\nlabel-id: 0x0000beef\nstart=2048,type=83' | sfdisk -q \"$0\"";
    run(Command::new("sh").args(["-c", script]).arg(file.path()));
    check(Kind::Mbr, file.path());
}

/// What only the kernel or a pool of disks could make is made by hand, and blkid is asked whether it is.
#[test]
fn raid_and_volume_members_are_known() {
    let mut md = vec![0u8; 256];
    md[..4].copy_from_slice(&0xa92b_4efcu32.to_le_bytes());
    md[4] = 1;
    md[16..32].copy_from_slice(&[7; 16]);
    md[32..42].copy_from_slice(b"host:array");
    for (at, minor) in [(0u64, "1.1"), (4096, "1.2"), ((32768 - 16) * 512, "1.0")] {
        let file = file(16);
        md[144..152].copy_from_slice(&(at / 512).to_le_bytes());
        file.as_file().write_all_at(&md, at).unwrap();
        check(Kind::MdRaid, file.path());
        assert_eq!(blkid(file.path())["VERSION"], minor);
    }
    let old = file(16);
    let mut words: [u8; 64] = std::array::from_fn(|at| at as u8);
    words[32..36].copy_from_slice(&1024u32.to_le_bytes()); // KiB of data
    let at = (16 << 20) - 65536;
    old.as_file().write_all_at(&words, at).unwrap();
    old.as_file().write_all_at(&md[..4], at).unwrap();
    old.as_file().write_all_at(&[0, 0, 0, 0, 90, 0, 0, 0], at + 4).unwrap();
    check(Kind::MdRaid, old.path());

    let pool = file(64);
    for label_kib in [0, 256, 65536 - 512, 65536 - 256] {
        for uberblock in 0..128 {
            let at = (label_kib + 128 + uberblock) << 10;
            pool.as_file().write_all_at(&0x00ba_b10cu64.to_le_bytes(), at).unwrap();
        }
    }
    check(Kind::Zfs, pool.path());
}

#[test]
fn an_lvm_volume_is_known() {
    let file = file(16);
    let device = run(Command::new("losetup").args(["--find", "--show"]).arg(file.path()));
    let device = device.trim();
    let made = Command::new("pvcreate").args(["-q", "-y", "--devices", device, device]).output();
    run(Command::new("losetup").args(["--detach", device]));
    let made = made.expect("pvcreate (package lvm2) starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    check(Kind::Lvm2, file.path());
}

#[test]
fn nothing_and_something_are_told_apart() {
    let blank = file(8);
    assert_eq!(probe_file(blank.path()), Contents::Blank);
    blank.as_file().write_all_at(&[1], (8 << 20) - 1).unwrap();
    assert_eq!(probe_file(blank.path()), Contents::Unknown);
    assert_eq!(probe(&mut Cursor::new(vec![]), 0, 0).unwrap(), Contents::Blank);
    assert!(probe(&mut Cursor::new(vec![0; 100]), 0, 101).is_err(), "a device shorter than told");
}

#[test]
fn a_partition_is_probed_where_it_is() {
    let file = file(24);
    let mke2fs = ["-q", "-F", "-t", "ext4", "-L", "inner", "-E", "offset=8388608"];
    run(Command::new("mke2fs").args(mke2fs).arg(file.path()).arg("8m"));
    let mut device = File::open(file.path()).unwrap();
    let inner = probe(&mut device, 8 << 20, 8 << 20).unwrap();
    assert_eq!(inner.find(Kind::Ext4).unwrap().label.as_deref(), Some("inner"));
    assert!(inner.to_string().starts_with("ext4 \"inner\" "), "{inner}");
    assert_eq!(probe(&mut device, 16 << 20, 8 << 20).unwrap(), Contents::Blank);
}

proptest! {
    #[test]
    fn noise_does_no_harm(
        noise in prop::collection::vec(any::<u8>(), 0..5000),
        magic in prop::sample::select(vec![
            (0usize, &b"LABELONE"[..]), (24, b"LVM2 001"), (3, b"NTFS    "), (0x52, b"FAT32   "),
            (1024, &[0x10, 0x20, 0xf5, 0xf2]), (1080, &[0x53, 0xef]), (512, b"EFI PART"),
            (4086, b"SWAPSPACE2"), (0, b"LUKS\xba\xbe\0\x02"), (0, b"XFSB"), (510, &[0x55, 0xaa]),
        ]),
    ) {
        let mut noise = noise;
        let (at, magic) = magic;
        if noise.len() >= at + magic.len() {
            noise[at..at + magic.len()].copy_from_slice(magic);
            if at == 0 && noise.len() > 40 {
                noise[24..32].copy_from_slice(b"LVM2 001");
            }
        }
        let bytes = noise.len() as u64;
        let contents = probe(&mut Cursor::new(noise), 0, bytes).unwrap();
        let _ = contents.to_string();
    }
}
