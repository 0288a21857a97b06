//! A controller as a machine sees it that did not netboot: what it says over HTTP, and by which interface.

mod http;

use anyhow::{Context, bail};
use metalcast_shared::{
    boot::{BOOT_CONFIG_PATH, BootConfig},
    id::Mac,
    inventory::{Inventory, Nic},
};
use std::net::SocketAddr;

/// Its address and HTTP port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Controller(pub(super) SocketAddr);

/// The interface that reaches the controller.
pub(super) struct Uplink {
    name: String,
    pub(super) mac: Mac,
}

impl Controller {
    /// The interface that reaches it.
    pub(super) fn uplink(&self) -> anyhow::Result<Uplink> {
        let address = http::local_address(self.0)?;
        let entries = std::fs::read_dir("/sys/class/net").context("listing /sys/class/net")?;
        for entry in entries {
            let path = entry.context("listing /sys/class/net")?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let Some(name) = name else { continue };
            if metalcast_sys::link::address(&name).ok().flatten() == Some(address) {
                let file = path.join("address");
                let mac = std::fs::read_to_string(&file)
                    .with_context(|| format!("reading {}", file.display()))?;
                let mac = mac.trim().parse().with_context(|| format!("the address of {name}"))?;
                return Ok(Uplink { name, mac });
            }
        }
        bail!("no network interface has {address}, by which {} is reached", self.0)
    }

    /// What a netboot would have brought: the script names the segment, the segment holds it.
    pub(super) fn netboot(&self, mac: Mac) -> anyhow::Result<BootConfig> {
        let script = http::get(self.0, &format!("/boot/{}.ipxe", mac.dashed()))?;
        let script = String::from_utf8_lossy(&script);
        let segment = script
            .split_whitespace()
            .find(|word| word.ends_with("/segment.cpio"))
            .and_then(|url| url.strip_prefix("http://")?.split_once('/'));
        let Some((_, segment)) = segment else {
            bail!(
                "the controller does not want this machine in its agent now: {}",
                script.lines().nth(1).unwrap_or("its boot script is empty")
            );
        };
        self.segment(&format!("/{segment}"))
    }

    /// The same for a machine that runs its own system and goes on with that.
    pub(super) fn golden(&self, mac: Mac) -> anyhow::Result<BootConfig> {
        self.segment(&format!("/golden/{}/segment.cpio", mac.dashed()))
    }

    fn segment(&self, path: &str) -> anyhow::Result<BootConfig> {
        let archive = http::get(self.0, path)?;
        let json = file_in(&archive, BOOT_CONFIG_PATH)
            .with_context(|| format!("the boot segment has no {BOOT_CONFIG_PATH}"))?;
        serde_json::from_slice(json).context("understanding the boot segment")
    }
}

/// A bridge or a virtual interface is none of the hardware's, but stands for the machine here.
pub(super) fn with_uplink(mut inventory: Inventory, uplink: &Uplink) -> Inventory {
    inventory.nics.iter_mut().for_each(|nic| nic.boot = nic.mac == uplink.mac);
    if !inventory.nics.iter().any(|nic| nic.boot) {
        inventory.nics.push(Nic {
            name: uplink.name.clone(),
            mac: uplink.mac,
            driver: None,
            link: true,
            speed_mbit: None,
            pci_id: None,
            boot: true,
        });
    }
    inventory
}

/// A file of a cpio archive in the `newc` form: headers of 13 numbers in base 16 behind a magic, name
/// and contents each filled up to 4 bytes.
fn file_in<'a>(archive: &'a [u8], path: &str) -> Option<&'a [u8]> {
    const HEADER: usize = 110;
    let mut rest = archive;
    loop {
        let header = str::from_utf8(rest.get(..HEADER)?).ok()?;
        let field = |index: usize| {
            let at = 6 + index * 8;
            usize::from_str_radix(header.get(at..at + 8)?, 16).ok()
        };
        let (bytes, name_bytes) = (field(6)?, field(11)?);
        let body = HEADER.checked_add(name_bytes)?.checked_next_multiple_of(4)?;
        let name = rest.get(HEADER..HEADER + name_bytes)?.strip_suffix(b"\0")?;
        let end = body.checked_add(bytes)?;
        if name == path.as_bytes() {
            return rest.get(body..end);
        }
        rest = rest.get(end.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_in_a_segment_and_in_no_damaged_one() {
        let files = [("etc/other", &b"12345"[..], 0o644), (BOOT_CONFIG_PATH, b"{}", 0o600)];
        let archive = metalcast_initramfs::segment(&files).unwrap();
        assert_eq!(file_in(&archive, BOOT_CONFIG_PATH), Some(&b"{}"[..]));
        assert_eq!(file_in(&archive, "etc/other"), Some(&b"12345"[..]));
        assert_eq!(file_in(&archive, "no"), None);
        for cut in 0..archive.len() {
            let found = file_in(&archive[..cut], BOOT_CONFIG_PATH);
            assert!(found.is_none_or(|found| found == b"{}"));
            let mut damaged = archive.clone();
            damaged[cut] ^= 0x55;
            let _ = file_in(&damaged, BOOT_CONFIG_PATH);
        }
    }
}
