//! Disks with ids of their own, judged by the tools that would mix up two of the same.

use super::{
    Bench, Saved, blank,
    refused::refused,
    source::{Filled, Parts, SWAP_UUID, SourceDisk},
};
use crate::{
    disk::Operation,
    task::tests::{
        filesystems,
        rig::{MIB, Outcome, blkid, ordinary_tree, tool},
    },
};
use metalcast_shared::{
    event::{Step, TaskEvent},
    fresh_ids::Seed,
    to_agent::{DeployDisk, Overwrite, Work},
};
use metalcast_sys::mount::{Mount, MsFlags};
use std::{collections::BTreeSet, fs, path::Path, process::Command};
use uuid::Uuid;

const FAT: &str = "A1B2-C3D4";

/// What names the disk's parts in its own files.
struct Ids {
    root: Uuid,
    boot: Uuid,
    data: Uuid,
    partuuid: String,
}

impl Ids {
    /// Others for each disk: tests run at a time, and the kernel mixes up filesystems of one UUID.
    fn new(partuuid: &str) -> Self {
        let [root, boot, data] = [(); 3].map(|()| Uuid::new_v4());
        Self { root, boot, data, partuuid: partuuid.into() }
    }

    fn fstab(&self) -> String {
        let Self { root, boot, data, .. } = self;
        format!(
            "UUID={root} / auto defaults 0 1\nUUID={boot} /boot ext4 defaults 0 2\n\
             UUID={FAT} /boot/efi vfat umask=0077 0 1\nUUID={SWAP_UUID} none swap sw 0 0\n\
             /dev/disk/by-uuid/{data} /srv auto defaults 0 2\nLABEL=x /mnt auto noauto 0 0\n"
        )
    }

    fn menu(&self) -> String {
        let Self { root, boot, partuuid, .. } = self;
        format!(
            "search --no-floppy --fs-uuid --set=root {boot}\nmenuentry 'x' $menuentry_id_option \
             'gnulinux-simple-{root}' {{\n\tlinux /vmlinuz root=UUID={root} ro\n}}\nmenuentry y {{\n\t\
             linux /vmlinuz root=PARTUUID={partuuid} ro noresume\n}}\n"
        )
    }

    /// The system, without its kernel's menu.
    fn write_root(&self, root: &Path) {
        ordinary_tree(root);
        fs::create_dir_all(root.join("sbin")).unwrap();
        fs::write(root.join("sbin/init"), "").unwrap();
        fs::write(root.join("etc/fstab"), self.fstab()).unwrap();
        fs::create_dir_all(root.join("etc/initramfs-tools/conf.d")).unwrap();
        let resume = format!("RESUME=UUID={SWAP_UUID}\n");
        fs::write(root.join("etc/initramfs-tools/conf.d/resume"), resume).unwrap();
        let crypttab = format!("tmp PARTUUID={} /dev/urandom tmp\n", self.partuuid);
        fs::write(root.join("etc/crypttab"), crypttab).unwrap();
    }

    fn make_ext4(uuid: Uuid, node: &Path, tree: impl FnOnce(&Path)) {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path());
        let uuid = uuid.to_string();
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-U", &uuid, "-d"]);
        tool(mke2fs.arg(dir.path()).arg(node));
    }

    fn make_boot(&self, node: &Path) {
        Self::make_ext4(self.boot, node, |dir| {
            fs::create_dir(dir.join("grub")).unwrap();
            fs::write(dir.join("grub/grub.cfg"), self.menu()).unwrap();
        });
    }

    fn make_esp(&self, node: &Path) {
        tool(Command::new("mkfs.vfat").args(["-i", "a1b2c3d4"]).arg(node));
        let file = tempfile::NamedTempFile::new().unwrap();
        let stub = format!("search.fs_uuid {} root \nconfigfile $prefix/grub.cfg\n", self.boot);
        fs::write(file.path(), stub).unwrap();
        for dir in ["::EFI", "::EFI/debian"] {
            tool(Command::new("mmd").arg("-i").arg(node).arg(dir));
        }
        let to = "::EFI/debian/grub.cfg";
        tool(Command::new("mcopy").arg("-i").arg(node).arg(file.path()).arg(to));
    }

    fn make_btrfs_root(&self, node: &Path) {
        let uuid = self.root.to_string();
        tool(Command::new("mkfs.btrfs").args(["-q", "-f", "-U", &uuid]).arg(node));
        let dir = tempfile::tempdir().unwrap();
        let mount = Mount::new(node, dir.path(), "btrfs", MsFlags::empty(), None).unwrap();
        let root = dir.path().join("@rootfs");
        tool(Command::new("btrfs").args(["subvolume", "create"]).arg(&root));
        self.write_root(&root);
        mount.close().unwrap();
    }

    fn make_xfs_data(&self, node: &Path) {
        let uuid = format!("uuid={}", self.data);
        tool(Command::new("mkfs.xfs").args(["-q", "-f", "-m", &uuid]).arg(node));
    }
}

