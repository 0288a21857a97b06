//! The whole way: a blank machine netboots, enrols, is approved, gets a real Clonezilla image streamed into a slot of a
//! CentMesh disk, starts it through GRUB and has it report in.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::loopdev::LoopDisk;
use metalcast_tests::process::run;
use metalcast_tests::qemu::{Disk, Machine, Spec};
use metalcast_tests::rig::{Artefacts, Rig};

/// Ten times what an idle machine needs.
const REGISTRATION: Duration = Duration::from_secs(300);
const LOGIN: Duration = Duration::from_secs(300);

/// Room for the default layout, 21 slots of 20 GB; the file is sparse.
const DISK_BYTES: u64 = 500_000_000_000;

#[test]
fn a_blank_machine_becomes_a_running_slot() {
    let artefacts = Artefacts::build().unwrap();
    let debian = image::debian().unwrap();
    let mut lab = Lab::new("deploy", 31).unwrap();
    let mut rig = Rig::start(&lab, &artefacts).unwrap();
    rig.cli(&["image", "import", debian.zstd.to_str().unwrap(), "lab/debian"]).unwrap();

    let file = lab.dir().join("node1.disk");
    let spec = Spec::node(1).disk(Disk::blank(&file, DISK_BYTES, "MCDISK1").unwrap());
    let mut machines = [Machine::start(&mut lab, &spec).unwrap()];
    let names = rig.wait_for_nodes(&mut machines, 1, "new", REGISTRATION).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 0, "the disk of an unapproved node was written");

    rig.cli(&["node", "approve", &names[0]]).unwrap();
    let ordered = Instant::now();
    let deploy = ["deploy", "lab/debian", "--slot", "5", "--nodes", &names[0], "--wait", "--yes"];
    rig.cli(&deploy).unwrap();
    let [mut machine] = machines;
    // It bears the node's name now, no longer the one that it was saved with.
    let prompt = format!("{} login:", names[0]);
    machine.wait_for(&prompt, ordered, LOGIN, "the deployed system's console").unwrap();
    machine.power_off().unwrap();

    // What the disk is now, by tools that know nothing of us.
    run(Command::new("sfdisk").arg("--verify").arg(&file)).unwrap();
    let disk = LoopDisk::attach(&file).unwrap();
    disk.reread_partitions().unwrap();
    let slot = disk.partition(5).unwrap();
    let kind = run(Command::new("blkid").args(["-p", "-s", "TYPE", "-o", "value"]).arg(&slot));
    assert_eq!(kind.unwrap().trim(), "ext4");
}
