//! The whole way: a blank machine netboots, enrols, is approved, gets a real Clonezilla image streamed into a slot of a
//! CentMesh disk, starts it through GRUB and has it report in. Then life with two slots: a second deployment beside the
//! first, going back, and starting without the controller. And a system that ran becomes an image again.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::loopdev::LoopDisk;
use metalcast_tests::process::run;
use metalcast_tests::qemu::{Disk, Machine, Spec};
use metalcast_tests::rig::{Artefacts, Rig};
use metalcast_tests::serial::Line;
use metalcast_tests::slot::Slot;

/// Ten times what an idle machine needs.
const REGISTRATION: Duration = Duration::from_secs(300);
const DEPLOYMENT: Duration = Duration::from_secs(600);
const LOGIN: Duration = Duration::from_secs(300);

/// Room for the default layout, 21 slots of 20 GB; the file is sparse.
const DISK_BYTES: u64 = 500_000_000_000;

#[test]
fn a_blank_machine_becomes_a_running_slot() {
    let artefacts = Artefacts::given_or_built().unwrap();
    let debian = image::debian().unwrap();
    let mut lab = Lab::new("deploy", 31).unwrap();
    let mut rig = Rig::start(&lab, &artefacts).unwrap();
    rig.cli(&["image", "import", debian.zstd.to_str().unwrap(), "lab/debian"]).unwrap();

    let file = lab.dir().join("node1.disk");
    let spec = Spec::node(1).disk(Disk::blank(&file, DISK_BYTES, "MCDISK1").unwrap());
    let mut machines = [Machine::start(&mut lab, &spec).unwrap()];
    let names = rig.wait_for_nodes(&mut machines, 1, "new", REGISTRATION).unwrap();
    let node = names[0].as_str();
    assert_eq!(file.metadata().unwrap().blocks(), 0, "the disk of an unapproved node was written");

    rig.cli(&["node", "approve", node]).unwrap();
    let ordered = Instant::now();
    rig.cli(&["deploy", "lab/debian", "--slot", "5", "--nodes", node, "--wait", "--yes"]).unwrap();
    let [mut machine] = machines;
    // It bears the node's name now, no longer the one that it was saved with.
    let prompt = format!("{node} login:");
    machine.wait_for(&prompt, ordered, LOGIN, "the deployed system's console").unwrap();
    machine.power_off().unwrap();

    // What the disk is now, by tools that know nothing of us.
    run(Command::new("sfdisk").arg("--verify").arg(&file)).unwrap();
    let disk = LoopDisk::attach(&file).unwrap();
    disk.reread_partitions().unwrap();
    let slot = disk.partition(5).unwrap();
    let kind = run(Command::new("blkid").args(["-p", "-s", "TYPE", "-o", "value"]).arg(&slot));
    assert_eq!(kind.unwrap().trim(), "ext4");
    drop(disk);

    // A second slot leaves the first as it was, to the bit.
    let (first, second) = (Slot::of(&file, 5).unwrap(), Slot::of(&file, 6).unwrap());
    let before = first.hash().unwrap();
    let deploy = ["deploy", "lab/debian", "--slot", "6", "--nodes", node, "--yes"];
    let job = rig.order(&deploy).unwrap();
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    let task = rig
        .wait_for_task(job, &mut machine, DEPLOYMENT, "slot 6 reports in", |task| {
            task["state"] == "done"
        })
        .unwrap();
    machine.power_off().unwrap();
    assert_eq!(first.hash().unwrap(), before, "deploying slot 6 changed slot 5");
    let timeline = task["timeline"].as_array().unwrap();
    let report = timeline.iter().find(|moment| moment["what"] == "reported").unwrap();
    assert!(report["detail"].as_str().unwrap().contains("root /dev/vda6"), "{report}");
    let (uuid, other) = (first.filesystem_uuid().unwrap(), second.filesystem_uuid().unwrap());
    assert_ne!(uuid, other, "two slots of one node have the same filesystem UUID");

    // Back to the first slot, from the operator's side.
    let job = rig.order(&["boot", node, "--slot", "5"]).unwrap();
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    rig.wait_for_task(job, &mut machine, DEPLOYMENT, "slot 5 is chosen", |task| {
        task["state"] == "done (unconfirmed)"
    })
    .unwrap();
    let with_controller = seconds_to_slot_5(&mut machine, &prompt, &uuid).unwrap();
    machine.power_off().unwrap();

    // And without anyone on the network.
    rig.stop();
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    let without_controller = seconds_to_slot_5(&mut machine, &prompt, &uuid).unwrap();
    println!(
        "from the firmware's first line to the login prompt: {with_controller:.1} s with a controller, \
         {without_controller:.1} s without"
    );
}

