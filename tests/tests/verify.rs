//! Slots and whole disks against what was put there, by the shipped agent and a real Debian: what fix-ups changed is known, one changed
//! byte is found, and what is not known any more is said.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use metalcast_tests::host::Host;
use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::process::run;
use metalcast_tests::rig::Setup;
use metalcast_tests::scene::{Scene, notes, serial};
use serde_json::Value;

/// Room for the layout; the file is sparse.
const DISK_BYTES: u64 = 500_000_000_000;

const SLOT: [&str; 2] = ["--slot", "5"];
const WHOLE_DISK: [&str; 1] = ["--whole-disk"];

/// The block that is changed, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// Compares a place, from the machine's start to its end.
fn verify(scene: &mut Scene, place: &[&str]) -> Result<(u64, Value)> {
    let job = scene.rig.order(&[&["verify", "--nodes", &scene.node], place].concat())?;
    scene.restart_agent()?;
    Ok((job, scene.finish_capture(job)?))
}

/// Writes 255 over a byte.
fn change_byte(device: &Path, at: u64) -> Result<()> {
    let write = "printf '\\377' | dd of=\"$0\" bs=1 seek=\"$1\" conv=notrunc,fsync status=none";
    run(Command::new("sh").args(["-ec", write]).arg(device).arg(at.to_string())).map(drop)
}

#[test]
fn a_deployed_slot_is_as_it_was_left_until_something_changes() {
    let debian = image::debian().unwrap();
    let disk = |lab: &Lab| Host::blank_disk(lab, &serial(1), DISK_BYTES);
    let mut scene = Scene::with("verify", 61, &Setup::default(), disk).unwrap();
    scene.import(&debian.zstd).unwrap();
    let job = scene.deploy(5).unwrap();
    let task = scene.finish(job).unwrap();
    println!("{}", notes(&task, "record"));

    let plan = ["verify", "--nodes", &scene.node, "--slot", "5", "--dry-run"];
    let plan = scene.rig.cli(&plan).unwrap();
    assert!(plan.contains("lab/debian@1") && !plan.contains("not known"), "{plan}");
    let (job, task) = verify(&mut scene, &SLOT).unwrap();
    let found = &task["compared"];
    println!("{}", notes(&task, "compare"));
    assert_eq!(found["drift"]["count"], 0, "{found:#}");
    assert!(found["left"]["bytes"].as_u64().unwrap() > 0, "{found:#}");
    let shown = scene.rig.cli(&["job", "show", &job.to_string()]).unwrap();
    assert!(shown.contains("as the deploy left it") && shown.contains("fix-up"), "{shown}");

    // One byte of a file.
    scene.host.disk().reread_partitions().unwrap();
    let node = scene.host.disk().partition(5).unwrap();
    let bmap = ["-R", "bmap /etc/passwd 0"];
    let block = run(Command::new("debugfs").args(bmap).arg(&node)).unwrap();
    let at = block.trim().parse::<u64>().unwrap() * BLOCK_BYTES;
    change_byte(&node, at).unwrap();
    let (job, task) = verify(&mut scene, &SLOT).unwrap();
    let drift = &task["compared"]["drift"];
    assert_eq!((&drift["count"], &drift["bytes"]), (&1.into(), &BLOCK_BYTES.into()), "{drift:#}");
    assert_eq!(drift["first"][0]["start"], at, "{drift:#}");
    assert_eq!(drift["first"][0]["place"], "directories and files", "{drift:#}");
    let watched = scene.rig.cli(&["job", "watch", &job.to_string()]).unwrap_err().to_string();
    println!("{watched}");
    assert!(watched.contains("exit status: 8"), "{watched}");
}

#[test]
fn a_whole_disk_is_as_it_was_left_until_its_boot_code_or_a_file_changes() {
    let debian = image::debian().unwrap();
    let disk = |lab: &Lab| Host::blank_disk(lab, &serial(1), DISK_BYTES);
    let mut scene = Scene::with("verify-disk", 65, &Setup::default(), disk).unwrap();
    scene.import(&debian.zstd).unwrap();
    let deploy = ["deploy", "lab/debian", "--whole-disk", "--nodes", &scene.node];
    let job = scene.rig.order(&[&deploy[..], &["--report", "none"]].concat()).unwrap();
    let task = scene.finish(job).unwrap();
    println!("{}", notes(&task, "record"));

    let (_, task) = verify(&mut scene, &WHOLE_DISK).unwrap();
    let found = &task["compared"];
    println!("{}", notes(&task, "compare"));
    assert_eq!(found["drift"]["count"], 0, "{found:#}");
    assert!(found["left"]["bytes"].as_u64().unwrap() > 1 << 20, "the areas at least: {found:#}");

    // The boot code, and a byte of the super block that says which volume it is.
    scene.host.disk().reread_partitions().unwrap();
    let disk = scene.host.disk().path().to_owned();
    change_byte(&disk, 90).unwrap();
    let root = scene.host.disk().partition(1).unwrap();
    change_byte(&root, 1024 + 0x78).unwrap();
    let (job, task) = verify(&mut scene, &WHOLE_DISK).unwrap();
    let drift = &task["compared"]["drift"];
    assert_eq!(drift["count"], 2, "{drift:#}");
    let places = [&drift["first"][0]["place"], &drift["first"][1]["place"]];
    assert_eq!(places, ["partition table and boot code", "sda1: boot and super block"]);
    let watched = scene.rig.cli(&["job", "watch", &job.to_string()]).unwrap_err().to_string();
    println!("{watched}");
    assert!(watched.contains("exit status: 8"), "{watched}");
}
