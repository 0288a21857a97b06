//! Netbooting a machine: from power-on to the registered agent, beside the least that the same way can take.
//!
//! Two networks of the same shape, each with a controller and a machine. The one gives out our RAM image; the other the
//! same kernel with an initramfs of busybox and an init of one line, which greets on the console. All before the init is
//! the same on both sides: firmware, DHCP, iPXE, scripts, HTTP, the kernel's start.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use metalcast_initramfs::{cpio::Archive, packed};
use metalcast_tests::lab::Lab;
use metalcast_tests::progress::step;
use metalcast_tests::qemu::{Disk, Machine, Spec};
use metalcast_tests::rig::{Artefacts, Rig};

use super::{Figure, in_turns, shipped};
use crate::initramfs;

/// What the agent says on the console when the controller has answered its registration.
const REGISTERED: &str = "waiting for approval";
/// What the init of one line says.
const GREETING: &str = "bench: this is init";
/// The rival is the part of our boot that we do not write ourselves.
const MOST: f64 = 1.5;
/// The disk is sparse and nothing is written to it.
const DISK_BYTES: u64 = 500_000_000_000;
/// Ten times what an idle machine needs.
const BOOT: Duration = Duration::from_secs(300);

/// Measures the figure.
///
/// # Errors
/// When a side cannot be set up, or a machine does not get there.
pub fn measure(runs: u32, options: &initramfs::Options) -> Result<Vec<Figure>> {
    let artefacts = shipped(options, || Ok(()))?;
    let mut ours = Side::new(Lab::new("bench-ours", 43)?, &artefacts, REGISTERED)?;
    let lab = Lab::new("bench-theirs", 44)?;
    let ram_image = lab.dir().join("ram-image");
    one_line_init(&artefacts.ram_image, &ram_image)?;
    let mut theirs = Side::new(lab, &Artefacts { ram_image, ..artefacts }, GREETING)?;
    let name = "power-on to registered".to_owned();
    let pairs = step(&name, || in_turns(runs, || ours.boot(), || theirs.boot()))?;
    let goal = Some(0.0..=MOST);
    Ok(vec![Figure { name, unit: "s", rival: "an init of one line", pairs, goal }])
}

/// A RAM image with the kernel of another, whose init says one line.
fn one_line_init(ours: &Path, dir: &Path) -> Result<()> {
    let init = format!("#!/bin/busybox sh\necho '{GREETING}'; exec /bin/busybox sleep 1d\n");
    let mut archive = Archive::new();
    archive.file("init", init.into_bytes(), 0o755)?;
    let busybox = fs::read("/bin/busybox").context("reading busybox (cargo xtask setup)")?;
    archive.file("bin/busybox", busybox, 0o755)?;
    fs::create_dir(dir).context("making a directory")?;
    let initramfs = packed::pack(&archive.into_bytes()).context("packing an initramfs")?;
    fs::write(dir.join("initramfs"), initramfs).context("writing an initramfs")?;
    fs::copy(ours.join("vmlinuz"), dir.join("vmlinuz")).context("copying the kernel").map(drop)
}

/// A network, its controller, and the machines that netboot from it one after the other.
struct Side {
    // In the order in which they have to go.
    _rig: Rig,
    lab: Lab,
    arrived: &'static str,
    machines: u8,
}

impl Side {
    fn new(lab: Lab, artefacts: &Artefacts, arrived: &'static str) -> Result<Self> {
        Ok(Self { _rig: Rig::start(&lab, artefacts)?, lab, arrived, machines: 0 })
    }

    /// Switches a machine on that nobody knows; the seconds until it has arrived. Then its power is cut.
    fn boot(&mut self) -> Result<f64> {
        self.machines = self.machines.checked_add(1).context("too many machines")?;
        let serial = format!("MCBOOT{}", self.machines);
        let disk = Disk::blank(&self.lab.dir().join(&serial), DISK_BYTES, &serial)?;
        let spec = Spec::node(self.machines).disk(disk);
        let mut machine = Machine::start(&mut self.lab, &spec)?;
        let started = machine.started();
        let line = machine.wait_for(self.arrived, started, BOOT, "the end of the netboot")?;
        machine.cut_power();
        Ok(line.at.saturating_duration_since(started).as_secs_f64())
    }
}
