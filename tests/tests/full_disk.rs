//! The controller's disk is full: in the middle of an import, and in the middle of a deployment. What cannot be kept is
//! refused or waits, with the reason at the command line; when there is space again everything goes on by itself.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use metalcast_tests::host::Host;
use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::process::{pause, run_for_code};
use metalcast_tests::rig::Setup;
use metalcast_tests::scene::{DISK_BYTES, Scene, WORK, serial};
use metalcast_tests::seed::Seed;
use metalcast_tests::tmpfs::Tmpfs;

/// Room for the image twice, and for the records.
const STATE_MIB: u32 = 400;

/// So that a transfer of 100 MB takes long enough for something to happen in it.
const CABLE_MBIT: u32 = 160;

/// What the store's errors are called in the end: SQLite's words, or the kernel's.
const FULL: [&str; 2] = ["disk is full", "No space left on device"];

#[test]
fn a_full_disk_loses_nothing_and_is_told_of() {
    let mut seed = Seed::given_or_new().unwrap();
    let debian = image::debian().unwrap();
    let mut state = None;
    let disk = |lab: &Lab| {
        state = Some(Tmpfs::mount(lab, &lab.dir().join("state"), STATE_MIB)?);
        Host::blank_disk(lab, &serial(1), DISK_BYTES)
    };
    let mut scene = Scene::with("full", 44, &Setup::default(), disk).unwrap();
    let state = state.unwrap();

    // Too little from the beginning, and too little on the way.
    let image = debian.zstd.to_str().unwrap();
    let import = ["image", "import", image, "lab/debian"];
    state.fill(&scene.lab, 50).unwrap();
    let told = fails(&mut scene.rig.command(&import)).unwrap();
    assert!(told.contains("MiB are free"), "{told}");
    state.relieve(&scene.lab).unwrap();
    let mut importing = scene.rig.command(&import);
    let importing = scene.lab.spawn("import", &mut importing);
    let mut importing = importing.unwrap();
    wait_for(|| Ok(state.used_bytes(&scene.lab, "images")? > 10 << 20)).unwrap();
    state.fill(&scene.lab, 0).unwrap();
    let status = importing.wait(WORK, "the import fails").unwrap();
    let told = importing.log_tail();
    assert!(!status.success() && told.contains("the whole import needs about"), "{told}");
    state.relieve(&scene.lab).unwrap();
    assert!(state.used_bytes(&scene.lab, "images").unwrap() < 1 << 20, "something is left of it");
    assert_eq!(scene.rig.ask(&["image", "list"]).unwrap(), serde_json::json!([]));
    scene.import(&debian.zstd).unwrap();

    // In the middle of a transfer: events, jobs and leases.
    scene.host.slow_down(&scene.lab, CABLE_MBIT).unwrap();
    let job = scene.deploy(5).unwrap();
    let percent = seed.draw(5..60);
    scene.wait_for_percent(job, percent).unwrap();
    state.fill(&scene.lab, 0).unwrap();
    println!("the disk is full at {percent} %");
    // Until small changes find room again in the pages that the records have.
    let id = job.to_string();
    let tells = |arguments: &[&str]| scene.rig.cli(arguments).map(|told| is_full(&told));
    wait_for(|| Ok(tells(&["job", "show", &id])? && tells(&["status"])?)).unwrap();
    let told = fails(&mut scene.rig.command(&import)).unwrap();
    assert!(is_full(&told) || told.contains("MiB are free"), "{told}");
    assert_eq!(lease(&scene), None);
    assert_eq!(scene.rig.ask(&["job", "show", &id]).unwrap()["tasks"][0]["ended"], false);

    // Also with a controller that is started again meanwhile.
    scene.rig.kill_and_start(&scene.lab).unwrap();
    assert_eq!(lease(&scene), None);
    state.relieve(&scene.lab).unwrap();
    let task = scene.finish(job).unwrap();
    assert_eq!(task["generation"], 1, "the agent went on");
    assert_eq!(task["steps"].as_array().unwrap().len(), 11, "{task:#}");
    assert_eq!(scene.differences(&debian.disk, 5).unwrap(), Vec::<String>::new());
    let address = lease(&scene).expect("an address");
    scene.rig.kill_and_start(&scene.lab).unwrap();
    assert_eq!(lease(&scene), Some(address), "it is remembered");
    assert!(!is_full(&scene.rig.cli(&["status"]).unwrap()));
}

fn is_full(told: &str) -> bool {
    FULL.iter().any(|words| told.contains(words))
}

/// What a command says that must not succeed.
fn fails(command: &mut Command) -> Result<String> {
    let (code, told) = run_for_code(command)?;
    ensure!(code != 0, "it succeeded: {told}");
    Ok(told)
}

fn wait_for(mut happened: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + WORK;
    while !happened()? {
        ensure!(Instant::now() < deadline, "not within {WORK:?}");
        pause()?;
    }
    Ok(())
}

/// How long a client asks for an address that it does not get.
const ASKING: Duration = Duration::from_secs(6);

/// The address that a DHCP client on the host is lent, if it is lent one. It is not used.
fn lease(scene: &Scene) -> Option<String> {
    let seconds = ASKING.as_secs().to_string();
    let mut client = scene.host.command("busybox");
    client.args(["udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", &seconds, "-T", "1"]);
    let (_, told) = run_for_code(client.args(["-s", "/bin/true"])).expect("busybox is there");
    let (_, rest) = told.split_once("lease of ")?;
    rest.split([' ', ',']).next().map(str::to_owned)
}