/// Whether this kernel mounts FAT; without that no disk with one is deployed.
fn has_fat() -> bool {
    fs::read_to_string("/proc/filesystems").unwrap().contains("vfat")
}

/// ESP (empty where this kernel mounts none), `/boot`, a system on btrfs, swap, XFS.
fn gpt() -> (Saved, Ids) {
    let ids = Ids::new("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    let table = "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\n\
         start=2048,size=69632,type=U\nstart=71680,size=32768,type=L\n\
         start=104448,size=262144,type=L,uuid=AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE\n\
         start=366592,size=16384,type=S\nstart=382976,size=622592,type=L\n";
    let esp = |node: &Path| ids.make_esp(node);
    let esp: Option<(u16, u64, u64, Filled<'_>)> =
        has_fat().then_some((1, 1, 34, Filled::Made("vfat", &esp)));
    let others: Parts<'_> = &[
        (2, 35, 16, Filled::Made("ext4", &|node| ids.make_boot(node))),
        (3, 51, 128, Filled::Made("btrfs", &|node| ids.make_btrfs_root(node))),
        (4, 179, 8, Filled::Swap),
        (5, 187, 304, Filled::Made("xfs", &|node| ids.make_xfs_data(node))),
    ];
    let parts: Vec<_> = esp.into_iter().chain(others.iter().copied()).collect();
    (Saved::make(492 * MIB, table, &parts), ids)
}

/// A system on ext4 with its own `/boot`, swap, and data in a logical partition.
fn mbr() -> (Saved, Ids) {
    let mut ids = Ids::new("1234abcd-01");
    ids.boot = ids.root;
    let table = "label: dos\nlabel-id: 0x1234abcd\nstart=2048,size=98304,type=83,bootable\n\
         start=100352,size=16384,type=82\nstart=116736,size=36864,type=5\n\
         start=118784,size=32768,type=83\n";
    let root = |node: &Path| {
        Ids::make_ext4(ids.root, node, |dir| {
            ids.write_root(dir);
            fs::write(dir.join("boot/grub/grub.cfg"), ids.menu()).unwrap();
        });
    };
    let parts: Parts<'_> = &[
        (1, 1, 48, Filled::Made("ext4", &root)),
        (2, 49, 8, Filled::Swap),
        (3, 57, 18, Filled::Extended),
        (5, 58, 16, Filled::Made("ext4", &|node| Ids::make_ext4(ids.data, node, |_| ()))),
    ];
    (Saved::make(76 * MIB, table, parts), ids)
}

/// Beside this test others run, whose disks must not get the same ids.
fn seed_of(number: u128) -> Seed {
    Seed(Uuid::from_u128((u128::from(std::process::id()) << 64) | number))
}

fn order(bench: &Bench, saved: &Saved, seed: u128) -> DeployDisk {
    let mut order = saved.order(bench.selector());
    order.fresh_ids = Some(seed_of(seed));
    order.fix_up.adaptation.kernel_args.clear();
    order
}

fn deploy(bench: &Bench, saved: &Saved, seed: u128) -> Outcome {
    bench.carry_out(&order(bench, saved, seed), saved)
}

/// Every id that the tools know of a disk, by what it is of.
fn ids_of(disk: &Path, node: impl Fn(u16) -> std::path::PathBuf, numbers: &[u16]) -> Vec<String> {
    let dump = tool(Command::new("sfdisk").arg("--dump").arg(disk));
    let mut ids: Vec<String> = Vec::new();
    for line in dump.lines() {
        if let Some(id) = line.strip_prefix("label-id: ") {
            ids.push(id.trim_start_matches("0x").to_lowercase());
        }
        if let Some((_, rest)) = line.split_once("uuid=") {
            ids.push(rest.split(',').next().unwrap().trim().to_lowercase());
        }
    }
    ids.extend(numbers.iter().map(|number| blkid(&node(*number), "UUID").to_lowercase()));
    assert!(ids.iter().all(|id| id.len() >= 8), "{ids:?}");
    ids
}

fn ids_on(bench: &Bench, numbers: &[u16]) -> Vec<String> {
    ids_of(&bench.disk, |number| bench.node(number), numbers)
}

fn share_none(all: [&[String]; 3]) {
    let count: usize = all.iter().map(|ids| ids.len()).sum();
    let set: BTreeSet<&String> = all.iter().flat_map(|ids| ids.iter()).collect();
    assert_eq!(set.len(), count, "{all:?}");
}

