//! Drivers: for every device that has a `modalias` in sysfs, the modules whose alias fits are loaded,
//! and what they need before them.
//!
//! First all devices are walked until nothing new appears, then a thread follows the kernel's events:
//! a bus found by one driver brings the devices of the next, and disks may come late. What no device
//! asks for, such as a filesystem, is loaded by [`load`] when it is needed; the kernel itself starts
//! this program as `modprobe` for what it needs.

use super::console;
use anyhow::{Context, Result, ensure};
use metalcast_initramfs::build::MODULES_LOAD_PATH;
use metalcast_initramfs::modules::{Index, Tables};
use metalcast_initramfs::packed;
use metalcast_sys::module::{self, Loaded};
use metalcast_sys::uevent::{Event, UeventSocket};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Walks of all devices at the start; each finds what the drivers of the last one brought.
const ROUNDS: usize = 10;
/// Deepest path below `/sys/devices`; USB behind hubs behind PCI bridges stays far below.
const DEPTH_LIMIT: usize = 32;
/// Devices are complete when the kernel reported none for this long ...
const QUIET: Duration = Duration::from_millis(500);
/// ... but nobody waits longer than this.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
/// A quiet system's thread looks up this often.
const EVENT_WAIT: Duration = Duration::from_secs(60);

/// Loads a module that no device asks for, such as the driver of a filesystem, and all that it needs.
///
/// To be called at any time and from any thread; what is loaded already stays. An error if the
/// machine has no such module, or the kernel refuses one.
pub fn load(name: &str) -> Result<()> {
    let (dir, index) = modules_of_this_kernel()?;
    load_closure(&dir, &index, name)
}

/// What the kernel starts when it needs a module: `modprobe -q -- NAME` (usermodehelper, kmod.c).
pub fn modprobe(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let name = arguments.find(|argument| !argument.starts_with('-'));
    load(&name.context("modprobe was told no module")?)
}

fn load_closure(dir: &Path, index: &Index, name: &str) -> Result<()> {
    for module in index.closure(&[name])? {
        let path = index.path(module).context("a module without a path")?;
        insert(&dir.join(path))?;
    }
    Ok(())
}

/// Loads one module. One that finds nothing to drive, as libata's or a processor's faster variant of
/// an algorithm often do, is no failure.
fn insert(path: &Path) -> Result<()> {
    let shown = path.display();
    let file = std::fs::read(path).with_context(|| format!("reading module {shown}"))?;
    let image = match path.to_str().is_some_and(|path| path.ends_with(packed::SUFFIX)) {
        true => packed::unpack(&file).with_context(|| format!("reading module {shown}"))?,
        false => file,
    };
    match module::load(&image, &shown.to_string(), "") {
        Ok(Loaded::New | Loaded::Already) => Ok(()),
        Err(error) if error.errno() == Some(nix::errno::Errno::ENODEV as i32) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn modules_of_this_kernel() -> Result<(PathBuf, Index)> {
    let release = nix::sys::utsname::uname().context("asking for the kernel's version")?;
    let release = release.release().to_string_lossy().into_owned();
    let dir = Path::new("/lib/modules").join(&release);
    ensure!(
        dir.is_dir(),
        "the RAM image has no modules for kernel {release}: kernel and initramfs do not belong \
         together"
    );
    let index = Index::parse(&Tables::read(&dir)?)?;
    Ok((dir, index))
}

/// Handle on the thread that loads drivers for devices that come later.
#[derive(Debug)]
pub(super) struct Hotplug {
    started: Instant,
    last_event_millis: Arc<AtomicU64>,
}

/// Loads the fixed modules and those of all devices below `sys`, and starts the thread for those
/// that come later.
pub(super) fn load_drivers(sys: &Path) -> Result<Hotplug> {
    // Opened first: what appears during the walk is queued.
    let events = UeventSocket::open()?;
    let mut loader = Loader::open(sys)?;
    let fixed = std::fs::read_to_string(Path::new("/").join(MODULES_LOAD_PATH));
    for name in fixed.unwrap_or_default().lines() {
        loader.load_for(name);
    }
    for _ in 0..ROUNDS {
        if loader.walk() == 0 {
            break;
        }
    }
    console::line(&format!("{} modules loaded", loader.loaded.len()));

    let hotplug =
        Hotplug { started: Instant::now(), last_event_millis: Arc::new(AtomicU64::new(0)) };
    let (started, last) = (hotplug.started, Arc::clone(&hotplug.last_event_millis));
    std::thread::Builder::new()
        .name("modules".into())
        .spawn(move || {
            loop {
                match events.receive(EVENT_WAIT) {
                    Ok(Some(event)) => {
                        loader.handle(&event);
                        let millis = started.elapsed().as_millis();
                        last.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        console::line(&format!("{:#}", anyhow::Error::new(error)));
                        std::thread::sleep(QUIET);
                    }
                }
            }
        })
        .context("starting the driver thread")?;
    Ok(hotplug)
}

impl Hotplug {
    /// Waits until the kernel has found no device for half a second, at most 15 s.
    pub(super) fn settle(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let last = Duration::from_millis(self.last_event_millis.load(Ordering::Relaxed));
            let quiet = self.started.elapsed().saturating_sub(last);
            if quiet >= QUIET {
                return Ok(());
            }
            if begun.elapsed() > SETTLE_LIMIT {
                console::line("devices keep coming and going; not waiting any longer");
                return Ok(());
            }
            std::thread::sleep(QUIET - quiet);
        }
    }
}

struct Loader {
    sys: PathBuf,
    modules_dir: PathBuf,
    index: Index,
    /// Module names that were loaded, or failed, and are not tried again.
    loaded: BTreeSet<String>,
    /// Aliases that were looked up. A machine has a few hundred; hot-plugging adds few.
    seen: BTreeSet<String>,
}

impl Loader {
    fn open(sys: &Path) -> Result<Self> {
        let (modules_dir, index) = modules_of_this_kernel()?;
        let (loaded, seen) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self { sys: sys.to_owned(), modules_dir, index, loaded, seen })
    }

    /// Looks up every alias in sysfs that is new; returns how many modules were loaded.
    fn walk(&mut self) -> usize {
        let before = self.loaded.len();
        let mut aliases = Vec::new();
        find_aliases(&self.sys.join("devices"), DEPTH_LIMIT, &mut aliases);
        for alias in aliases {
            self.load_for(&alias);
        }
        self.loaded.len() - before
    }

    fn handle(&mut self, event: &Event) {
        match event {
            Event::Lost => {
                self.walk();
            }
            Event::Device(event) => {
                let aliases: Vec<&String> = event
                    .variables
                    .iter()
                    .filter(|(name, _)| name == "MODALIAS")
                    .map(|(_, alias)| alias)
                    .collect();
                for alias in aliases {
                    self.load_for(alias);
                }
            }
        }
    }

    /// Loads the modules behind an alias or name. No device is worth stopping for: what fails is
    /// said and left.
    fn load_for(&mut self, alias: &str) {
        if !self.seen.insert(alias.to_owned()) {
            return;
        }
        // Most devices of a machine have no driver in the RAM image.
        let Ok(names) = self.index.closure(&[alias]) else { return };
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        for name in names {
            if self.loaded.contains(&name) {
                continue;
            }
            let Some(path) = self.index.path(&name) else { continue };
            if let Err(error) = insert(&self.modules_dir.join(path)) {
                console::line(&format!("{error:#}"));
            }
            self.loaded.insert(name);
        }
    }
}

