//! Whole disks: made by sfdisk and the filesystems' own tools, saved as Clonezilla saves them, deployed,
//! and judged by those tools again.

mod compare;
mod fresh_ids;
mod grow;
mod partitions;
mod refused;
mod source;

use super::rig::{Bench, MIB, Outcome, blkid, tool};
use crate::{disk::Operation, task::Cancel};
use metalcast_formats::whole_disk;
use metalcast_shared::{
    event::{Step, TaskEvent},
    to_agent::{DeployDisk, Overwrite},
    whole_disk::MBR_CODE_BYTES,
};
use metalcast_sys::loopdev::Options;
use source::{Saved, SourceDisk};
use std::{process::Command, sync::atomic::Ordering};

/// What a disk needs beyond the image's own to be larger in a way that no table foresaw.
const MORE_BYTES: u64 = 37 * MIB + 512;

fn blank(saved: &Saved, more: u64) -> Bench {
    Bench::new(saved.disk_bytes + more, Options::default())
}

impl Bench {
    fn deploy(&self, saved: &Saved, overwrite: Overwrite) -> Outcome {
        self.deploy_watched(saved, overwrite, |_| {})
    }

    fn deploy_watched(
        &self,
        saved: &Saved,
        overwrite: Overwrite,
        seen: impl Fn((&TaskEvent, &Cancel)) + Sync,
    ) -> Outcome {
        let mut order = saved.order(self.selector());
        order.overwrite = overwrite;
        self.watch(seen, |context| {
            crate::task::deploy_disk(&order, &saved.key, &SourceDisk(saved), context)
        })
    }

    fn carry_out(&self, order: &DeployDisk, saved: &Saved) -> Outcome {
        self.watch(
            |_| {},
            |context| crate::task::deploy_disk(order, &saved.key, &SourceDisk(saved), context),
        )
    }

    /// First byte of a partition, as the image's table has it.
    fn start(&self, saved: &Saved, number: u16) -> u64 {
        let plan = whole_disk::plan(&saved.disk.whole, self.bytes, 512).unwrap();
        plan.partitions.iter().find(|extent| extent.number == number).unwrap().start_bytes
    }

    /// Numbers of partitions that differ from the image in some block.
    fn differing(&self, saved: &Saved) -> Vec<u16> {
        let differs = |number: u16| {
            let image = &saved.images[&number];
            self.differing_chunks(image, self.start(saved, number)) > 0
        };
        saved.images.keys().copied().filter(|number| differs(*number)).collect()
    }

    fn is_startable(&self, saved: &Saved) -> bool {
        let mbr = self.read(0, MBR_CODE_BYTES as u64).iter().any(|byte| *byte != 0);
        let esp = saved.esp.is_some_and(|esp| {
            self.read(self.start(saved, esp), 512).iter().any(|byte| *byte != 0)
        });
        mbr || esp
    }

    /// By tools that know nothing of us.
    fn check(&self, saved: &Saved) {
        tool(Command::new("sfdisk").args(["--verify", "-q"]).arg(&self.disk));
        if saved.esp.is_some() {
            let said = tool(Command::new("sgdisk").arg("-v").arg(&self.disk));
            assert!(said.contains("No problems found"), "{said}");
        }
        for (number, image) in &saved.images {
            let node = self.node(*number);
            match image.partition().filesystem.as_str() {
                "ext4" => tool(Command::new("e2fsck").args(["-f", "-n"]).arg(&node)),
                "vfat" => tool(Command::new("fsck.vfat").arg("-n").arg(&node)),
                "ntfs" => tool(Command::new("ntfsfix").arg("-n").arg(&node)),
                _ => String::new(),
            };
        }
        let swap = self.node(saved.swap);
        assert_eq!(blkid(&swap, "UUID"), source::SWAP_UUID);
        assert_eq!(blkid(&swap, "LABEL"), "theirs");
    }
}

/// All of a deployment on disks of the same size and larger.
fn deploys_well(saved: &Saved, root: u16) {
    for more in [0, MORE_BYTES] {
        let bench = blank(saved, more);
        let stop = |(event, cancel): (&TaskEvent, &Cancel)| {
            if matches!(event, TaskEvent::StepDone { step: Step::FirstBlocks, .. }) {
                cancel.cancel("the test wants to look");
            }
        };
        bench.deploy_watched(saved, Overwrite::BlankOnly, stop).cause();
        assert_eq!(bench.differing(saved), Vec::from_iter(saved.esp), "all but the ESP is there");
        assert!(!bench.is_startable(saved));

        let outcome = bench.deploy(saved, Overwrite::WholeDisk).expect();
        assert!(outcome.has_said(&TaskEvent::Done { reports: true }));
        let ntfs = saved.ntfs;
        assert_eq!(
            bench.differing(saved),
            [root, ntfs],
            "the system was adapted, NTFS told its place"
        );
        let start = bench.start(saved, ntfs);
        let sector = bench.read(start, 512);
        assert_eq!(sector[0x1c..0x20], (start as u32 / 512).to_le_bytes());
        let total = u64::from_le_bytes(sector[0x28..0x30].try_into().unwrap());
        assert!(bench.read(start + total * 512, 512) == sector, "the copy behind the volume");
        bench.check(saved);
        assert_eq!(bench.cat(root, "/etc/hostname"), "node1\n");
        assert_eq!(bench.cat(root, "/etc/machine-id"), "");
        assert!(bench.cat(root, "/etc/fstab").starts_with("UUID=0000-0000 / ext4"), "as it was");
        let menu = bench.cat(root, "/boot/grub/grub.cfg");
        assert!(menu.contains("root=/dev/sda1 ro resume=/dev/sda2 quiet\n"), "{menu}");
        assert!(bench.cat(root, "/etc/metalcast/report.conf").contains("token='aa'"));
        assert_eq!(bench.read(0, MBR_CODE_BYTES as u64), saved.mbr[..MBR_CODE_BYTES]);
        let table = |disk: &std::path::Path| {
            let dump = tool(Command::new("sfdisk").arg("--dump").arg(disk));
            let lines = dump
                .lines()
                .filter(|line| !line.starts_with("device:") && !line.starts_with("last-lba:"));
            let row = |line: &str| line.split_once(" : ").map_or(line, |(_, row)| row).to_owned();
            lines.map(row).collect::<Vec<_>>()
        };
        assert_eq!(table(&bench.disk), table(&saved.file), "the table with all ids");
    }
}

