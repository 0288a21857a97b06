//! A whole disk: a blank machine netboots, gets the disk of a virtual machine's image (qcow2, as clouds have them) with
//! table, boot code and swap, starts it by the image's own GRUB and has it report in.

use std::process::Command;
use std::time::{Duration, Instant};

use metalcast_tests::image::{self, Debian};
use metalcast_tests::lab::Lab;
use metalcast_tests::loopdev::LoopDisk;
use metalcast_tests::process::run;
use metalcast_tests::qemu::{Disk, Machine, Spec};
use metalcast_tests::rig::{Artefacts, Rig};

/// Ten times what an idle machine needs.
const LOGIN: Duration = Duration::from_secs(300);

/// Larger than the disk of the image, with room for slots too; the file is sparse.
const DISK_BYTES: u64 = 500_000_000_000;

#[test]
fn a_blank_machine_becomes_that_of_the_image() {
    let artefacts = Artefacts::given_or_built().unwrap();
    let debian = image::debian().unwrap();
    let mut lab = Lab::new("whole-disk", 47).unwrap();
    let mut rig = Rig::start(&lab, &artefacts).unwrap();
    let cloud = lab.dir().join("cloud.qcow2");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
    run(convert.arg(&debian.disk).arg(&cloud)).unwrap();
    rig.cli(&["image", "import", cloud.to_str().unwrap(), "lab/debian"]).unwrap();

    let file = lab.dir().join("node1.disk");
    let spec = Spec::node(1).disk(Disk::blank(&file, DISK_BYTES, "MCDISK1").unwrap());
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    let node = rig.enrol(&mut machine).unwrap();
    let node = node.as_str();
    let ordered = Instant::now();
    let deploy = ["deploy", "lab/debian", "--whole-disk", "--nodes", node];
    // The disk is blank, so that nothing has to be agreed to; and it ends when the system has reported.
    rig.cli(&[&deploy[..], &["--wait"]].concat()).unwrap();
    let prompt = format!("{node} login:");
    machine.wait_for(&prompt, ordered, LOGIN, "the deployed system's console").unwrap();
    machine.power_off().unwrap();

    // What the disk is now, by tools that know nothing of us: the image's, with all its names.
    run(Command::new("sfdisk").arg("--verify").arg(&file)).unwrap();
    let id = |disk| run(Command::new("sfdisk").arg("--disk-id").arg(disk)).unwrap();
    assert_eq!(id(&file), id(&debian.disk));
    let disk = LoopDisk::attach(&file).unwrap();
    disk.reread_partitions().unwrap();
    for (number, uuid) in [(1, Debian::ROOT_UUID), (2, Debian::SWAP_UUID)] {
        let partition = disk.partition(number).unwrap();
        let found =
            run(Command::new("blkid").args(["-p", "-s", "UUID", "-o", "value"]).arg(partition));
        assert_eq!(found.unwrap().trim(), uuid, "partition {number}");
    }

    // The controller knows what the disk is, and that a slot would cost all of it.
    let shown = rig.cli(&["node", "show", node]).unwrap();
    assert!(shown.contains("whole disk") && shown.contains("lab/debian@1"), "{shown}");
    let slot = ["deploy", "lab/debian", "--slot", "5", "--nodes", node];
    let refused = rig.cli(&slot).unwrap_err();
    assert!(format!("{refused:#}").contains("the whole disk: lab/debian@1"), "{refused:#}");
}
