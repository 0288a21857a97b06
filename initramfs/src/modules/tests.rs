use super::*;
use std::process::Command;

/// The smallest ELF object with a `.modinfo` section that both this crate and libkmod read.
pub(crate) fn module(info: &[&str]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.modinfo\0.shstrtab\0\0\0\0\0";
    let info: Vec<u8> = info.iter().flat_map(|pair| [pair.as_bytes(), b"\0"].concat()).collect();
    let (names_at, info_at) = (64, 64 + NAMES.len());
    let sections_at = (info_at + info.len()).next_multiple_of(8);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // Relocatable, x86-64, version 1; entry and program headers 0; section table; no flags.
    file.extend([1, 0, 62, 0, 1, 0, 0, 0]);
    file.extend([0; 16]);
    file.extend((sections_at as u64).to_le_bytes());
    file.extend([0; 4]);
    for half in [64_u16, 0, 0, 64, 3, 2] {
        file.extend(half.to_le_bytes());
    }
    file.extend(NAMES);
    file.extend(&info);
    file.resize(sections_at, 0);
    let mut section = |name: u32, kind: u32, offset: usize, size: usize| {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        for field in [0, 0, offset as u64, size as u64] {
            file.extend(u64::to_le_bytes(field));
        }
        file.extend([0; 8]);
        file.extend(1_u64.to_le_bytes());
        file.extend([0; 8]);
    };
    section(0, 0, 0, 0);
    section(1, 1, info_at, info.len());
    section(11, 3, names_at, NAMES.len());
    file
}

/// A kernel of seven modules and one built-in driver.
pub(crate) fn kernel(dir: &Path) {
    let put = |path: &str, info: &[&str]| {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, module(info)).unwrap();
    };
    put("kernel/virtio.ko", &["name=virtio", "depends="]);
    put("kernel/virtio_ring.ko", &["depends=virtio"]);
    put(
        "kernel/drivers/virtio-pci.ko",
        &["depends=virtio,virtio_ring", "alias=pci:v00001AF4d*sv*sd*bc*sc*i*"],
    );
    put(
        "kernel/drivers/virtio_net.ko",
        &["alias=virtio:d00000001v*", "depends=virtio_ring", "softdep=pre: failover post: tail"],
    );
    put("kernel/drivers/net_failover.ko", &["alias=failover", "depends="]);
    put("kernel/drivers/tail.ko", &["depends=", "softdep=pre: virtio_net gone"]);
    put("kernel/lonely.ko", &["depends=", "alias=pci:v00001AF4d00009999*"]);
    fs::write(dir.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
    fs::write(dir.join("modules.builtin.modinfo"), "ext4.license=GPL\0ext4.alias=fs-ext4\0")
        .unwrap();
    let order = "kernel/lonely.ko\nkernel/drivers/virtio-pci.ko\n";
    fs::write(dir.join("modules.order"), order).unwrap();
}

fn scanned() -> Index {
    let dir = tempfile::tempdir().unwrap();
    kernel(dir.path());
    Index::scan(dir.path()).unwrap()
}

#[test]
fn closures_come_in_loading_order_with_soft_dependencies() {
    let index = scanned();
    let check = |wanted: &[&str], expected: &[&str]| {
        assert_eq!(index.closure(wanted).unwrap(), expected, "{wanted:?}");
    };
    check(&["virtio-pci"], &["virtio", "virtio_ring", "virtio_pci"]);
    check(&["virtio_net"], &["net_failover", "virtio", "virtio_ring", "virtio_net", "tail"]);
    check(
        &["virtio:d00000001v00001AF4", "virtio"],
        &["net_failover", "virtio", "virtio_ring", "virtio_net", "tail"],
    );
    check(&["ext4", "fs-ext4"], &[]);
    // Both drivers of one device, in the order of modules.order.
    check(
        &["pci:v00001AF4d00009999sv0sd0bc1sc1i1"],
        &["lonely", "virtio", "virtio_ring", "virtio_pci"],
    );
}

#[test]
fn unknown_names_are_all_listed() {
    let error = scanned().closure(&["nosuch", "virtio", "usb:v1p2"]).unwrap_err();
    assert_eq!(error.to_string(), "the kernel has no such modules: nosuch, usb:v1p2");
}

#[test]
fn trimmed_tables_read_back_and_behave_alike() {
    let index = scanned();
    let names = index.closure(&["virtio_net", "virtio_pci"]).unwrap();
    let small = index.trimmed(&names, ".zst");
    let tables = small.tables();
    assert!(
        tables.dep.contains("virtio-pci.ko.zst: kernel/virtio_ring.ko.zst kernel/virtio.ko.zst\n")
    );
    assert!(!tables.alias.contains("lonely"));
    let back = Index::parse(&tables).unwrap();
    assert_eq!(back.tables(), tables);
    assert_eq!(back.closure(&["virtio_net"]).unwrap(), index.closure(&["virtio_net"]).unwrap());
    assert_eq!(back.path("virtio_pci"), Some("kernel/drivers/virtio-pci.ko.zst"));
    assert_eq!(
        index.below("kernel/drivers/"),
        ["net_failover", "tail", "virtio_net", "virtio_pci"]
    );
    assert!(index.below("kernel/driver").is_empty());
    assert_eq!(back.closure(&["ext4"]).unwrap(), Vec::<&str>::new());
}

/// What depmod makes of the same modules: aliases and soft dependencies must be equal. It finds
/// dependencies by symbols, which these modules have none of.
#[test]
fn aliases_and_softdeps_agree_with_depmod() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("lib/modules/6.1.0-test");
    kernel(&dir);
    let done = Command::new("depmod").arg("-b").arg(root.path()).arg("6.1.0-test").output();
    let done = done.expect("depmod (Debian package kmod) is needed for this test");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let theirs = Tables::read(&dir).unwrap();
    let ours = Index::scan(&dir).unwrap().tables();
    let sorted = |text: &str| {
        let mut lines: Vec<String> = lines(text).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert!(sorted(&theirs.alias).len() == 4);
    assert_eq!(sorted(&ours.alias), sorted(&theirs.alias));
    assert_eq!(sorted(&ours.softdep), sorted(&theirs.softdep));
}

#[test]
fn damaged_tables_are_refused_with_the_line() {
    let with = |dep: &str, alias: &str| {
        Index::parse(&Tables { dep: dep.into(), alias: alias.into(), ..Tables::default() })
    };
    assert!(with("# comment\n\na.ko:\n", "alias x a\n").is_ok());
    let error = with("a.ko", "").unwrap_err();
    assert_eq!(error.to_string(), "modules.dep: \"a.ko\" is not of its form");
    assert!(with("", "alias onlypattern").is_err());
}