#[test]
fn a_system_that_ran_is_captured_and_starts_from_another_slot() {
    let artefacts = Artefacts::given_or_built().unwrap();
    let debian = image::debian().unwrap();
    let mut lab = Lab::new("recapture", 33).unwrap();
    let mut rig = Rig::start(&lab, &artefacts).unwrap();
    rig.cli(&["image", "import", debian.zstd.to_str().unwrap(), "lab/debian"]).unwrap();
    let file = lab.dir().join("node1.disk");
    let spec = Spec::node(1).disk(Disk::blank(&file, DISK_BYTES, "MCDISK1").unwrap());
    let mut machines = [Machine::start(&mut lab, &spec).unwrap()];
    let names = rig.wait_for_nodes(&mut machines, 1, "new", REGISTRATION).unwrap();
    let node = names[0].as_str();
    rig.cli(&["node", "approve", node]).unwrap();
    let ordered = Instant::now();
    rig.cli(&["deploy", "lab/debian", "--slot", "5", "--nodes", node, "--wait", "--yes"]).unwrap();
    let [mut machine] = machines;
    let prompt = format!("{node} login:");
    machine.wait_for(&prompt, ordered, LOGIN, "the deployed system's console").unwrap();
    // Properly: what was cut off would be refused.
    machine.shut_down().unwrap();

    let job = rig.order(&["capture", node, "lab/saved", "--slot", "5"]).unwrap();
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    let task = rig
        .wait_for_task(job, &mut machine, DEPLOYMENT, "slot 5 is captured", |task| {
            task["state"] == "done"
        })
        .unwrap();
    assert_eq!(task["saved"], "lab/saved@1", "{task:#}");
    println!("the agent used at most {} MiB", metalcast_tests::scene::used_mib(&task).unwrap());
    // It was sent on to its disk, which starts what it started before.
    let uuid = Slot::of(&file, 5).unwrap().filesystem_uuid().unwrap();
    seconds_to_slot_5(&mut machine, &prompt, &uuid).unwrap();
    machine.shut_down().unwrap();

    let deploy = ["deploy", "lab/saved", "--slot", "6", "--nodes", node, "--yes"];
    let job = rig.order(&deploy).unwrap();
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    let task = rig
        .wait_for_task(job, &mut machine, DEPLOYMENT, "slot 6 reports in", |task| {
            task["state"] == "done"
        })
        .unwrap();
    let timeline = task["timeline"].as_array().unwrap();
    let report = timeline.iter().find(|moment| moment["what"] == "reported").unwrap();
    assert!(report["detail"].as_str().unwrap().contains("root /dev/vda6"), "{report}");
    machine.power_off().unwrap();
    assert_ne!(Slot::of(&file, 6).unwrap().filesystem_uuid().unwrap(), uuid);
}

/// Waits for the login prompt of the system in slot 5, whose filesystem has this UUID; the seconds since the firmware
/// began the last time.
fn seconds_to_slot_5(machine: &mut Machine, prompt: &str, uuid: &str) -> Result<f64> {
    let login = machine.wait_for(prompt, machine.started(), LOGIN, "slot 5's console")?;
    let lines = machine.serial().lines(0);
    let start = lines.iter().rev().find(|line| line.text.contains("SeaBIOS (version"));
    let start = start.context("the firmware said nothing")?;
    for words in [["Metalcast:", "starting slot 5"], ["Command line:", uuid]] {
        let holds = |line: &Line| words.iter().all(|word| line.text.contains(word));
        let printed = lines.iter().any(|line| line.at >= start.at && holds(line));
        ensure!(printed, "no {words:?} on the console:\n{}", machine.serial().last_lines(200));
    }
    Ok(login.at.duration_since(start.at).as_secs_f64())
}
