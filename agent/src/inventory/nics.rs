//! Network interfaces of the hardware, from `/sys/class/net`.

use super::{attribute, link_name, number};
use metalcast_shared::id::Mac;
use metalcast_shared::inventory::Nic;
use std::fs;
use std::path::Path;

/// All interfaces that have a device behind them, in the order of their names. `bootif` is the
/// address that the machine netbooted with.
pub(super) fn read(sys: &Path, bootif: Option<Mac>) -> Vec<Nic> {
    let Ok(entries) = fs::read_dir(sys.join("class/net")) else { return Vec::new() };
    let mut nics: Vec<Nic> = entries
        .flatten()
        .filter_map(|entry| nic(&entry.path(), entry.file_name().into_string().ok()?, bootif))
        .collect();
    nics.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    nics
}

fn nic(dir: &Path, name: String, bootif: Option<Mac>) -> Option<Nic> {
    let device = fs::canonicalize(dir.join("device")).ok()?;
    let mac: Mac = attribute(&dir.join("address"))?.parse().ok()?;
    Some(Nic {
        mac,
        driver: link_name(&device.join("driver")),
        link: attribute(&dir.join("carrier")).is_some_and(|carrier| carrier == "1"),
        // -1 stands for unknown.
        speed_mbit: number::<i64>(&dir.join("speed"))
            .filter(|speed| *speed > 0)
            .and_then(|speed| u32::try_from(speed).ok()),
        pci_id: pci_id(&device),
        boot: bootif == Some(mac),
        name,
    })
}

/// The nearest PCI device on the way up: a virtio interface sits below one.
fn pci_id(device: &Path) -> Option<String> {
    let is_pci = |dir: &&Path| link_name(&dir.join("subsystem")).is_some_and(|bus| bus == "pci");
    let pci = device.ancestors().find(is_pci)?;
    let id = |file: &str| {
        let text = attribute(&pci.join(file))?;
        text.strip_prefix("0x").map(str::to_owned)
    };
    Some(format!("{}:{}", id("vendor")?, id("device")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn hardware_interfaces_with_driver_and_pci_id() {
        let sys = tempfile::tempdir().unwrap();
        let at = |path: &str| sys.path().join(path);
        let pci = "devices/pci0000:00/0000:00:03.0";
        for dir in [
            &format!("{pci}/virtio0/net/eth0"),
            "bus/pci/drivers/virtio-pci",
            "bus/virtio/drivers/virtio_net",
            "class/net/lo",
        ] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        fs::write(at(pci).join("vendor"), "0x1af4\n").unwrap();
        fs::write(at(pci).join("device"), "0x1000\n").unwrap();
        symlink("../../../bus/pci", at(pci).join("subsystem")).unwrap();
        let virtio = at(pci).join("virtio0");
        symlink("../../../../bus/virtio", virtio.join("subsystem")).unwrap();
        symlink("../../../../bus/virtio/drivers/virtio_net", virtio.join("driver")).unwrap();
        let eth0 = virtio.join("net/eth0");
        symlink("../..", eth0.join("device")).unwrap();
        for (file, text) in
            [("address", "52:54:00:12:34:56\n"), ("carrier", "1\n"), ("speed", "-1\n")]
        {
            fs::write(eth0.join(file), text).unwrap();
        }
        fs::write(at("class/net/lo/address"), "00:00:00:00:00:00\n").unwrap();
        symlink(&eth0, at("class/net/eth0")).unwrap();

        let mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let expected = Nic {
            name: "eth0".into(),
            mac,
            driver: Some("virtio_net".into()),
            link: true,
            speed_mbit: None,
            pci_id: Some("1af4:1000".into()),
            boot: true,
        };
        assert_eq!(read(sys.path(), Some(mac)), [expected]);
        assert!(!read(sys.path(), None)[0].boot);
    }
}
