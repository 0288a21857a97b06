//! The whole way: a blank machine netboots, enrols, is approved, gets a real Clonezilla image streamed into a slot of a
//! CentMesh disk, starts it through GRUB and has it report in. Then life with two slots, and without a controller. And a
//! system that ran becomes an image again, which another machine starts.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use metalcast_tests::by_hand::ByHand;
use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::loopdev::LoopDisk;
use metalcast_tests::process::run;
use metalcast_tests::qemu::{BootOrder, Disk, Machine, Spec};
use metalcast_tests::rig::{Artefacts, Rig, Setup};
use metalcast_tests::scene::{serial, used_mib};
use metalcast_tests::serial::Line;
use metalcast_tests::slot::Slot;
use serde_json::Value;

/// Ten times what an idle machine needs.
const WORK: Duration = Duration::from_secs(600);
const LOGIN: Duration = Duration::from_secs(300);

/// Room for the default layout, 21 slots of 20 GB; the file is sparse.
const DISK_BYTES: u64 = 500_000_000_000;

#[test]
fn a_blank_machine_becomes_a_running_slot() {
    let artefacts = Artefacts::given_or_built().unwrap();
    let debian = image::debian().unwrap();
    let mut lab = Lab::new("deploy", 31).unwrap();
    let mut rig = Rig::start_with(&lab, &artefacts, &with_additions(&lab).unwrap()).unwrap();
    rig.cli(&["image", "import", debian.zstd.to_str().unwrap(), "lab/debian"]).unwrap();

    let file = lab.dir().join(serial(1));
    let spec = Spec::node(1).disk(Disk::blank(&file, DISK_BYTES, "MCDISK1").unwrap());
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    let node = rig.enrol(&mut machine).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 0, "the disk of an unapproved node was written");

    rig.cli(&["deploy", "lab/debian", "--slot", "5", "--nodes", &node, "--wait", "--yes"]).unwrap();
    let uuid = Slot::of(&file, 5).unwrap().filesystem_uuid().unwrap();
    // It bears the node's name now, no longer the one that it was saved with.
    let with_controller = seconds_to_login(&mut machine, &node, 5, &uuid).unwrap();
    machine.power_off().unwrap();

    // What the disk is now, by tools that know nothing of us.
    run(Command::new("sfdisk").arg("--verify").arg(&file)).unwrap();
    let disk = LoopDisk::attach(&file).unwrap();
    disk.reread_partitions().unwrap();
    let slot = disk.partition(5).unwrap();
    let kind = run(Command::new("blkid").args(["-p", "-s", "TYPE", "-o", "value"]).arg(&slot));
    assert_eq!(kind.unwrap().trim(), "ext4");
    // What the project adds: a file, and what its script did with the system's own programs.
    let cat = |path: &str| {
        run(Command::new("debugfs").args(["-R", &format!("cat {path}")]).arg(&slot)).unwrap()
    };
    assert_eq!(cat("/etc/motd"), "property of the lab\n");
    assert!(cat("/etc/passwd").contains("\nstudent:"));
    assert_eq!(cat("/etc/made-for").trim(), node);
    let job = rig.cli(&["job", "show", "1"]).unwrap();
    assert!(
        job.contains("project-script: done in") && job.contains("last: student is there"),
        "{job}"
    );
    drop(disk);

    // A second slot leaves the first as it was, to the bit.
    let (first, second) = (Slot::of(&file, 5).unwrap(), Slot::of(&file, 6).unwrap());
    let before = first.hash().unwrap();
    let by_hand = ByHand::new(&lab, &artefacts, &rig).unwrap();
    by_hand.deploy(&file, 6, &debian.zstd, &node).unwrap();
    assert_eq!(first.hash().unwrap(), before, "deploying slot 6 changed slot 5");
    assert_ne!(uuid, second.filesystem_uuid().unwrap(), "two slots have the same filesystem UUID");

    // Back to the first slot, from the operator's side; and it starts without anyone on the network.
    let job = rig.order(&["boot", &node, "--slot", "5"]).unwrap();
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    rig.wait_for_task(job, &mut machine, WORK, "slot 5 is chosen", |task| {
        task["state"] == "done (unconfirmed)"
    })
    .unwrap();
    machine.power_off().unwrap();
    rig.stop();
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    let without_controller = seconds_to_login(&mut machine, &node, 5, &uuid).unwrap();
    println!(
        "from the firmware's first line to the login prompt: {with_controller:.1} s with a controller, \
         {without_controller:.1} s without"
    );
}

