//! The whole way on machines of 256 MB: one with the devices of an ordinary PC and the kernel for every PC, one with
//! those of a virtual machine and the kernel for these. The first has a second network card, on a network with a DHCP
//! server of its own that the agent must not ask, and gets a second disk while it runs. The clock of one is ten years
//! behind, that of the other ten years ahead; both agents keep within their memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use metalcast_tests::dnsmasq::wait_for_line;
use metalcast_tests::image;
use metalcast_tests::kernel::Kernel;
use metalcast_tests::lab::Lab;
use metalcast_tests::process::{self, Background};
use metalcast_tests::qemu::{Bus, Disk, Machine, Nic, SideNic, Spec};
use metalcast_tests::rig::{Artefacts, Rig};
use metalcast_tests::scene::{SMALL_AGENT_MIB, used_mib};
use serde_json::Value;

/// Ten times what an idle machine needs.
const REGISTRATION: Duration = Duration::from_secs(300);
const DEPLOYMENT: Duration = Duration::from_secs(900);
const LOGIN: Duration = Duration::from_secs(300);
/// The agent compares its disks every few seconds.
const NOTICED: Duration = Duration::from_secs(60);

/// What the machines have.
const MEMORY_MIB: u32 = 256;

/// Room for the default layout; the file is sparse.
const DISK_BYTES: u64 = 500_000_000_000;

/// Clocks about ten years off.
const BEHIND: &str = "2016-01-01";
const AHEAD: &str = "2036-12-01";

/// The tap device of the second card.
const SIDE: &str = "side0";

const SIDE_MAC: &str = "52:54:00:77:99:01";

#[test]
fn a_pc_with_e1000_and_ahci_is_deployed_with_256_mb() {
    let artefacts = Artefacts::given_or_built_with(Kernel::Generic).unwrap();
    let image = image::debian_generic().unwrap();
    let mut lab = Lab::new("small-pc", 41).unwrap();
    let side = side_network(&lab).unwrap();
    let spec = Spec {
        nic: Nic::E1000,
        side_nic: Some(SideNic { tap: SIDE.to_owned(), mac: SIDE_MAC.to_owned() }),
        bus: Bus::Ahci,
        clock: Some(BEHIND),
        ..Spec::node(1)
    };
    let mut run = Run::start(&mut lab, &artefacts, spec).unwrap();
    let node = run.registered().unwrap();
    let nics = node["inventory"]["nics"].as_array().unwrap();
    for (driver, boots) in [("e1000", true), ("virtio_net", false)] {
        assert!(nics.iter().any(|nic| nic["driver"] == driver && nic["boot"] == boots), "{nics:?}");
    }
    assert_eq!(run.disks(&node), [("sda", "MCDISK1")]);

    // The driver of this disk is not loaded yet.
    let late = Disk::blank(&lab.dir().join("late.disk"), 1 << 30, "MCLATE").unwrap();
    run.machine.plug(&late, Bus::Nvme).unwrap();
    run.wait_for_disk("nvme0n1", "MCLATE").unwrap();

    // The agent has its address for long. The deployed system asks on every card, which proves the network.
    let asked = std::fs::read_to_string(side.log_path()).unwrap();
    assert!(!asked.contains("DHCPDISCOVER"), "asked by a card that did not boot: {asked}");
    run.deploy(image.to_str().unwrap()).unwrap();
    wait_for_line(side.log_path(), &["DHCPACK", SIDE_MAC], LOGIN).unwrap();
}

#[test]
fn a_virtual_machine_with_nvme_is_deployed_with_256_mb() {
    let artefacts = Artefacts::given_or_built().unwrap();
    let debian = image::debian().unwrap();
    let mut lab = Lab::new("small-vm", 42).unwrap();
    let spec = Spec { bus: Bus::Nvme, clock: Some(AHEAD), ..Spec::node(1) };
    let mut run = Run::start(&mut lab, &artefacts, spec).unwrap();
    let node = run.registered().unwrap();
    assert_eq!(run.disks(&node), [("nvme0n1", "MCDISK1")]);
    run.deploy(debian.zstd.to_str().unwrap()).unwrap();
}

