//! Disks, from `/sys/block`.
//!
//! Left out: what holds no data of its own (mapped and striped devices), what is empty (unused loop
//! devices, card readers), and optical drives.

use super::{attribute, number};
use metalcast_shared::disk::Disk;
use metalcast_sys::block::SECTOR_BYTES;
use std::fs;
use std::path::Path;

/// Kernel names that are not disks: device mapper, MD, RAM disks, optical, floppy, network and
/// flash-translation devices.
const NOT_DISKS: [&str; 9] = ["dm-", "md", "ram", "zram", "sr", "fd", "nbd", "mtdblock", "drbd"];
/// Longest serial of SCSI page 80h that is believed.
const SERIAL_LIMIT: usize = 256;

/// All disks below a sysfs root, in the order of their names.
pub(super) fn read(sys: &Path) -> Vec<Disk> {
    let Ok(entries) = fs::read_dir(sys.join("block")) else { return Vec::new() };
    let mut disks: Vec<Disk> = entries
        .flatten()
        .filter_map(|entry| disk(&entry.path(), entry.file_name().into_string().ok()?))
        .collect();
    // sda ... sdz come before sdaa.
    disks.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    disks
}

fn disk(dir: &Path, name: String) -> Option<Disk> {
    let hidden = attribute(&dir.join("hidden")).is_some_and(|flag| flag == "1");
    if hidden || NOT_DISKS.iter().any(|prefix| is_numbered(&name, prefix)) {
        return None;
    }
    let bytes = number::<u64>(&dir.join("size"))?.checked_mul(SECTOR_BYTES)?;
    if bytes == 0 {
        return None;
    }
    let queue = |file: &str| number::<u32>(&dir.join("queue").join(file));
    Some(Disk {
        serial: serial(dir),
        wwn: wwn(dir),
        model: attribute(&dir.join("device/model")),
        bytes,
        logical_sector: queue("logical_block_size").unwrap_or(512),
        physical_sector: queue("physical_block_size").unwrap_or(512),
        rotational: queue("rotational") == Some(1),
        transport: transport(dir, &name),
        contents: Vec::new(),
        table: None,
        name,
    })
}

