//! Partitions of an image in partitions that a disk has. What is around them is noise, of which no byte may
//! change.

use super::{
    Saved,
    source::{Filled, SWAP_UUID, SourceDisk},
};
use crate::{
    disk::Operation,
    task::{
        Cancel,
        tests::{
            grow::size,
            rig::{Bench, Entry, MIB, Outcome, blkid, tool},
        },
    },
};
use metalcast_formats::whole_disk::found;
use metalcast_shared::{
    event::{Step, TaskEvent},
    hash::Hash,
    table::FoundTable,
    to_agent::{DeployPartitions, Overwrite, Placed, Work},
    whole_disk::Swap,
};
use metalcast_sys::loopdev::Options;
use std::{
    fs::File,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::Ordering,
};

const MBR: &str = "label: dos\nlabel-id: 0x99\n\
     start=2048,size=24576,type=7,bootable\nstart=26624,size=219136,type=f\n\
     start=30720,size=114688,type=83\nstart=149504,size=16384,type=82\n\
     start=169984,size=49152,type=83\nstart=223232,size=8192,type=83\n";

const GPT: &str = "label: gpt\n\
     start=2048,size=81920,type=U\nstart=83968,size=16384,type=L\n\
     start=100352,size=122880,type=L\nstart=223232,size=32768,type=L\n";

/// A disk that is full, with this table.
fn full(mib: u64, table: &str) -> Bench {
    let bench = Bench::new(mib * MIB, Options::default());
    let mut noise = vec![0; bench.bytes as usize];
    blake3::Hasher::new().update(b"theirs").finalize_xof().fill(&mut noise);
    bench.write(0, &noise);
    partition(&bench, table);
    bench
}

fn partition(bench: &Bench, table: &str) {
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.args(["-q", "--no-reread", "--wipe", "never", "--wipe-partitions", "never"]);
    let mut sfdisk = sfdisk.arg(&bench.disk).stdin(Stdio::piped()).spawn().unwrap();
    sfdisk.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
}

fn mbr() -> Bench {
    full(121, MBR)
}

impl Bench {
    fn table(&self) -> FoundTable {
        found(&mut File::open(&self.disk).unwrap(), self.bytes, 512).unwrap().unwrap()
    }

    /// With leave to overwrite what is there. `places` are numbers in the image and on the disk.
    fn partitions_order(&self, saved: &Saved, places: &[(u16, u16)]) -> DeployPartitions {
        let whole = saved.order(self.selector());
        let (swaps, data): (Vec<_>, Vec<_>) =
            places.iter().partition(|(from, _)| !saved.images.contains_key(from));
        let placed =
            |(from, to): (u16, u16)| Placed { number: to, partition: format!("sda{from}") };
        let swap = |(_, to): (u16, u16)| Swap { number: to, ..whole.whole.swaps[0].clone() };
        let mut fix_up = whole.fix_up;
        if data.iter().all(|(from, _)| *from == saved.ntfs) {
            fix_up.adaptation.kernel_args.clear();
        }
        DeployPartitions {
            image: whole.image,
            manifest: whole.manifest,
            partitions: data.into_iter().map(placed).collect(),
            swaps: swaps.into_iter().map(swap).collect(),
            disk: whole.disk,
            table: self.table(),
            overwrite: Overwrite::AnySlot,
            grow: Vec::new(),
            fix_up,
        }
    }

    fn fill(&self, order: &DeployPartitions, saved: &Saved) -> Outcome {
        self.fill_watched(order, saved, |_| {})
    }

    fn fill_watched(
        &self,
        order: &DeployPartitions,
        saved: &Saved,
        seen: impl Fn((&TaskEvent, &Cancel)) + Sync,
    ) -> Outcome {
        self.watch(seen, |context| {
            crate::task::deploy_partitions(order, &saved.key, &SourceDisk(saved), context)
        })
    }

    fn begin(&self, number: u16) -> u64 {
        self.table().partition(number).unwrap().start_bytes
    }

