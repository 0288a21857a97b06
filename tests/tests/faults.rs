//! What goes wrong in the field in the middle of a transfer: a cable that comes loose, an agent or a controller that is
//! killed. (A machine that is reset is in `power_cut`: what its memory held is only lost where there is one.)

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use metalcast_tests::image::{self, Debian};
use metalcast_tests::scene::Scene;
use metalcast_tests::seed::Seed;

/// What may come over the network a second time after a fault.
const AGAIN_BYTES: u64 = 64 << 20;

/// So that a transfer of 100 MB takes long enough for something to happen in it.
const CABLE_MBIT: u32 = 160;

/// How long the cable is out: as long as the agent's connection lives without an answer.
const CABLE_OUT: Duration = Duration::from_secs(20);

/// Faults at points that the seed chooses, the kinds in turn.
const POINTS: u16 = 6;

/// The environment variable with another number of them, up to as many as there are slots.
const POINTS_VARIABLE: &str = "METALCAST_FAULT_POINTS";

/// Points of a transfer, in percent: at either end there is none left to be hit.
const PERCENT: std::ops::Range<u64> = 5..85;

/// What happens to a transfer.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The cable is out; meanwhile a new revision of the image arrives, which is none of the job's business.
    Cable,
    /// The agent dies and comes again.
    Agent,
    /// The controller dies and comes again.
    Controller,
}

#[test]
fn faults_in_the_middle_of_a_transfer_cost_little() {
    let points = match std::env::var(POINTS_VARIABLE) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => POINTS,
    };
    let mut seed = Seed::given_or_new().unwrap();
    let debian = image::debian().unwrap();
    let mut scene = Scene::new("faults", 41).unwrap();
    scene.import(&debian.zstd).unwrap();
    scene.host.slow_down(&scene.lab, CABLE_MBIT).unwrap();

    // Undisturbed, to know what a transfer costs.
    let before = scene.host.received_bytes().unwrap();
    let job = scene.deploy(5).unwrap();
    scene.finish(job).unwrap();
    let whole = scene.host.received_bytes().unwrap() - before;
    assert!(whole > AGAIN_BYTES, "the image is too small to tell: {whole}");
    assert_eq!(scene.differences(&debian.disk, 5).unwrap(), Vec::<String>::new());

    let kinds = [Fault::Cable, Fault::Agent, Fault::Controller];
    let mut image = 1;
    for (slot, fault) in (6..6 + points).zip(kinds.into_iter().cycle()) {
        let percent = seed.draw(PERCENT);
        let before = scene.host.received_bytes().unwrap();
        strike(&mut scene, &debian, fault, slot, percent, &mut image)
            .with_context(|| format!("{fault:?} at {percent} %"))
            .unwrap();
        let again = (scene.host.received_bytes().unwrap() - before).saturating_sub(whole);
        println!("{fault:?} at {percent} % of slot {slot}: {again} bytes came again");
        assert!(again <= AGAIN_BYTES, "{fault:?} at {percent} %: {again} bytes came again");
    }
}

/// Deploys with a fault; `image` is the latest revision's number.
fn strike(
    scene: &mut Scene,
    debian: &Debian,
    fault: Fault,
    slot: u16,
    percent: u64,
    image: &mut u32,
) -> Result<()> {
    let job = scene.deploy(slot)?;
    let begun = *image;
    scene.restart_agent()?;
    scene.wait_for_percent(job, percent)?;
    match fault {
        Fault::Cable => {
            scene.host.unplug(&scene.lab)?;
            let pulled = Instant::now();
            scene.import(&debian.gzip_split)?;
            *image += 1;
            std::thread::sleep(CABLE_OUT.saturating_sub(pulled.elapsed()));
            scene.host.plug_in_again(&scene.lab)?;
        }
        Fault::Agent => {
            scene.agent.kill();
            scene.restart_agent()?;
        }
        Fault::Controller => scene.rig.kill_and_start(&scene.lab)?,
    }
    let task = scene.finish(job)?;
    let generation = if let Fault::Agent = fault { 2 } else { 1 };
    ensure!(task["generation"] == generation, "another hand-out: {task:#}");
    let shown = scene.rig.cli(&["job", "show", &job.to_string()])?;
    ensure!(shown.contains(&format!("lab/debian@{begun}")), "another image: {shown}");
    let differences = scene.differences(&debian.disk, slot.into())?;
    ensure!(differences.is_empty(), "the content differs: {differences:#?}");
    Ok(())
}