/// A network with a DHCP server that has nothing to do with the controller's.
fn side_network(lab: &Lab) -> Result<Background> {
    lab.ip(&["tuntap", "add", "dev", SIDE, "mode", "tap"])?;
    lab.ip(&["address", "add", "10.78.41.1/24", "dev", SIDE])?;
    lab.ip(&["link", "set", SIDE, "up"])?;
    let mut command = lab.command("dnsmasq");
    // Changing the user would clear the parent-death signal.
    command.args(["--user=root", "--keep-in-foreground", "--log-facility=-", "--port=0"]);
    command.args(["--conf-file=/dev/null", "--leasefile-ro", "--no-ping", "--bind-interfaces"]);
    command.args([&format!("--interface={SIDE}"), "--dhcp-range=10.78.41.100,10.78.41.199,1h"]);
    lab.spawn("side-dhcp", &mut command)
}

/// A machine of a lab on its way.
struct Run {
    rig: Rig,
    machine: Machine,
}

impl Run {
    fn start(lab: &mut Lab, artefacts: &Artefacts, spec: Spec) -> Result<Self> {
        let disk = Disk::blank(&lab.dir().join("node1.disk"), DISK_BYTES, "MCDISK1")?;
        let rig = Rig::start(lab, artefacts)?;
        let machine = Machine::start(lab, &spec.memory_mib(MEMORY_MIB).disk(disk))?;
        Ok(Self { rig, machine })
    }

    /// The node when it has registered.
    fn registered(&mut self) -> Result<Value> {
        let machine = std::slice::from_mut(&mut self.machine);
        self.rig.wait_for_nodes(machine, 1, "new", REGISTRATION)?;
        println!(
            "registered {:.1} s after power-on",
            self.machine.started().elapsed().as_secs_f64()
        );
        let node = self.node()?;
        let memory = node["inventory"]["memory_bytes"].as_u64().context("no memory")? >> 20;
        ensure!(memory < u64::from(MEMORY_MIB), "it has {memory} MiB");
        println!("{memory} of {MEMORY_MIB} MiB are the kernel's to give");
        let logs = self.rig.cli(&["node", "logs", "node1"])?;
        ensure!(logs.contains("the clock was"), "no word of the clock: {logs}");
        Ok(node)
    }

    fn node(&self) -> Result<Value> {
        self.rig.ask(&["node", "show", "node1"])
    }

    /// Names and serials of a node's disks.
    fn disks<'n>(&self, node: &'n Value) -> Vec<(&'n str, &'n str)> {
        let disks = node["inventory"]["disks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |value: &'n Value| value.as_str().unwrap_or_default();
        disks.iter().map(|disk| (text(&disk["name"]), text(&disk["serial"]))).collect()
    }

    fn wait_for_disk(&mut self, name: &str, serial: &str) -> Result<()> {
        let deadline = Instant::now() + NOTICED;
        loop {
            let node = self.node()?;
            if self.disks(&node).contains(&(name, serial)) {
                return Ok(());
            }
            self.machine.check_running()?;
            ensure!(
                Instant::now() < deadline,
                "no {name} {serial} within {NOTICED:?}: {:?}\n{}",
                self.disks(&node),
                self.machine.serial().last_lines(25)
            );
            process::pause()?;
        }
    }

    /// Approves the node and deploys an image to it, until the system has reported in.
    fn deploy(&mut self, image: &str) -> Result<()> {
        self.rig.cli(&["image", "import", image, "lab/debian"])?;
        self.rig.cli(&["node", "approve", "node1"])?;
        let begun = Instant::now();
        let words = "deploy lab/debian --slot 5 --nodes node1 --disk MCDISK1 --yes";
        let job = self.rig.order(&words.split(' ').collect::<Vec<_>>())?;
        let task = self.rig.wait_for_task(
            job,
            &mut self.machine,
            DEPLOYMENT,
            "slot 5 reports in",
            |task| task["state"] == "done",
        )?;
        println!("deployed and reported {:.1} s after the order", begun.elapsed().as_secs_f64());
        let timeline = task["timeline"].as_array().context("no timeline")?;
        ensure!(timeline.iter().any(|moment| moment["what"] == "reported"), "{task:#}");
        let used = used_mib(&task)?;
        println!("the agent used at most {used} MiB");
        ensure!(used <= SMALL_AGENT_MIB, "more than {SMALL_AGENT_MIB} MiB: {used}");
        Ok(())
    }
}
