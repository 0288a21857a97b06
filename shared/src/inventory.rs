//! What a node is made of, as its agent reads it, and the fingerprint by which it is known again.

use crate::{disk::Disk, id::Mac};
use serde::{Deserialize, Serialize};

/// Everything a node reports about its hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Processor model.
    pub cpu_model: String,
    /// Physical cores.
    pub cpu_cores: u32,
    /// Logical processors.
    pub cpu_threads: u32,
    /// Installed memory that the kernel manages, in bytes.
    pub memory_bytes: u64,
    /// Disks, in the kernel's order.
    pub disks: Vec<Disk>,
    /// Network interfaces, in the kernel's order.
    pub nics: Vec<Nic>,
    /// What the firmware says of the machine.
    pub smbios: Smbios,
    /// How the firmware boots.
    pub firmware: Firmware,
    /// Version of the running kernel.
    pub kernel: String,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Kernel name.
    pub name: String,
    /// Permanent address.
    pub mac: Mac,
    /// Kernel driver.
    pub driver: Option<String>,
    /// Whether there is a carrier.
    pub link: bool,
    /// Speed in Mbit/s, where the driver knows.
    pub speed_mbit: Option<u32>,
    /// PCI `vendor:device`, such as `1af4:1000`.
    pub pci_id: Option<String>,
    /// Whether the machine netbooted through it.
    pub boot: bool,
}

/// SMBIOS identity (DMTF DSP0134); what a vendor left empty or filled with a placeholder is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smbios {
    /// System UUID, lower case.
    pub uuid: Option<String>,
    /// System serial number.
    pub serial: Option<String>,
    /// Manufacturer.
    pub vendor: Option<String>,
    /// Product name.
    pub product: Option<String>,
    /// Chassis asset tag.
    pub asset_tag: Option<String>,
    /// Firmware version.
    pub bios_version: Option<String>,
}

/// Which interface the firmware boots through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// PC BIOS.
    #[default]
    Bios,
    /// UEFI.
    Uefi,
}

/// By what a node is known again: never by one MAC alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// SMBIOS system UUID.
    pub smbios_uuid: Option<String>,
    /// SMBIOS system serial.
    pub smbios_serial: Option<String>,
    /// Addresses of all interfaces.
    pub macs: Vec<Mac>,
    /// Serials of all disks that have one.
    pub disk_serials: Vec<String>,
}

/// How a fingerprint compares with the one on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// The same machine, perhaps with a part replaced.
    Same,
    /// It shares something, but not enough: an operator has to look.
    Changed,
    /// Nothing in common.
    Stranger,
}

impl From<&Inventory> for Fingerprint {
    fn from(inventory: &Inventory) -> Self {
        Self {
            smbios_uuid: inventory.smbios.uuid.clone(),
            smbios_serial: inventory.smbios.serial.clone(),
            macs: inventory.nics.iter().map(|nic| nic.mac).collect(),
            disk_serials: inventory.disks.iter().filter_map(|disk| disk.serial.clone()).collect(),
        }
    }
}

impl Fingerprint {
    /// Compares `self`, which is on record, with what a machine now shows.
    ///
    /// The same machine shares an address, shows the firmware's identity where one is on record, and
    /// keeps at least half of the parts on record, of which one is not an address: addresses are
    /// easily copied. So one NIC or disk may be replaced at a time.
    pub fn compare(&self, seen: &Self) -> Likeness {
        let macs = self.macs.iter().filter(|mac| seen.macs.contains(mac)).count();
        let disks = self.disk_serials.iter().filter(|d| seen.disk_serials.contains(d)).count();
        let firmware =
            [(&self.smbios_uuid, &seen.smbios_uuid), (&self.smbios_serial, &seen.smbios_serial)];
        let firmware_agrees = firmware.iter().any(|(old, new)| old.is_some() && old == new);
        let firmware_differs = firmware.iter().any(|(old, new)| old.is_some() && old != new);
        if macs == 0 && disks == 0 && !firmware_agrees {
            return Likeness::Stranger;
        }
        let parts = self.macs.len() + self.disk_serials.len();
        let has_more_than_macs = firmware_agrees || disks > 0 || self.disk_serials.is_empty();
        if macs > 0 && 2 * (macs + disks) >= parts && !firmware_differs && has_more_than_macs {
            Likeness::Same
        } else {
            Likeness::Changed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(uuid: &str, macs: &[u8], disks: &[&str]) -> Fingerprint {
        Fingerprint {
            smbios_uuid: (!uuid.is_empty()).then(|| uuid.into()),
            smbios_serial: None,
            macs: macs.iter().map(|last| Mac([2, 0, 0, 0, 0, *last])).collect(),
            disk_serials: disks.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn one_replaced_part_is_the_same_machine_a_shared_mac_alone_is_not() {
        let record = print("u1", &[1, 2], &["A", "B"]);
        let check = |seen, expected| assert_eq!(record.compare(&seen), expected);
        check(record.clone(), Likeness::Same);
        check(print("u1", &[1, 2], &["A", "C"]), Likeness::Same);
        check(print("u1", &[1, 9], &["A", "B"]), Likeness::Same);
        check(print("u2", &[1, 2], &["A", "B"]), Likeness::Changed);
        check(print("u1", &[1], &["X"]), Likeness::Changed);
        check(print("u1", &[8], &["A", "B"]), Likeness::Changed);
        check(print("u9", &[8], &["Z"]), Likeness::Stranger);
        check(print("", &[1, 2], &["A", "B"]), Likeness::Changed);
        let bare = print("", &[1], &["A"]);
        assert_eq!(bare.compare(&print("", &[1], &[])), Likeness::Changed, "a copied address");
        assert_eq!(bare.compare(&bare), Likeness::Same);
        assert_eq!(print("", &[1], &[]).compare(&print("", &[1], &[])), Likeness::Same);
    }
}