#[test]
fn a_system_that_ran_is_captured_and_starts_on_another_machine() {
    let artefacts = Artefacts::given_or_built().unwrap();
    let debian = image::debian().unwrap();
    let mut lab = Lab::new("recapture", 33).unwrap();
    let mut rig = Rig::start(&lab, &artefacts).unwrap();
    let file = lab.dir().join(serial(1));
    let spec = Spec::node(1).disk(Disk::blank(&file, DISK_BYTES, "MCDISK1").unwrap());
    let by_hand = ByHand::new(&lab, &artefacts, &rig).unwrap();
    by_hand.deploy(&file, 5, &debian.zstd, "golden").unwrap();
    let uuid = Slot::of(&file, 5).unwrap().filesystem_uuid().unwrap();

    let alone = spec.clone().boot(BootOrder::DiskFirst);
    let mut machine = Machine::start(&mut lab, &alone).unwrap();
    seconds_to_login(&mut machine, "golden", 5, &uuid).unwrap();
    // Properly: what was cut off would be refused.
    machine.shut_down().unwrap();

    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    let node = rig.enrol(&mut machine).unwrap();
    let job = rig.order(&["capture", &node, "lab/saved", "--slot", "5"]).unwrap();
    // The other machine waits for its work meanwhile.
    let file = lab.dir().join(serial(2));
    let spec = Spec::node(2).disk(Disk::blank(&file, DISK_BYTES, "MCDISK2").unwrap());
    let mut other = Machine::start(&mut lab, &spec).unwrap();
    let done = |task: &Value| task["state"] == "done";
    let task = rig.wait_for_task(job, &mut machine, WORK, "slot 5 is captured", done).unwrap();
    assert_eq!(task["saved"], "lab/saved@1", "{task:#}");
    println!("the agent used at most {} MiB", used_mib(&task).unwrap());

    let node = rig.enrol(&mut other).unwrap();
    let job = rig.order(&["deploy", "lab/saved", "--slot", "6", "--nodes", &node]).unwrap();
    // The first was sent on to its disk, which starts what it started before.
    seconds_to_login(&mut machine, "golden", 5, &uuid).unwrap();
    machine.power_off().unwrap();
    let task = rig.wait_for_task(job, &mut other, WORK, "slot 6 reports in", done).unwrap();
    let timeline = task["timeline"].as_array().unwrap();
    let report = timeline.iter().find(|moment| moment["what"] == "reported").unwrap();
    assert!(report["detail"].as_str().unwrap().contains("root /dev/vda6"), "{report}");
}

/// A controller whose project `lab` adds a file and a script.
fn with_additions(lab: &Lab) -> Result<Setup> {
    let dir = lab.dir().join("lab-adds");
    std::fs::create_dir_all(dir.join("files/etc"))?;
    std::fs::write(dir.join("files/etc/motd"), "property of the lab\n")?;
    let script = "#!/bin/sh\nset -e\nuseradd --create-home student\n\
                  echo \"$METALCAST_HOSTNAME\" >/etc/made-for\necho student is there\n";
    std::fs::write(dir.join("script"), script)?;
    let tables = format!("[[projects]]\nname = \"lab\"\npost_install = \"{}\"\n", dir.display());
    Ok(Setup { tables, ..Setup::default() })
}

/// Waits for the login prompt of the system in a slot, whose filesystem has this UUID; the seconds since the firmware
/// began the last time.
fn seconds_to_login(machine: &mut Machine, hostname: &str, slot: u8, uuid: &str) -> Result<f64> {
    let prompt = format!("{hostname} login:");
    let login = machine.wait_for(&prompt, machine.started(), LOGIN, "the slot's console")?;
    let lines = machine.serial().lines(0);
    let start = lines.iter().rev().find(|line| line.text.contains("SeaBIOS (version"));
    let start = start.context("the firmware said nothing")?;
    let starting = format!("starting slot {slot}");
    for words in [["Metalcast:", &starting], ["Command line:", uuid]] {
        let holds = |line: &Line| words.iter().all(|word| line.text.contains(word));
        let printed = lines.iter().any(|line| line.at >= start.at && holds(line));
        ensure!(printed, "no {words:?} on the console:\n{}", machine.serial().last_lines(200));
    }
    Ok(login.at.duration_since(start.at).as_secs_f64())
}
