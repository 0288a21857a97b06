//! Process 1 of the RAM image: from the kernel's hand-over to a machine with drivers, a right clock
//! and an address. Blocking code; no shell, no other program.
//!
//! ```text
//! mounts -> config -> clock -> modules -> link -> dhcp -> settle
//! ```
//!
//! Each phase says on the console when it begins and how long it took; every wait says what it waits
//! for and ends. Threads that go on living: `modules` (drivers of devices that come later), `firmware`
//! (what drivers miss), `dhcp` (renewal), `reaper` (ended orphans). What to do with the machine afterwards is not decided here.

pub mod console;

mod clock;
mod cmdline;
mod dhcp;
mod failure;
mod firmware;
mod link;
mod modules;
mod mounts;
mod reaper;

pub use cmdline::Cmdline;
pub use failure::fail;
pub use modules::{load as load_module, modprobe};

use anyhow::{Context, Result, ensure};
use metalcast_netboot::dhcp::client::Lease;
use metalcast_shared::boot::{BOOT_CONFIG_PATH, BootConfig};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

/// Far above any boot configuration: it holds a few addresses, a certificate and a token.
const BOOT_CONFIG_LIMIT: u64 = 256 << 10;

/// The machine after init.
#[derive(Debug)]
pub struct InitOutcome {
    /// What the controller put beside the RAM image.
    pub boot: BootConfig,
    /// The kernel's command line.
    pub cmdline: Cmdline,
    /// Kernel name of the interface that the machine booted through.
    pub nic: String,
    /// The first lease on it; a thread renews it.
    pub lease: Lease,
    /// How long each phase took, in order.
    pub timings: Vec<(&'static str, Duration)>,
}

/// Whether this is process 1, that is, `/init` of the RAM image.
pub fn is_pid1() -> bool {
    metalcast_sys::reap::is_process_1()
}

/// Brings the machine up. To be called once, by process 1, before any other thread is started; give
/// an error to [`fail`].
pub fn run() -> Result<InitOutcome> {
    failure::install_panic_hook();
    let mut phases = Phases::default();
    phases.run("mounts", || {
        mounts::mount_all()?;
        console::open_all();
        reaper::start()?;
        firmware::watch()
    })?;
    let (cmdline, boot) = phases.run("config", || {
        let cmdline = Cmdline::read(Path::new("/proc/cmdline"))?;
        let boot = boot_config(&Path::new("/").join(BOOT_CONFIG_PATH))?;
        console::line(&format!(
            "boot {}, {} controller address(es)",
            boot.boot,
            boot.controllers.len()
        ));
        Ok((cmdline, boot))
    })?;
    // Before any certificate is judged: a machine without battery starts in 1970.
    phases.run("clock", || clock::correct(boot.unix_time))?;
    let hotplug = phases.run("modules", || modules::load_drivers(Path::new("/sys")))?;
    let mac = cmdline.bootif.unwrap_or(boot.mac);
    let nic = phases.run("link", || link::bring_up(Path::new("/sys"), mac))?;
    let (first, second) = boot.boot.0.as_u64_pair();
    let lease = phases.run("dhcp", || dhcp::start(&nic, mac, first ^ second))?;
    // Disks are found beside all this; nobody should take the inventory before the last one.
    phases.run("settle", || hotplug.settle())?;
    Ok(InitOutcome { boot, cmdline, nic, lease, timings: phases.timings })
}

#[derive(Default)]
struct Phases {
    timings: Vec<(&'static str, Duration)>,
}

impl Phases {
    fn run<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        console::line(&format!("phase {name} ..."));
        let started = Instant::now();
        let done = work().with_context(|| format!("in phase {name}"))?;
        let took = started.elapsed();
        console::line(&format!("phase {name} done in {:.3} s", took.as_secs_f64()));
        self.timings.push((name, took));
        Ok(done)
    }
}

fn boot_config(path: &Path) -> Result<BootConfig> {
    let file = std::fs::File::open(path).with_context(|| {
        format!(
            "opening {}, which a controller puts beside the RAM image at each netboot",
            path.display()
        )
    })?;
    let mut text = Vec::new();
    file.take(BOOT_CONFIG_LIMIT + 1)
        .read_to_end(&mut text)
        .with_context(|| format!("reading {}", path.display()))?;
    ensure!(text.len() as u64 <= BOOT_CONFIG_LIMIT, "{} is too long", path.display());
    serde_json::from_slice(&text).with_context(|| format!("understanding {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use metalcast_shared::id::Mac;

    #[test]
    fn a_boot_configuration_is_read_and_a_bad_one_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            boot_config(&path)
        };
        let good = r#"{"boot":"0198a7a4-0000-7000-8000-000000000001","mac":"52:54:00:12:34:56",
            "controllers":["10.77.0.1:7443"],"ca_pem":"","unix_time":1700000000,"token":"00"}"#;
        assert_eq!(read(good).unwrap().mac, Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert!(format!("{:#}", read("{}").unwrap_err()).contains("boot.json: missing field"));
        let long = " ".repeat(BOOT_CONFIG_LIMIT as usize + 1);
        assert!(read(&long).unwrap_err().to_string().contains("too long"));
        let missing = boot_config(&dir.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("at each netboot"), "{missing}");
    }

    #[test]
    fn a_failing_phase_is_named_and_gets_no_timing() {
        let mut phases = Phases::default();
        phases.run("one", || Ok(())).unwrap();
        let error = phases.run("two", || -> Result<()> { anyhow::bail!("broken") }).unwrap_err();
        assert_eq!(format!("{error:#}"), "in phase two: broken");
        assert_eq!(phases.timings.len(), 1);
    }
}
