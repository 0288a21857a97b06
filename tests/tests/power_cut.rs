//! Power cuts in the middle of a redeployment, and a controller that is killed: nothing half-written ever starts, little
//! is fetched twice, and the job goes on by itself to its end. Where the transfer is cut is drawn anew each run.

use std::time::Duration;

use anyhow::{Result, ensure};
use metalcast_tests::by_hand::ByHand;
use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::process::run_for_code;
use metalcast_tests::qemu::{BootOrder, Disk, Machine, Spec};
use metalcast_tests::rig::{Artefacts, Rig};
use metalcast_tests::scene::{serial, wire_bytes};
use metalcast_tests::seed::Seed;
use metalcast_tests::slot::Slot;
use serde_json::Value;

/// Ten times what an idle machine needs.
const WORK: Duration = Duration::from_secs(600);
const CONSOLE: Duration = Duration::from_secs(300);

/// Room for the default layout; the file is sparse.
const DISK_BYTES: u64 = 500_000_000_000;

/// How much of the old system stays before its redeployment: its boot code among it, so that only the mark on the boot
/// partition and the cleared first MiB keep it from being started.
const KEPT_BYTES: u64 = 64 << 20;

/// What may come over the network a second time after the cut.
const AGAIN_BYTES: u64 = 64 << 20;

/// Where the transfer is cut, in percent; what was kept is there at once.
const CUT: std::ops::Range<u64> = 20..85;

/// What the disk's menu says when it starts a slot.
const STARTING: &str = "Metalcast: starting slot 5";

/// And when the slot is not whole.
const REFUSAL: &str = "Metalcast: slot 5 is not complete";

/// A machine whose power is cut again and again while slot 5 is deployed anew.
struct Scene {
    lab: Lab,
    rig: Rig,
    spec: Spec,
    job: u64,
}

#[test]
fn a_redeployment_survives_power_cuts() {
    let mut seed = Seed::given_or_new().unwrap();
    let artefacts = Artefacts::given_or_built().unwrap();
    let debian = image::debian().unwrap();
    let mut lab = Lab::new("cut", 32).unwrap();
    let mut rig = Rig::start(&lab, &artefacts).unwrap();
    rig.cli(&["image", "import", debian.zstd.to_str().unwrap(), "lab/debian"]).unwrap();

    // An old system that could be started; most of it is gone, so that there is something to transfer.
    let file = lab.dir().join(serial(1));
    let spec = Spec::node(1).disk(Disk::blank(&file, DISK_BYTES, "MCDISK1").unwrap());
    let by_hand = ByHand::new(&lab, &artefacts, &rig).unwrap();
    by_hand.deploy(&file, 5, &debian.zstd, "old").unwrap();
    Slot::of(&file, 5).unwrap().lose_from(KEPT_BYTES).unwrap();
    let images = rig.ask(&["image", "show", "lab/debian"]).unwrap();
    let whole = images[0]["stored_bytes"].as_u64().unwrap();
    assert!(whole > AGAIN_BYTES, "the image is too small to tell: {images:#}");

    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    let node = rig.enrol(&mut machine).unwrap();
    let job =
        rig.order(&["deploy", "lab/debian", "--slot", "5", "--nodes", &node, "--yes"]).unwrap();
    let mut scene = Scene { lab, rig, spec, job };

    let percent = seed.draw(CUT);
    let point = format!("{percent} % of the transfer are done");
    let reached = |task: &Value| {
        let progress = &task["progress"];
        let (done, total) = (progress["done_bytes"].as_u64(), progress["total_bytes"].as_u64());
        progress["step"] == "transfer"
            && done.zip(total).is_some_and(|(done, total)| done * 100 >= total * percent)
    };
    let mut fetched = scene.cut(machine, 1, &point, reached).unwrap();

    // A controller that is killed is no reason to begin again.
    let mut machine = scene.start().unwrap();
    scene
        .wait(&mut machine, "bytes arrive", |task| {
            task["generation"] == 2 && task["progress"]["wire_bytes"].as_u64() > Some(0)
        })
        .unwrap();
    scene.rig.kill_and_start(&scene.lab).unwrap();
    let point = "the file system is written";
    fetched += scene.cut(machine, 2, point, |task| has_begun(task, "fix-up")).unwrap();
    let again = fetched.saturating_sub(whole);
    println!("{again} bytes came again after the cut of the transfer");
    assert!(again <= AGAIN_BYTES, "{fetched} of {whole}");

    let mut machine = scene.start().unwrap();
    let task =
        scene.wait(&mut machine, "the system reports in", |task| task["state"] == "done").unwrap();
    let prompt = format!("{node} login:");
    machine.wait_for(&prompt, machine.started(), CONSOLE, "the system's console").unwrap();
    assert_eq!(task["generation"], 3);
    let notes = |name: &str| {
        let steps = task["steps"].as_array().unwrap();
        steps.iter().find(|step| step["step"] == name).unwrap()["notes"].to_string()
    };
    // Every chunk was on the disk before the last cut.
    assert!(notes("transfer").contains("\"0 bytes fetched"), "{}", notes("transfer"));
    let mut watch = scene.rig.command(&["job", "watch", &scene.job.to_string()]);
    let (code, told) = run_for_code(&mut watch).unwrap();
    assert_eq!(code, 0, "{told}");
    for generation in 2..=3 {
        assert!(told.contains(&format!("handed-out again ({generation})")), "{told}");
    }
}

impl Scene {
    fn start(&mut self) -> Result<Machine> {
        Machine::start(&mut self.lab, &self.spec)
    }

    fn wait(
        &mut self,
        machine: &mut Machine,
        reason: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.rig.wait_for_task(self.job, machine, WORK, reason, wanted)
    }

    /// Cuts the power at a point of the work's hand-out number `generation`; by itself the disk then starts nothing.
    /// What had come over the network by then.
    fn cut(
        &mut self,
        mut machine: Machine,
        generation: u32,
        point: &str,
        reached: impl Fn(&Value) -> bool,
    ) -> Result<u64> {
        let task = self
            .wait(&mut machine, point, |task| task["generation"] == generation && reached(task))?;
        machine.cut_power();
        ensure!(!has_begun(&task, "activate"), "too late for a cut when {point}: {task:#}");

        let alone = self.spec.clone().boot(BootOrder::DiskFirst);
        let mut machine = Machine::start(&mut self.lab, &alone)?;
        machine.wait_for(REFUSAL, machine.started(), CONSOLE, "the disk's menu refuses")?;
        for sign in [STARTING, "Linux version"] {
            let line = machine.serial().first(sign, machine.started());
            ensure!(line.is_none(), "a cut when {point}: {}", machine.serial().last_lines(50));
        }
        machine.cut_power();
        eprintln!("cut {generation}, {point}: the disk alone started nothing");
        Ok(wire_bytes(&task))
    }
}

fn has_begun(task: &Value, name: &str) -> bool {
    task["steps"].as_array().is_some_and(|steps| steps.iter().any(|step| step["step"] == name))
}
