//! Slots against what was put there, by the shipped agent and a real Debian: what fix-ups changed is known, one changed
//! byte is found, and what is not known any more is said.

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

/// The block that is changed, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// Compares slot 5, from the machine's start to its end.
fn verify(scene: &mut Scene) -> Result<(u64, Value)> {
    let order = ["verify", "--nodes", &scene.node, "--slot", "5"];
    let job = scene.rig.order(&order)?;
    scene.restart_agent()?;
    Ok((job, scene.finish_capture(job)?))
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
    let (job, task) = verify(&mut scene).unwrap();
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
    let write = "printf '\\377' | dd of=\"$0\" bs=1 seek=\"$1\" conv=notrunc,fsync status=none";
    run(Command::new("sh").args(["-ec", write]).arg(&node).arg(at.to_string())).unwrap();
    let (job, task) = verify(&mut scene).unwrap();
    let drift = &task["compared"]["drift"];
    assert_eq!((&drift["count"], &drift["bytes"]), (&1.into(), &BLOCK_BYTES.into()), "{drift:#}");
    assert_eq!(drift["first"][0]["start"], at, "{drift:#}");
    assert_eq!(drift["first"][0]["place"], "directories and files", "{drift:#}");
    let watched = scene.rig.cli(&["job", "watch", &job.to_string()]).unwrap_err().to_string();
    println!("{watched}");
    assert!(watched.contains("exit status: 8"), "{watched}");
}
