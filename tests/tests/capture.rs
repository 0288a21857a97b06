//! Captures by the shipped agent: what was deployed into a slot comes back as a revision, which is deployed elsewhere,
//! restored by the real Clonezilla and, where the cable or the controller fails in the middle, sent again only as far as
//! it has to be.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use metalcast_tests::clonezilla;
use metalcast_tests::host::Host;
use metalcast_tests::image::{self, Debian};
use metalcast_tests::lab::Lab;
use metalcast_tests::rig::Setup;
use metalcast_tests::scene::{Scene, notes, serial};
use metalcast_tests::slot::Slot;
use serde_json::Value;

/// Room for the layout; the files are sparse.
const DISK_BYTES: u64 = 8 << 30;

/// Slots that the image fits into, and few, so that a whole disk is not much.
const LAYOUT: &str = "
[nodes]
default_layout = \"few\"
[[layouts]]
name = \"few\"
boot_mib = 64
swap_mib = 64
reserve_mib = 0
slots = 4
slot_mib = 1100
";

/// So that there is time to do something in the middle of a capture of 100 MB.
const CABLE_MBIT: u32 = 80;

/// How long the cable is out: as long as a connection lives without an answer.
const CABLE_OUT: Duration = Duration::from_secs(20);

/// What may be sent a second time after the cable was out: what fits into the windows of a connection, twice over.
const AGAIN_BYTES: u64 = 32 << 20;

/// A host with the image in slot 5.
fn with_slot_5(name: &str, subnet: u8, debian: &Debian) -> Result<Scene> {
    let disk = |lab: &Lab| Host::blank_disk(lab, &serial(1), DISK_BYTES);
    let setup = Setup { tables: LAYOUT.to_owned(), ..Setup::default() };
    let mut scene = Scene::with(name, subnet, &setup, disk)?;
    scene.import(&debian.zstd)?;
    let job = scene.deploy(5)?;
    scene.finish(job)?;
    Ok(scene)
}

/// Captures slot 5 from the machine's start to its end.
fn capture_slot_5(scene: &mut Scene, image: &str) -> Result<Value> {
    let job = scene.capture(&["--slot", "5"], image)?;
    scene.restart_agent()?;
    scene.finish_capture(job)
}

/// The store's directory of an image.
fn stored(scene: &Scene, image: &str) -> PathBuf {
    scene.lab.dir().join("state/images").join(image)
}

/// How many images are being made.
fn drafts(scene: &Scene) -> Result<usize> {
    let dir = scene.lab.dir().join("state/images");
    let mut count = 0;
    for entry in dir.read_dir().context("listing the store")? {
        let name = entry.context("listing the store")?.file_name();
        count += usize::from(name.to_string_lossy().starts_with(".import-"));
    }
    Ok(count)
}

fn disk_file(scene: &Scene, number: u8) -> PathBuf {
    scene.lab.dir().join(serial(number))
}

