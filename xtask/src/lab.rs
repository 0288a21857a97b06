//! `cargo xtask lab`: the whole way on an emulated machine, from power-on to the deployed system's report, driven through
//! the real command line as an operator would.
//!
//! One invocation builds everything, makes a network of its own, starts the controller and blank machines in it,
//! approves them, deploys an image and prints how long each phase took. Ctrl-C ends it at any point and leaves nothing
//! behind.

mod timeline;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::process::{self, run_visibly};
use metalcast_tests::progress::step;
use metalcast_tests::qemu::{Disk, Machine, Spec};
use metalcast_tests::rig::Rig;

use crate::{root, setup};
use timeline::Timeline;

/// Machines of 1 GiB each beside a compiler's cache: more than this and a usual laptop swaps.
const MAX_NODES: u8 = 8;

/// Room for the default layout (21 slots of 20 GB and the rest); the file is sparse.
const DISK_BYTES: u64 = 500_000_000_000;

/// The name that the image is imported under.
const IMAGE: &str = "lab/debian";

/// What getty(8) prints last, after the host name that the node got.
const LOGIN_PROMPT: &str = " login:";

/// From power-on to the agent's registration; seconds on an idle machine, times ten.
const REGISTRATION: Duration = Duration::from_secs(300);

/// From the reboot to the deployed system's login prompt, likewise.
const LOGIN: Duration = Duration::from_secs(300);

/// What `cargo xtask lab` takes.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// How many machines to deploy
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_NODES)))]
    nodes: u8,
    /// Leave it running when done, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// A Clonezilla image directory to deploy instead of the lab's own Debian
    #[arg(long, value_name = "DIR")]
    image: Option<PathBuf>,
    /// The slot to deploy to
    #[arg(long, default_value_t = 5)]
    slot: u8,
    #[command(flatten)]
    ram_image: crate::initramfs::Options,
}

/// Runs the lab.
///
/// # Errors
/// When any phase fails; everything that was started has been ended by then.
pub fn run(options: &Options) -> Result<()> {
    let artefacts = root::artefacts(&options.ram_image, || {
        setup::run()?;
        root::controller()
    })?;
    let (image, login) = match &options.image {
        Some(dir) => (dir.canonicalize().context("looking for the image")?, None),
        None => {
            let debian = step("preparing the Debian image", image::debian)?;
            (debian.zstd, Some(LOGIN_PROMPT))
        }
    };
    let mut lab = step("making the lab's network", || Lab::new("lab", 1))?;
    let mut rig = step("starting the controller", || Rig::start(&lab, &artefacts))?;
    step("importing the image", || {
        let image = image.to_str().context("the image's path is no text")?;
        run_visibly(&mut rig.command(&["image", "import", image, IMAGE]))
    })?;
    let mut machines = Vec::new();
    for number in 1..=options.nodes {
        let file = lab.dir().join(format!("node{number}.disk"));
        let disk = Disk::blank(&file, DISK_BYTES, &format!("MCDISK{number}"))?;
        machines.push(Machine::start(&mut lab, &Spec::node(number).disk(disk))?);
    }
    let result = deploy(options, &mut rig, &mut machines, login);
    if let Err(error) = &result {
        show_ends(&rig, &machines);
        if !options.keep || process::interrupted() {
            return result;
        }
        eprintln!("FAILED: {error:#}");
    }
    if options.keep {
        keep(&lab, &artefacts.controller, &rig, &machines)?;
    }
    result
}

fn deploy(
    options: &Options,
    rig: &mut Rig,
    machines: &mut [Machine],
    login: Option<&str>,
) -> Result<()> {
    let names = step("netbooting the agents", || {
        rig.wait_for_nodes(machines, usize::from(options.nodes), "new", REGISTRATION)
    })?;
    for name in &names {
        step(&format!("approving {name}"), || rig.cli(&["node", "approve", name]))?;
    }
    let slot = options.slot.to_string();
    let nodes = names.join(",");
    let ordered = Instant::now();
    step(&format!("deploying {IMAGE} to slot {slot} of {nodes}"), || {
        let arguments = ["deploy", IMAGE, "--slot", &slot, "--nodes", &nodes, "--wait", "--yes"];
        run_visibly(&mut rig.command(&arguments))
    })?;
    if let Some(login) = login {
        step("waiting for the login prompt", || {
            for machine in machines.iter_mut() {
                machine.wait_for(login, ordered, LOGIN, "the deployed system's console")?;
            }
            Ok(())
        })?;
    }
    for timeline in timelines(rig, machines)? {
        println!("{timeline}");
    }
    Ok(())
}

/// The timeline of each node of the newest job.
fn timelines(rig: &Rig, machines: &[Machine]) -> Result<Vec<Timeline>> {
    let jobs = rig.ask(&["job", "list"])?;
    let jobs = jobs.as_array().context("`job list -o json` is no list")?;
    let newest = jobs.iter().filter_map(|job| job["id"].as_i64()).max().context("no job")?;
    let job = rig.ask(&["job", "show", &newest.to_string()])?;
    let nodes = rig.ask(&["node", "list"])?;
    let mut timelines = Vec::new();
    for task in job["tasks"].as_array().context("the job has no tasks")? {
        let name = task["node"].as_str().context("a task without a node")?;
        let node = nodes.as_array().and_then(|nodes| nodes.iter().find(|n| n["name"] == name));
        let macs = node.map(|node| node["macs"].to_string()).unwrap_or_default();
        let machine = machines.iter().find(|machine| macs.contains(machine.mac()));
        let machine = machine.with_context(|| format!("{name} is none of our machines"))?;
        let mut timeline = Timeline::new(name, machine.started())?;
        timeline.read_task(task)?;
        let restart = timeline.first("reboot-ordered").context("no reboot was ordered")?;
        timeline.read_console(machine.serial(), restart);
        timelines.push(timeline);
    }
    Ok(timelines)
}

/// What a failed run shows before its directory goes.
fn show_ends(rig: &Rig, machines: &[Machine]) {
    if process::interrupted() {
        return;
    }
    let log = std::fs::read_to_string(rig.log_path()).unwrap_or_default();
    eprintln!("--- the controller's log ends:\n{}", process::tail(&log));
    for machine in machines {
        let path = machine.serial().path().display();
        eprintln!("--- the console {path} ends:\n{}", machine.serial().last_lines(40));
    }
}

fn keep(lab: &Lab, metalcast: &Path, rig: &Rig, machines: &[Machine]) -> Result<()> {
    println!("The lab stays up until Ctrl-C. As root:");
    println!("  operate:  {} --socket {} node list", metalcast.display(), rig.socket().display());
    println!("  go in:    nsenter --target {} --net --mount", lab.holder_pid());
    println!("  log:      tail -f {}", rig.log_path().display());
    for machine in machines {
        println!("  console:  tail -f {}", machine.serial().path().display());
    }
    while process::pause().is_ok() {}
    Ok(())
}