fn theirs(ids: &Ids, numbers: usize) -> Vec<String> {
    let mut all = [ids.root, ids.boot, ids.data].iter().map(Uuid::to_string).collect::<Vec<_>>();
    all.extend([ids.partuuid.clone(), SWAP_UUID.into(), FAT.to_lowercase()]);
    all.sort();
    all.dedup();
    assert!(all.len() <= numbers + 3);
    all
}

/// What the deployed system has in a file, as GRUB reads it.
fn read(bench: &Bench, number: u16, file: &str) -> String {
    filesystems::grub_cat(&bench.node(number), file)
}

#[test]
fn two_of_a_gpt_image_have_no_id_in_common_and_name_their_own() {
    let (saved, old) = gpt();
    let numbers = &[1, 2, 3, 4, 5][usize::from(!has_fat())..];
    let benches = [1, 2].map(|seed| {
        let bench = blank(&saved, 0);
        let outcome = deploy(&bench, &saved, seed).expect();
        let notes = outcome.notes().join("\n");
        assert!(notes.contains(&format!("fresh-ids: partition 3: {} is ", old.root)), "{notes}");
        if has_fat() {
            assert!(notes.contains(&format!("boot-code: partition 1: {FAT} is ")), "{notes}");
            tool(Command::new("fsck.vfat").arg("-n").arg(bench.node(1)));
        }
        assert!(notes.contains("1 lines of /@rootfs/etc/fstab go by labels"), "{notes}");
        let said = tool(Command::new("sgdisk").arg("-v").arg(&bench.disk));
        assert!(said.contains("No problems found"), "{said}");
        for number in [2, 3, 5] {
            filesystems::check(&bench.node(number));
        }
        let steps = outcome.log.iter().filter_map(|entry| match entry {
            super::super::rig::Entry::Event(TaskEvent::StepDone { step, .. }) => Some(*step),
            _ => None,
        });
        let work = Work::DeployDisk(Box::new(order(&bench, &saved, seed)));
        assert_eq!(steps.collect::<Vec<Step>>(), work.steps());
        bench
    });
    let [first, second] = benches.each_ref().map(|bench| ids_on(bench, numbers));
    share_none([&first, &second, &theirs(&old, numbers.len())]);
    for bench in &benches {
        let id = |number| blkid(&bench.node(number), "UUID");
        let fstab = read(bench, 3, "/@rootfs/etc/fstab");
        for (number, line) in [
            (3, format!("UUID={} / auto", id(3))),
            (2, format!("UUID={} /boot ext4", id(2))),
            (4, format!("UUID={} none swap", id(4))),
            (5, format!("/dev/disk/by-uuid/{} /srv", id(5))),
        ] {
            assert!(fstab.contains(&line), "{number}: {fstab}");
        }
        let partuuid = tool(Command::new("sfdisk").arg("--part-uuid").arg(&bench.disk).arg("3"));
        let partuuid = partuuid.trim().to_lowercase();
        let crypttab = read(bench, 3, "/@rootfs/etc/crypttab");
        assert_eq!(crypttab, format!("tmp PARTUUID={partuuid} /dev/urandom tmp\n"));
        let resume = read(bench, 3, "/@rootfs/etc/initramfs-tools/conf.d/resume");
        assert_eq!(resume, format!("RESUME=UUID={}\n", id(4)));
        let menu = read(bench, 2, "/grub/grub.cfg");
        assert!(menu.starts_with(&format!("search --no-floppy --fs-uuid --set=root {}\n", id(2))));
        assert!(menu.contains(&format!("'gnulinux-simple-{}'", id(3))), "{menu}");
        let kernel = format!("linux /vmlinuz root=UUID={} ro resume=UUID={}\n", id(3), id(4));
        assert!(menu.contains(&kernel), "{menu}");
        assert!(menu.contains(&format!("root=PARTUUID={partuuid} ro noresume\n")), "{menu}");
        assert_eq!(read(bench, 3, "/@rootfs/etc/hostname"), "node1\n");
        if !has_fat() {
            continue;
        }
        assert!(fstab.contains(&format!("UUID={} /boot/efi", id(1))), "{fstab}");
        let stub =
            tool(Command::new("mtype").arg("-i").arg(bench.node(1)).arg("::EFI/debian/grub.cfg"));
        assert!(stub.starts_with(&format!("search.fs_uuid {} root", id(2))), "{stub}");
    }
}