    /// Hash of all of the disk but these partitions.
    fn others(&self, numbers: &[u16]) -> Hash {
        let mut all = self.read(0, self.bytes);
        for number in numbers {
            let part = self.table().partition(*number).unwrap().clone();
            all[part.start_bytes as usize..][..part.bytes as usize].fill(0);
        }
        Hash::of(&all)
    }

    fn dump(&self) -> String {
        tool(Command::new("sfdisk").arg("--dump").arg(&self.disk))
    }

    /// That an NTFS knows its place, and has its copy behind it.
    fn check_ntfs(&self, number: u16) {
        let (start, node) = (self.begin(number), self.node(number));
        tool(Command::new("ntfsfix").arg("-n").arg(&node));
        tool(Command::new("ntfsinfo").args(["-m", "-f"]).arg(&node));
        let sector = self.read(start, 512);
        assert_eq!(sector[0x1c..0x20], (start as u32 / 512).to_le_bytes());
        assert_eq!(sector[0x18..0x1c], [63, 0, 255, 0]);
        assert_eq!(sector[510..], [0x55, 0xaa]);
        let total = u64::from_le_bytes(sector[0x28..0x30].try_into().unwrap());
        assert!(self.read(start + total * 512, 512) == sector, "the copy behind the volume");
    }
}

fn e2fsck(node: &Path) {
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(node));
}

#[test]
fn logical_and_primary_partitions_are_filled_and_nothing_else_changes() {
    let (saved, bench) = (Saved::mbr(), mbr());
    let targets = [1, 5, 6, 7];
    let (before, dump) = (bench.others(&targets), bench.dump());
    let mut order = bench.partitions_order(&saved, &[(1, 5), (5, 1), (6, 6), (7, 7)]);
    order.grow = vec![5, 1, 7];
    let outcome = bench.fill(&order, &saved).expect();
    assert!(outcome.has_said(&TaskEvent::Done { reports: true }));
    let steps = outcome.log.iter().filter_map(|entry| match entry {
        Entry::Event(TaskEvent::StepDone { step, .. }) => Some(*step),
        _ => None,
    });
    let steps: Vec<Step> = steps.collect();
    assert_eq!(steps, Work::DeployPartitions(Box::new(order)).steps());
    assert!(before == bench.others(&targets), "something else was changed");
    assert_eq!(bench.dump(), dump);
    bench.check_ntfs(1);
    assert!(size(&bench.node(1)) > 12 * MIB - 8192);
    for number in [5, 7] {
        e2fsck(&bench.node(number));
    }
    assert_eq!((size(&bench.node(5)), size(&bench.node(7))), (56 * MIB, 24 * MIB));
    assert_eq!(bench.cat(5, "/etc/hostname"), "node1\n");
    assert!(bench.cat(5, "/boot/grub/grub.cfg").contains("resume=/dev/sda2 quiet\n"));
    assert_eq!(blkid(&bench.node(6), "UUID"), SWAP_UUID);
    let notes = outcome.notes().join("\n");
    assert!(notes.contains("clear: first and last MiB of partition 6 zeroed"), "{notes}");
    assert!(notes.contains("NTFS begins at sector 2048 (was "), "{notes}");
}

#[test]
fn partitions_of_a_gpt_are_filled_as_they_are_in_the_image() {
    let (saved, bench) = (Saved::gpt(), full(127, GPT));
    let targets = [1, 3, 4];
    let (before, dump) = (bench.others(&targets), bench.dump());
    let order = bench.partitions_order(&saved, &[(2, 1), (3, 3), (5, 4)]);
    bench.fill(&order, &saved).expect();
    assert!(before == bench.others(&targets), "something else was changed");
    assert_eq!(bench.dump(), dump);
    tool(Command::new("fsck.vfat").arg("-n").arg(bench.node(1)));
    let sector = bench.read(bench.begin(1), 512);
    assert_eq!(sector[0x1c..0x20], 2048u32.to_le_bytes());
    bench.check_ntfs(4);
    e2fsck(&bench.node(3));
    let image = &saved.images[&5];
    assert_eq!(bench.differing_chunks(image, bench.begin(4)), 1, "but for the boot sector's");
}

