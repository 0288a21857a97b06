//! What the machine is made of, read from sysfs and procfs, and what lies on its disks. Nothing is
//! opened for writing, so it is safe on any running Linux.

mod contents;
mod disks;
mod nics;
mod smbios;
mod users;

use crate::init::Cmdline;
use metalcast_shared::disk::Disk;
use metalcast_shared::inventory::{Firmware, Inventory};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long looking at all disks may take. A sick disk may need minutes for a sector, and the node has
/// to be heard of all the same.
const LOOK_LIMIT: Duration = Duration::from_secs(20);

/// Reads the inventory of this machine, with those of its disks that are wanted. What cannot be read
/// is left empty.
pub fn collect(is_wanted: impl Fn(&Disk) -> bool) -> Inventory {
    let sys = Path::new("/sys");
    let bootif = Cmdline::read(Path::new("/proc/cmdline")).ok().and_then(|line| line.bootif);
    let disks = disks::read(sys).into_iter().filter(is_wanted).collect();
    let system = system();
    Inventory {
        cpu_model: system
            .cpus()
            .first()
            .map(|cpu| cpu.brand().trim().to_owned())
            .unwrap_or_default(),
        cpu_cores: count(sysinfo::System::physical_core_count().unwrap_or(0)),
        cpu_threads: count(system.cpus().len()),
        memory_bytes: system.total_memory(),
        disks: contents::of_all(disks, sys, Path::new("/dev"), LOOK_LIMIT),
        nics: nics::read(sys, bootif),
        smbios: smbios::read(sys),
        firmware: firmware(sys),
        kernel: sysinfo::System::kernel_version().unwrap_or_default(),
    }
}

/// All disks of this machine, without looking at what is on them: what a task asks again before it
/// writes.
pub fn disks() -> Vec<Disk> {
    disks::read(Path::new("/sys"))
}

fn system() -> sysinfo::System {
    use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
    let kinds = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    System::new_with_specifics(kinds)
}

fn firmware(sys: &Path) -> Firmware {
    if sys.join("firmware/efi").is_dir() { Firmware::Uefi } else { Firmware::Bios }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A one-line attribute without outer blanks; `None` if it is missing, empty or not text.
fn attribute(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn number<N: std::str::FromStr>(path: &Path) -> Option<N> {
    attribute(path)?.parse().ok()
}

/// Last part of where a link leads, such as a driver's name.
fn link_name(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compared with what other programs say of this machine.
    #[test]
    fn this_machine_is_described() {
        let inventory = collect(|_| true);
        let threads = std::thread::available_parallelism().unwrap().get();
        assert!(inventory.cpu_threads as usize >= threads);
        assert!(inventory.cpu_cores >= 1 && inventory.cpu_cores <= inventory.cpu_threads);
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        let kib: u64 = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(inventory.memory_bytes, kib * 1024);
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(inventory.kernel, release.trim());
    }

    #[test]
    fn a_loop_device_is_a_disk_while_a_file_is_in_it() {
        use metalcast_sys::loopdev::{LoopDevice, Options};
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(3 << 20).unwrap();
        let device = LoopDevice::attach(file.path(), Options::default()).unwrap();
        let name = device.path().file_name().unwrap().to_str().unwrap().to_owned();
        let found = disks().into_iter().find(|disk| disk.name == name).unwrap();
        assert_eq!((found.bytes, found.transport.as_deref()), (3 << 20, Some("loop")));
        device.close().unwrap();
    }

    #[test]
    fn the_firmware_is_told_apart() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(firmware(sys.path()), Firmware::Bios);
        fs::create_dir_all(sys.path().join("firmware/efi")).unwrap();
        assert_eq!(firmware(sys.path()), Firmware::Uefi);
    }
}