/// Whether a name is a prefix and a number: `md0`, `dm-3`, but not `mdx`.
fn is_numbered(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// virtio-blk has it at the disk, NVMe at the controller, SCSI and ATA in a page of their own; a loop
/// device is its file, wherever that is attached.
fn serial(dir: &Path) -> Option<String> {
    attribute(&dir.join("serial"))
        .or_else(|| attribute(&dir.join("device/serial")))
        .or_else(|| page_80(&fs::read(dir.join("device/vpd_pg80")).ok()?))
        .or_else(|| loop_file(dir))
}

/// The unit serial number page (SPC-4, 7.8.16): two bytes, a big-endian length, text.
fn page_80(page: &[u8]) -> Option<String> {
    let [_, 0x80, high, low, text @ ..] = page else { return None };
    let length = usize::from(u16::from_be_bytes([*high, *low])).min(SERIAL_LIMIT).min(text.len());
    let text = String::from_utf8_lossy(&text[..length]);
    let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn loop_file(dir: &Path) -> Option<String> {
    let file = attribute(&dir.join("loop/backing_file"))?;
    Some(Path::new(&file).file_name()?.to_string_lossy().into_owned())
}

/// A registered identifier only. The kernel makes others up from model and serial (`t10.`, `nvme.`),
/// which would name nothing that the serial does not.
fn wwn(dir: &Path) -> Option<String> {
    let registered =
        |id: &String| ["naa.", "eui.", "uuid."].iter().any(|kind| id.starts_with(kind));
    attribute(&dir.join("wwid"))
        .filter(registered)
        .or_else(|| attribute(&dir.join("device/wwid")).filter(registered))
}

/// How it is attached, by the way from the root of the devices to it.
fn transport(dir: &Path, name: &str) -> Option<String> {
    let path = fs::canonicalize(dir).ok()?;
    let parts: Vec<String> =
        path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    let has = |prefix: &str| parts.iter().any(|part| is_numbered(part, prefix));
    let kind = if name.starts_with("loop") {
        "loop"
    } else if name.starts_with("nvme") {
        "nvme"
    } else if name.starts_with("mmcblk") {
        "mmc"
    } else if has("usb") {
        "usb"
    } else if has("session") {
        "iscsi"
    } else if has("ata") {
        "sata"
    } else if parts.iter().any(|part| part.starts_with("end_device-")) {
        "sas"
    } else if has("host") {
        "scsi"
    } else if has("virtio") {
        "virtio"
    } else if has("vbd-") {
        "xen"
    } else {
        return None;
    };
    Some(kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A sysfs with one block device per call of `add`.
    struct Sys(tempfile::TempDir);

    impl Sys {
        fn add(&self, device: &str, name: &str, files: &[(&str, &[u8])]) {
            let device = format!("devices/{device}");
            let dir = self.0.path().join(&device).join("block").join(name);
            fs::create_dir_all(dir.join("queue")).unwrap();
            symlink("../..", dir.join("device")).unwrap();
            for (file, contents) in files {
                let file = dir.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, contents).unwrap();
            }
            let block = self.0.path().join("block");
            fs::create_dir_all(&block).unwrap();
            symlink(format!("../{device}/block/{name}"), block.join(name)).unwrap();
        }
    }

    #[test]
    fn serials_are_where_each_driver_puts_them() {
        let sys = Sys(tempfile::tempdir().unwrap());
        sys.add(
            "pci0000:00/0000:00:04.0/virtio1",
            "vda",
            &[
                ("size", b"8388608\n"),
                ("serial", b"MC-VDA"),
                ("queue/logical_block_size", b"512\n"),
                ("queue/physical_block_size", b"4096\n"),
                ("queue/rotational", b"1\n"),
            ],
        );
        sys.add(
            "pci0000:00/0000:00:05.0/nvme/nvme0",
            "nvme0n1",
            &[
                ("size", b"2048\n"),
                ("device/serial", b"MC-NVME             \n"),
                ("device/model", b"QEMU NVMe Ctrl                          \n"),
                ("wwid", b"nvme.1b36-4d432d4e564d45-51454d55-00000001\n"),
            ],
        );
        sys.add(
            "pci0000:00/0000:00:06.0/virtio2/host2/target2:0:0/2:0:0:0",
            "sda",
            &[
                ("size", b"2048\n"),
                ("device/vpd_pg80", b"\0\x80\0\x06 MC-S \0\0"),
                ("device/wwid", b"naa.5000c500a1b2c3d4\n"),
            ],
        );
        sys.add(
            "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0",
            "sdb",
            &[("size", b"2048\n"), ("device/wwid", b"t10.ATA     QEMU HARDDISK\n")],
        );
        for (name, files) in [
            ("sr0", &[("size", &b"2048"[..])][..]),
            ("dm-0", &[("size", b"2048")]),
            ("loop0", &[("size", b"0")]),
            ("loop1", &[("size", b"2048"), ("loop/backing_file", b"/var/lib/DISK 1\n")]),
            ("nvme0c0n1", &[("size", b"2048"), ("hidden", b"1")]),
            ("broken", &[("size", b"no number")]),
        ] {
            sys.add(&format!("virtual/{name}"), name, files);
        }
        let disks = read(sys.0.path());
        let seen: Vec<_> = disks
            .iter()
            .map(|disk| {
                let text = |field: &Option<String>| field.clone().unwrap_or_default();
                (disk.name.as_str(), text(&disk.serial), text(&disk.wwn), text(&disk.transport))
            })
            .collect();
        let row = |name, serial: &str, wwn: &str, transport: &str| {
            (name, serial.to_owned(), wwn.to_owned(), transport.to_owned())
        };
        assert_eq!(
            seen,
            [
                row("sda", "MC-S", "naa.5000c500a1b2c3d4", "scsi"),
                row("sdb", "", "", "sata"),
                row("vda", "MC-VDA", "", "virtio"),
                row("loop1", "DISK 1", "", "loop"),
                row("nvme0n1", "MC-NVME", "", "nvme"),
            ]
        );
        let vda = &disks[2];
        assert_eq!((vda.bytes, vda.logical_sector, vda.physical_sector), (4 << 30, 512, 4096));
        assert!(vda.rotational && !disks[4].rotational);
        assert_eq!(disks[4].model.as_deref(), Some("QEMU NVMe Ctrl"));
    }

    #[test]
    fn damaged_serial_pages_are_no_serials() {
        for page in [&b""[..], b"\0\x80", b"\0\x83\0\x02AB", b"\0\x80\0\0", b"\0\x80\0\x02  "] {
            assert_eq!(page_80(page), None, "{page:?}");
        }
        assert_eq!(page_80(b"\0\x80\xff\xffAB").as_deref(), Some("AB"), "length beyond the page");
    }
}