#[test]
fn a_captured_slot_is_deployed_elsewhere_and_restored_by_clonezilla() {
    let debian = image::debian().unwrap();
    let mut scene = with_slot_5("capture", 46, &debian).unwrap();
    let before = Slot::of(&disk_file(&scene, 1), 5).unwrap().hash().unwrap();

    let plan = scene.rig.cli(&["capture", &scene.node, "lab/saved", "--slot", "5", "--dry-run"]);
    assert!(plan.unwrap().contains("deployed  lab/debian@1"));
    let task = capture_slot_5(&mut scene, "lab/saved").unwrap();
    assert_eq!(task["saved"], "lab/saved@1", "{task:#}");
    let said = notes(&task, "survey");
    assert!(said.contains("sda5: ext4"), "{said}");
    assert_eq!(Slot::of(&disk_file(&scene, 1), 5).unwrap().hash().unwrap(), before);
    let shown = scene.rig.cli(&["image", "show", "lab/saved"]).unwrap();
    for words in ["slot 5", &serial(1), "lab/debian@1 (deployed)", "job 2"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    scene.rig.cli(&["image", "check", "lab/saved@1"]).unwrap();

    // Beside itself by the real Clonezilla, which takes the store's own directory.
    let first = scene.host.disk();
    first.reread_partitions().unwrap();
    clonezilla::restore_partition(&stored(&scene, "lab/saved"), "1", 5, first, 7).unwrap();
    assert_eq!(scene.differences(&debian.disk, 7).unwrap(), Vec::<String>::new());

    // On another machine by the controller, where it fills its slot.
    let _first = scene.replace_host(2, DISK_BYTES).unwrap();
    let order = ["deploy", "lab/saved", "--slot", "6", "--nodes", &scene.node, "--grow"];
    let plan = scene.rig.cli(&[&order[..], &["--dry-run"]].concat()).unwrap();
    assert!(plan.contains("  grows     6 from "), "{plan}");
    let job = scene.rig.order(&[&order[..], &["--report", "none"]].concat()).unwrap();
    let task = scene.finish(job).unwrap();
    let said = notes(&task, "grow");
    assert!(said.contains("slot 6: ext4 grew from "), "{said}");
    assert_eq!(scene.differences(&debian.disk, 6).unwrap(), Vec::<String>::new());
}

#[test]
fn a_slots_files_become_an_archive_that_is_deployed_elsewhere() {
    let debian = image::debian().unwrap();
    let mut scene = with_slot_5("capture-tar", 49, &debian).unwrap();
    let before = Slot::of(&disk_file(&scene, 1), 5).unwrap().hash().unwrap();
    let job = scene.capture(&["--slot", "5", "--tar"], "lab/files").unwrap();
    scene.restart_agent().unwrap();
    let task = scene.finish_capture(job).unwrap();
    assert_eq!(task["saved"], "lab/files@1", "{task:#}");
    assert_eq!(Slot::of(&disk_file(&scene, 1), 5).unwrap().hash().unwrap(), before);
    scene.rig.cli(&["image", "check", "lab/files"]).unwrap();

    // Into a filesystem that is made for it.
    let _first = scene.replace_host(2, DISK_BYTES).unwrap();
    let job = scene.deploy_image("lab/files", 6).unwrap();
    scene.finish(job).unwrap();
    assert_eq!(scene.differences(&debian.disk, 6).unwrap(), Vec::<String>::new());
}

#[test]
fn a_whole_disk_and_some_of_its_partitions_are_captured() {
    let debian = image::debian().unwrap();
    let mut scene = with_slot_5("capture-disk", 47, &debian).unwrap();
    let disk = serial(1);
    let job = scene.capture(&["--disk", &disk], "lab/whole").unwrap();
    scene.restart_agent().unwrap();
    let task = scene.finish_capture(job).unwrap();
    assert_eq!(task["saved"], "lab/whole@1", "{task:#}");
    let said = notes(&task, "survey");
    for words in ["sda1: ext4", "sda2: swap space", "sda4: extended", "sda5: ext4", "sda6: nothing"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    scene.rig.cli(&["image", "check", "lab/whole"]).unwrap();
    let table = std::fs::read_to_string(stored(&scene, "lab/whole/1/sda-pt.sf")).unwrap();
    assert!(table.contains("/dev/sda5"), "{table}");

    let job = scene.capture(&["--disk", &disk, "--partitions", "sda1,5"], "lab/some").unwrap();
    scene.restart_agent().unwrap();
    scene.finish_capture(job).unwrap();
    let parts = std::fs::read_to_string(stored(&scene, "lab/some/1/parts")).unwrap();
    assert_eq!(parts, "sda1 sda5\n");
    scene.rig.cli(&["image", "check", "lab/some"]).unwrap();

    let error = scene.capture(&["--disk", "NOSUCH"], "lab/none").unwrap_err().to_string();
    assert!(error.contains("no disk has serial or WWN NOSUCH"), "{error}");
    let job = scene.capture(&["--disk", &disk, "--partitions", "9"], "lab/none").unwrap();
    scene.restart_agent().unwrap();
    let task = scene.wait(job, "there is no partition 9", |task| task["ended"] == true).unwrap();
    let cause = task["cause"].as_str().unwrap();
    assert!(cause.starts_with("check-disk: the disk has no partition 9; it has 1, 2"), "{cause}");
}

#[test]
fn faults_in_the_middle_of_a_capture_cost_little_and_leave_nothing() {
    let debian = image::debian().unwrap();
    let mut scene = with_slot_5("capture-faults", 48, &debian).unwrap();
    scene.host.slow_down_sending(CABLE_MBIT).unwrap();
    let before = scene.host.sent_bytes().unwrap();
    capture_slot_5(&mut scene, "lab/saved").unwrap();
    let whole = scene.host.sent_bytes().unwrap() - before;
    assert!(whole > 2 * AGAIN_BYTES, "the image is too small to tell: {whole}");

    // The cable.
    let before = scene.host.sent_bytes().unwrap();
    let job = begin(&mut scene, 40).unwrap();
    scene.host.unplug(&scene.lab).unwrap();
    std::thread::sleep(CABLE_OUT);
    scene.host.plug_in_again(&scene.lab).unwrap();
    end_well(&mut scene, job, 2, 1).unwrap();
    let again = (scene.host.sent_bytes().unwrap() - before).saturating_sub(whole);
    println!("{again} bytes were sent again after the cable was out");
    assert!(again <= AGAIN_BYTES, "{again} bytes were sent again");

    // The controller, which forgets what it was sent.
    let job = begin(&mut scene, 60).unwrap();
    assert_eq!(drafts(&scene).unwrap(), 1);
    scene.rig.kill_and_start(&scene.lab).unwrap();
    end_well(&mut scene, job, 3, 1).unwrap();

    // The machine.
    let job = begin(&mut scene, 50).unwrap();
    scene.agent.kill();
    scene.restart_agent().unwrap();
    end_well(&mut scene, job, 4, 2).unwrap();

    // The operator.
    let job = begin(&mut scene, 30).unwrap();
    scene.rig.cli(&["job", "cancel", &job.to_string()]).unwrap();
    let task = scene.wait(job, "it is cancelled", |task| task["ended"] == true).unwrap();
    assert_eq!(task["state"], "cancelled", "{task:#}");
    let script = scene.host.boot_script(&scene.lab).unwrap();
    assert!(script.contains("sanboot"), "the disk is as it was: {script}");
    let deadline = Instant::now() + Duration::from_secs(30);
    while drafts(&scene).unwrap() > 0 {
        assert!(Instant::now() < deadline, "a cancelled capture has left its files");
        std::thread::sleep(Duration::from_millis(100));
    }
    let images = scene.rig.ask(&["image", "list"]).unwrap();
    let saved = images.as_array().unwrap().iter().filter(|image| {
        image["revision"].as_str().is_some_and(|name| name.starts_with("lab/saved@"))
    });
    assert_eq!(saved.count(), 4);
}

/// Begins a capture of slot 5 and comes so far.
fn begin(scene: &mut Scene, percent: u64) -> Result<u64> {
    let job = scene.capture(&["--slot", "5"], "lab/saved")?;
    scene.restart_agent()?;
    scene.wait_for_percent(job, percent)?;
    Ok(job)
}

/// The capture ends as this revision in this hand-out, and is what the first one is, which nothing disturbed.
fn end_well(scene: &mut Scene, job: u64, revision: u32, generation: u32) -> Result<()> {
    let task = scene.finish_capture(job)?;
    let this = format!("lab/saved@{revision}");
    ensure!(task["saved"] == this.as_str(), "{task:#}");
    ensure!(task["generation"] == generation, "another hand-out: {task:#}");
    ensure!(drafts(scene)? == 0, "something is left");
    scene.rig.cli(&["image", "check", &this])?;
    let diff = scene.rig.ask(&["image", "diff", "lab/saved@1", &this])?;
    let partition = &diff["partitions"][0];
    let is_same = partition["a"] == partition["shared"] && partition["b"] == partition["shared"];
    ensure!(is_same && partition["to_send_bytes"] == 0, "another content: {diff:#}");
    Ok(())
}