/// Wherever a machine dies, nobody finds a boot sector before all is there, and no byte of the others is
/// lost; the next attempt makes it whole.
#[test]
fn a_machine_that_dies_anywhere_has_no_half_made_partition() {
    let saved = Saved::mbr();
    let places = [(5, 1), (7, 7)];
    let order = |bench: &Bench| {
        let mut order = bench.partitions_order(&saved, &places);
        order.fix_up.adaptation.kernel_args.clear();
        order.grow = vec![1];
        order
    };
    let bench = mbr();
    let whole = bench.fill(&order(&bench), &saved).expect().operations();
    assert!(whole.iter().all(|(step, _)| *step != Step::CheckDisk), "a look writes nothing");
    let of = |step: Step| whole.iter().filter(|(found, _)| *found == step).count();
    let transfer = (of(Step::Transfer) / 3).max(1);
    let points = (0..whole.len()).filter(|at| match whole[*at].0 {
        Step::Transfer => at % transfer == 0,
        Step::FirstBlocks => at % 3 == 0,
        _ => true,
    });
    for at in points.collect::<Vec<_>>() {
        let bench = mbr();
        let before = bench.others(&[1, 7]);
        bench.refuse(move |count, _| count >= at);
        let died = bench.fill(&order(&bench), &saved);
        let cause = died.cause();
        assert!(cause.contains("power is gone"), "operation {at}: {cause}");
        if at > of(Step::Clear) {
            let sector = Operation::Write { offset: bench.begin(1), bytes: 512 };
            let is_written = died.operations().contains(&(Step::BootCode, sector));
            assert_eq!(
                bench.has_boot_sector(bench.begin(1)),
                is_written,
                "operation {at}: {cause}"
            );
        }
        bench.refuse(|_, _| false);
        bench.fill(&order(&bench), &saved).expect();
        bench.check_ntfs(1);
        e2fsck(&bench.node(7));
        assert!(before == bench.others(&[1, 7]), "operation {at}");
    }
}

#[test]
fn what_came_before_the_interruption_is_not_fetched_again() {
    let (saved, bench) = (Saved::mbr(), mbr());
    let order = bench.partitions_order(&saved, &[(1, 5)]);
    let stop = |(event, cancel): (&TaskEvent, &Cancel)| {
        if matches!(event, TaskEvent::StepDone { step: Step::Transfer, .. }) {
            cancel.cancel("the test wants to look");
        }
    };
    bench.fill_watched(&order, &saved, stop).cause();
    let head = bench.read(bench.begin(5), 2048);
    assert!(head.iter().all(|byte| *byte == 0), "there is a filesystem already");
    let all = saved.sent.swap(0, Ordering::SeqCst);
    bench.fill(&order, &saved).expect();
    let again = saved.sent.load(Ordering::SeqCst);
    assert!(again < all / 2 && again < 10, "{again} of {all} chunks came again");
}

#[test]
fn an_id_that_the_node_has_already_is_told_of() {
    let (saved, bench) = (Saved::mbr(), mbr());
    let deploy = |to| {
        let order = bench.partitions_order(&saved, &[(7, to)]);
        let mut order = order;
        order.fix_up.adaptation.kernel_args.clear();
        bench.fill(&order, &saved).expect().notes().join("\n")
    };
    let told = "as another one on this node";
    let first = deploy(7);
    assert!(!first.contains(told), "{first}");
    let again = deploy(7);
    assert!(!again.contains(told), "its own does not count: {again}");
    let second = deploy(5);
    assert!(second.contains("partition 5 will have UUID") && second.contains(told), "{second}");
}

/// Runs an order that must fail at once; its cause. Nothing of the disk is changed.
fn refused(bench: &Bench, saved: &Saved, change: impl FnOnce(&mut DeployPartitions)) -> String {
    let before = bench.whole_hash();
    let mut order = bench.partitions_order(saved, &[(1, 1)]);
    change(&mut order);
    let outcome = bench.fill(&order, saved);
    assert_eq!(outcome.operations(), []);
    assert!(before == bench.whole_hash(), "something was written");
    outcome.cause()
}