#[test]
fn a_gpt_with_esp_root_swap_and_windows_is_made_again() {
    deploys_well(&Saved::gpt(), 3);
}

#[test]
fn an_mbr_with_logical_partitions_and_a_boot_loader_is_made_again() {
    let saved = Saved::mbr();
    deploys_well(&saved, 1);
    let bench = blank(&saved, 0);
    bench.deploy(&saved, Overwrite::BlankOnly).expect();
    assert_eq!(bench.read(512, 3 * 512), saved.gap[..3 * 512]);
    let frame = bench.start(&saved, 2);
    assert_eq!(bench.read(frame, 446), source::EXTENDED_CODE);
}

/// A machine that dies at one operation of the disk is deployed again; until the very last writes no
/// firmware finds anything to start.
fn nothing_is_half_startable(saved: &Saved) {
    let bench = blank(saved, 0);
    let whole = bench.deploy(saved, Overwrite::BlankOnly).expect().operations();
    // An old system is on the disk when it begins.
    assert!(bench.is_startable(saved));
    let of = |step: Step| whole.iter().filter(|(found, _)| *found == step).count();
    let (transfer, first) = (of(Step::Transfer), of(Step::CheckDisk));
    assert_eq!(first, 0, "a look writes nothing");
    let boot = whole.len() - of(Step::BootCode);
    let points = (1..whole.len()).filter(|at| match whole[*at].0 {
        Step::Transfer => at % (transfer / 2).max(1) == 0,
        Step::Partition => at % 9 == 1,
        Step::FirstBlocks => at % 3 == 0,
        _ => true,
    });
    for at in points.collect::<Vec<_>>() {
        let bench = blank(saved, 0);
        bench.write(0, &saved.mbr[..MBR_CODE_BYTES]);
        bench.refuse(move |count, _| count >= at);
        let died = bench.deploy(saved, Overwrite::WholeDisk);
        let cause = died.cause();
        assert!(cause.contains("power is gone"), "operation {at}: {cause}");
        let code = Operation::Write { offset: 0, bytes: MBR_CODE_BYTES as u64 };
        let esp = at > boot && saved.esp.is_some();
        if !esp {
            let is_complete = died.operations().contains(&(Step::BootCode, code));
            assert_eq!(bench.is_startable(saved), is_complete, "operation {at}: {cause}");
        }
        bench.refuse(|_, _| false);
        bench.deploy(saved, Overwrite::WholeDisk).expect();
        bench.check(saved);
    }
}

#[test]
fn a_machine_that_dies_anywhere_has_no_half_made_mbr_disk() {
    nothing_is_half_startable(&Saved::mbr());
}

#[test]
fn a_machine_that_dies_anywhere_has_no_half_made_gpt_disk() {
    nothing_is_half_startable(&Saved::gpt());
}

#[test]
fn the_boot_code_is_the_last_of_all_writes() {
    let saved = Saved::mbr();
    let operations = blank(&saved, 0).deploy(&saved, Overwrite::BlankOnly).expect().operations();
    let code = Operation::Write { offset: 0, bytes: MBR_CODE_BYTES as u64 };
    let last = &operations[operations.len() - 2..];
    assert_eq!(last, [(Step::BootCode, code), (Step::BootCode, Operation::Flush)]);
    let before = operations.iter().filter(|(_, operation)| *operation == code).count();
    assert_eq!(before, 1, "and it is written once");
}

#[test]
fn what_is_on_the_disk_already_is_not_fetched() {
    let saved = Saved::gpt();
    let bench = blank(&saved, 0);
    bench.deploy(&saved, Overwrite::BlankOnly).expect();
    let all = saved.sent.swap(0, Ordering::SeqCst);
    bench.deploy(&saved, Overwrite::WholeDisk).expect();
    let again = saved.sent.load(Ordering::SeqCst);
    // First and last MiB of each partition, and what the fix-ups changed.
    assert!(again < all / 2 && again < 20, "{again} of {all} chunks came again");
}

#[test]
fn a_disk_without_linux_is_deployed_and_nobody_waits_for_it() {
    let saved = Saved::windows();
    let outcome = blank(&saved, 0).deploy(&saved, Overwrite::BlankOnly).expect();
    assert!(outcome.has_said(&TaskEvent::Done { reports: false }));
    let notes = outcome.notes().join("\n");
    assert!(notes.contains("no Linux system in the image"), "{notes}");
}