/// Collects the contents of all files named `modalias` below `dir`. Devices come and go meanwhile,
/// so what cannot be read is passed over.
fn find_aliases(dir: &Path, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 0 {
            find_aliases(&entry.path(), depth - 1, found);
        } else if entry.file_name() == "modalias"
            && let Ok(text) = std::fs::read_to_string(entry.path())
            && !text.trim().is_empty()
        {
            found.push(text.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn aliases_are_found_at_any_depth_and_links_are_not_followed() {
        let sys = tempfile::tempdir().unwrap();
        let pci = sys.path().join("devices/pci0000:00/0000:00:03.0");
        std::fs::create_dir_all(pci.join("virtio0/net/eth0")).unwrap();
        std::fs::write(pci.join("modalias"), "pci:v00001AF4d00001000\n").unwrap();
        std::fs::write(pci.join("virtio0/modalias"), "virtio:d00000001v00001AF4\n").unwrap();
        std::fs::write(pci.join("virtio0/net/modalias"), "\n").unwrap();
        symlink("../../..", pci.join("virtio0/device")).unwrap();
        let mut found = Vec::new();
        find_aliases(&sys.path().join("devices"), DEPTH_LIMIT, &mut found);
        found.sort();
        assert_eq!(found, ["pci:v00001AF4d00001000", "virtio:d00000001v00001AF4"]);
    }

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_a_refusal_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let need = dir.path().join("need.ko.zst");
        std::fs::write(&need, packed::pack(b"no module").unwrap()).unwrap();
        std::fs::write(dir.path().join("fs.ko"), "no module").unwrap();
        let dep = "fs.ko: need.ko.zst\nneed.ko.zst:\n".to_owned();
        let index = Index::parse(&Tables { dep, ..Tables::default() }).unwrap();
        // The kernel takes neither; the first that it is given is the one that fails.
        let error = load_closure(dir.path(), &index, "fs").unwrap_err().to_string();
        assert!(error.contains("loading module") && error.ends_with("need.ko.zst"), "{error}");
        std::fs::write(&need, "damaged").unwrap();
        let error = load_closure(dir.path(), &index, "fs").unwrap_err();
        assert!(format!("{error:#}").contains("need.ko.zst: not a zstd frame"), "{error:#}");
        let error = load_closure(dir.path(), &index, "other").unwrap_err().to_string();
        assert_eq!(error, "the kernel has no such modules: other");
    }
}