#[test]
fn what_will_not_do_is_refused_before_anything_is_written() {
    let saved = Saved::windows();
    let bench = mbr();
    let to = |number| {
        refused(&bench, &saved, move |order: &mut DeployPartitions| {
            order.partitions[0].number = number;
        })
    };
    assert!(to(9).contains("the table has no partition 9"), "{}", to(9));
    assert!(to(2).contains("partition 2 is an extended one"), "{}", to(2));
    let small = to(8);
    assert!(small.contains("sda1 needs 8388608 bytes, partition 8 has 4194304"), "{small}");
    for (change, why) in [
        (
            (|order| order.overwrite = Overwrite::BlankOnly) as fn(&mut DeployPartitions),
            "not blank",
        ),
        (|order| order.disk.serial = Some("another".into()), "no disk with serial another"),
        (|order| order.partitions[0].partition = "sda9".into(), "has no partition sda9"),
        (
            |order| order.partitions.push(order.partitions[0].clone()),
            "two contents for partition 1",
        ),
        (|order| order.grow = vec![7], "nothing goes into partition 7"),
        (|order| order.manifest.signature[0] ^= 1, "not signed by this controller"),
        (
            |order| order.table.partitions[3].start_bytes += 512,
            "another one than when the job was made: partition 6 was",
        ),
    ] {
        let cause = refused(&bench, &saved, change);
        assert!(cause.contains(why), "{why}: {cause}");
    }
    // Somebody partitions it after the plan.
    let table = bench.table();
    partition(&bench, &MBR.replace("size=8192", "size=6144"));
    let cause = refused(&bench, &saved, |order| order.table = table);
    assert!(
        cause.contains("partition 8 was 4194304 bytes") && cause.contains("3145728"),
        "{cause}"
    );
}

#[test]
fn what_belongs_to_others_is_left_to_them() {
    let saved = Saved::windows();
    let bench = mbr();
    let order = bench.partitions_order(&saved, &[(1, 1)]);
    bench.fill(&order, &saved).expect();
    // Mounted: nobody may have anything of the disk.
    let dir = tempfile::tempdir().unwrap();
    tool(Command::new("mke2fs").args(["-q", "-F"]).arg(bench.node(7)));
    tool(Command::new("mount").arg(bench.node(7)).arg(dir.path()));
    let cause = bench.fill(&order, &saved).cause();
    tool(Command::new("umount").arg(dir.path()));
    assert!(cause.contains("it is in use (mounted, swap or part of an array)"), "{cause}");

    let lvm = ["-qq", "-ff", "-y", "--config", "devices{filter=[\"a|.*|\"] use_devicesfile=0}"];
    tool(Command::new("pvcreate").args(lvm).arg(bench.node(7)));
    let to = |number| {
        refused(&bench, &saved, move |order: &mut DeployPartitions| {
            order.partitions[0].number = number;
        })
    };
    assert!(
        to(7).contains("partition 7 cannot be overwritten: it is a physical volume"),
        "{}",
        to(7)
    );

    // Slots have loaders and records beside them.
    tool(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", "metalcast"])
            .arg(bench.node(1)),
    );
    let slot = to(5);
    assert!(
        slot.contains("partition 5 is a slot of Metalcast: deploy to it with --slot 5"),
        "{slot}"
    );
    assert!(to(1).contains("partition 1 is the boot partition of Metalcast"), "{}", to(1));
}

#[test]
fn volumes_with_other_sectors_are_refused() {
    let large = |node: &Path| {
        let mkfs = ["-q", "-f", "-F", "-s", "4096"];
        drop(tool(Command::new("mkfs.ntfs").args(mkfs).arg(node)));
    };
    let table = "label: dos\nlabel-id: 0x77\nstart=2048,size=16384,type=7\n";
    let saved = Saved::make(10 * MIB, table, &[(1, 1, 8, Filled::Made("ntfs", &large))]);
    let cause = refused(&mbr(), &saved, |order| order.fix_up.adaptation.kernel_args.clear());
    assert!(cause.contains("sectors of 4096 bytes, this one has sectors of 512 bytes"), "{cause}");
}