#[test]
fn two_of_an_mbr_image_have_no_id_in_common_and_name_their_own() {
    let (saved, old) = mbr();
    let numbers = [1, 2, 5];
    let benches = [1, 2].map(|seed| {
        let bench = blank(&saved, 0);
        deploy(&bench, &saved, seed).expect();
        tool(Command::new("sfdisk").args(["--verify", "-q"]).arg(&bench.disk));
        filesystems::check(&bench.node(1));
        filesystems::check(&bench.node(5));
        bench
    });
    let [first, second] = benches.each_ref().map(|bench| ids_on(bench, &numbers));
    share_none([&first, &second, &theirs(&old, numbers.len())]);
    for (bench, ids) in benches.iter().zip([&first, &second]) {
        let (root, swap) = (blkid(&bench.node(1), "UUID"), blkid(&bench.node(2), "UUID"));
        let menu = bench.cat(1, "/boot/grub/grub.cfg");
        assert!(menu.contains(&format!("root=PARTUUID={}-01 ro noresume\n", ids[0])), "{menu}");
        assert!(menu.contains(&format!("root=UUID={root} ro resume=UUID={swap}\n")), "{menu}");
        assert!(bench.cat(1, "/etc/fstab").starts_with(&format!("UUID={root} / ")));
    }
    // What Metalcast deployed so is known again by the table's id, and may be replaced without leave.
    let mut again = order(&benches[0], &saved, 3);
    let first = seed_of(1).renew(&again.whole);
    again.own = Some(first.table.id());
    benches[0].carry_out(&again, &saved).expect();
    again.own = Some(again.whole.table.id());
    let outcome = benches[1].carry_out(&again, &saved);
    assert!(outcome.cause().contains("holds what Metalcast did not put there"));
}

/// A machine that dies in the middle gives the same ids when it is deployed again.
fn same_ids_again(saved: &Saved, numbers: &[u16]) {
    let bench = blank(saved, 0);
    let whole = deploy(&bench, saved, 7).expect().operations();
    let ids = ids_on(&bench, numbers);
    drop(bench);
    let of = |step: Step| whole.iter().rposition(|(found, _)| *found == step);
    // Its own tools write past the tap: the steps after it are refused, too.
    let points = [Step::FirstBlocks, Step::FixUp, Step::BootCode].into_iter().filter_map(of);
    for at in points {
        let bench = blank(saved, 0);
        bench.refuse(move |count, _: Operation| count >= at);
        let died = deploy(&bench, saved, 7);
        assert!(died.cause().contains("power is gone"), "operation {at}: {}", died.cause());
        bench.refuse(|_, _| false);
        let mut order = order(&bench, saved, 7);
        order.overwrite = Overwrite::WholeDisk;
        bench.carry_out(&order, saved).expect();
        assert_eq!(ids_on(&bench, numbers), ids, "operation {at}");
    }
    let bench = blank(saved, 0);
    let stop = |(event, cancel): (&TaskEvent, &crate::task::Cancel)| {
        if matches!(event, TaskEvent::StepDone { step: Step::FreshIds, .. }) {
            cancel.cancel("the test wants another go");
        }
    };
    let mut order = order(&bench, saved, 7);
    let source = SourceDisk(saved);
    let stopped =
        bench.watch(stop, |context| crate::task::deploy_disk(&order, &saved.key, &source, context));
    assert!(stopped.cause().contains("another go"), "{}", stopped.cause());
    assert!(!bench.is_startable(saved));
    order.overwrite = Overwrite::WholeDisk;
    bench.carry_out(&order, saved).expect();
    assert_eq!(ids_on(&bench, numbers), ids);
}

#[test]
fn a_gpt_deployment_that_is_taken_again_has_the_same_ids() {
    same_ids_again(&gpt().0, &[1, 2, 3, 4, 5][usize::from(!has_fat())..]);
}

#[test]
fn an_mbr_deployment_that_is_taken_again_has_the_same_ids() {
    same_ids_again(&mbr().0, &[1, 2, 5]);
}

#[test]
fn windows_and_what_nobody_can_look_into_keep_their_disk_as_it_is() {
    let fresh = |order: &mut DeployDisk| order.fresh_ids = Some(seed_of(1));
    for saved in [Saved::windows(), Saved::mbr()] {
        let cause = refused(&blank(&saved, 0), &saved, fresh);
        assert!(cause.starts_with("check-disk: partition "), "{cause}");
        assert!(cause.contains("holds ntfs") && cause.contains("leave out --fresh-ids"), "{cause}");
    }
    let luks = |node: &Path| {
        let mut header = b"LUKS\xba\xbe\x00\x01".to_vec();
        header.resize(4096, 0);
        fs::write(node, header).unwrap();
    };
    let table = "label: dos\nlabel-id: 0x79\nstart=2048,size=8192,type=83\n";
    let parts: Parts<'_> = &[(1, 1, 4, Filled::Made("dd", &luks))];
    let saved = Saved::make(6 * MIB, table, parts);
    let cause = refused(&blank(&saved, 0), &saved, fresh);
    assert!(cause.contains("holds crypto_LUKS"), "{cause}");
}
