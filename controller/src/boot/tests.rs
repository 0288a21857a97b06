//! Real clients (udhcpc, curl, tftp) against the boot services, in network namespaces.

use super::*;
use crate::{
    config::{self, DhcpServer},
    service::{BootEventKind, ScriptAnswer},
};
use lab::{Lab, Server};
use metalcast_netboot::table::{BootAnswer, BootEntry};
use metalcast_shared::{
    boot::{BootConfig, EnrolmentToken},
    id::{JobId, Mac, NodeId, TaskId},
};
use std::{fs, net::Ipv4Addr, path::Path, sync::Mutex, time::Duration};
use uuid::Uuid;

mod lab;
mod ndp;
mod proxy;
mod relay;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x10]);
const OTHER: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x11]);
const ON_DISK: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x20]);

/// Answers by a fixed table and notes what it is told.
#[derive(Clone)]
pub struct FakeNodes(Arc<FakeState>);

struct FakeState {
    table: watch::Sender<Arc<BootTable>>,
    events: Mutex<Vec<BootEvent>>,
    reports: Mutex<Vec<(ReportToken, SystemReport, IpAddr)>>,
}

impl FakeNodes {
    fn new() -> Self {
        let entry = |answer| BootEntry { node: "node1".into(), answer };
        let known = [(ON_DISK, entry(BootAnswer::LocalDisk))];
        let table = BootTable::new(known, BootAnswer::RamImage);
        Self(Arc::new(FakeState {
            table: watch::Sender::new(Arc::new(table)),
            events: Mutex::default(),
            reports: Mutex::default(),
        }))
    }

    fn kinds(&self, mac: Mac) -> Vec<BootEventKind> {
        let events = self.0.events.lock().unwrap();
        events.iter().filter(|event| event.mac == mac).map(|event| event.kind.clone()).collect()
    }

    fn wait_for(&self, mac: Mac, kind: &BootEventKind) {
        for _ in 0..300 {
            if self.kinds(mac).contains(kind) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no {kind:?} of {mac}: {:?}", self.kinds(mac));
    }
}

impl Nodes for FakeNodes {
    fn boot_table(&self) -> watch::Receiver<Arc<BootTable>> {
        self.0.table.subscribe()
    }

    async fn boot_event(&self, event: BootEvent) {
        self.0.events.lock().unwrap().push(event);
    }

    async fn system_report(
        &self,
        token: ReportToken,
        report: SystemReport,
        from: IpAddr,
    ) -> Result<(), ReportRefusal> {
        let mut reports = self.0.reports.lock().unwrap();
        if reports.iter().any(|(other, ..)| *other == token) {
            return Err(ReportRefusal::Used);
        }
        reports.push((token, report, from));
        Ok(())
    }
}

fn config(dir: &Path) -> Config {
    let text = "[network]\ninterface = 'srv0'\naddress = '10.77.0.1'\n\
                [dhcp]\nrange_start = '10.77.0.100'\nrange_end = '10.77.0.200'\n";
    let mut config = Config::parse(Path::new("test.toml"), text).unwrap();
    config.state_dir = dir.to_owned();
    config.boot.ram_image = dir.join("ram-image");
    config
}

/// Bytes without a pattern that a wrong offset could hide in.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn with_ram_image(dir: &Path) -> Vec<u8> {
    let initramfs = noise(3_000_001);
    fs::create_dir(dir.join("ram-image")).unwrap();
    fs::write(dir.join("ram-image/vmlinuz"), b"kernel").unwrap();
    fs::write(dir.join("ram-image/initramfs"), &initramfs).unwrap();
    initramfs
}

#[test]
fn a_lease_is_the_same_after_a_restart() {
    let lab = Lab::new();
    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    let first = lab.udhcpc(CLIENT, &[]).expect("a lease");
    let ip: Ipv4Addr = first["ip"].parse().unwrap();
    assert!((100..=200).contains(&ip.octets()[3]), "{ip}");
    assert_eq!((first["serverid"].as_str(), first["mask"].as_str()), ("10.77.0.1", "24"));
    server.nodes.wait_for(CLIENT, &BootEventKind::DhcpAck { ip });
    let kinds = server.nodes.kinds(CLIENT);
    assert_eq!(kinds, [BootEventKind::DhcpOffer, BootEventKind::DhcpAck { ip }]);
    let journal = fs::read_to_string(lab.dir().join("leases.journal")).unwrap();
    assert!(journal.contains(&format!("{ip} {CLIENT}")), "{journal}");
    server.stop().unwrap();

    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    let other = lab.udhcpc(OTHER, &["-r", &first["ip"]]).expect("a lease");
    assert_ne!(other["ip"], first["ip"], "an address in use was given away");
    let again = lab.udhcpc(CLIENT, &[]).expect("a lease");
    assert_eq!(again["ip"], first["ip"]);
    server.stop().unwrap();
}

#[test]
fn firmware_is_told_its_boot_file() {
    let lab = Lab::new();
    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    for (class, file) in [
        ("PXEClient:Arch:00000:UNDI:002001", "undionly.kpxe"),
        ("PXEClient:Arch:00007:UNDI:003016", "ipxe.efi"),
        ("HTTPClient:Arch:00016:UNDI:003001", "http://10.77.0.1/boot/ipxe.efi"),
    ] {
        let lease = lab.udhcpc(CLIENT, &["-V", class, "-O", "bootfile"]).expect("a lease");
        let told = lease.get("boot_file").or_else(|| lease.get("bootfile"));
        assert_eq!(told.map(String::as_str), Some(file), "{class}: {lease:?}");
    }
    server.stop().unwrap();
}

#[test]
fn without_room_for_the_journal_there_is_no_ack() {
    let lab = Lab::new();
    let server = Server::start_on_full_disk(&lab, config(lab.dir()), FakeNodes::new());
    assert_eq!(lab.udhcpc(CLIENT, &[]), None);
    let kinds = server.nodes.kinds(CLIENT);
    let (offer, held) = (BootEventKind::DhcpOffer, BootEventKind::DhcpAckHeld);
    assert!(kinds.contains(&offer) && kinds.contains(&held), "{kinds:?}");
    assert!(kinds.iter().all(|kind| *kind == offer || *kind == held), "{kinds:?}");
    server.stop().unwrap();
}

#[test]
fn boot_files_come_over_tftp_and_http() {
    let lab = Lab::new();
    lab.client_address();
    let config = config(lab.dir());
    let expected = fs::read(config.boot.ipxe_dir.join("undionly.kpxe")).expect("apt has ipxe");
    let server = Server::start(&lab, config, FakeNodes::new());
    let url = "tftp://10.77.0.1/undionly.kpxe";
    for options in [&[][..], &["--tftp-no-options"], &["--tftp-blksize", "1468"]] {
        let got = lab.client(&[&["curl", "-sS", "--max-time", "20", url], options].concat());
        assert!(got.stdout == expected, "{options:?}: {} bytes", got.stdout.len());
    }
    let target = lab.dir().join("fetched");
    let path = target.to_str().unwrap();
    let remote = ["busybox", "tftp", "-g", "-r", "/undionly.kpxe", "-l", path, "10.77.0.1"];
    assert!(lab.client(&remote).status.success());
    assert!(fs::read(&target).unwrap() == expected);
    server.nodes.wait_for(CLIENT, &BootEventKind::BootFile { name: "undionly.kpxe".into() });
    for missing in ["etc/passwd", "../../etc/passwd", "ipxe.iso"] {
        let url = format!("tftp://10.77.0.1/{missing}");
        let refused = lab.client(&["curl", "-sS", "--path-as-is", "--max-time", "20", &url]);
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{missing} was sent");
    }
    let http = lab.client(&["curl", "-sS", "http://10.77.0.1/boot/undionly.kpxe"]);
    assert!(http.stdout == expected);
    assert_eq!(lab.http_status(&["http://10.77.0.1/ipxe/ipxe.iso"]), "404");
    server.stop().unwrap();
}

#[test]
fn scripts_follow_the_boot_table() {
    let lab = Lab::new();
    lab.client_address();
    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    let script = |mac: Mac| {
        let url = format!("http://10.77.0.1/boot/{}.ipxe", mac.dashed());
        String::from_utf8(lab.client(&["curl", "-sSf", &url]).stdout).unwrap()
    };
    let ram = script(CLIENT);
    assert!(ram.starts_with("#!ipxe\n"), "{ram}");
    for part in [
        "kernel http://10.77.0.1/ram/vmlinuz?mac=52-54-00-00-00-10 ",
        " BOOTIF=01-52-54-00-00-00-10 ",
        "initrd http://10.77.0.1/ram/initramfs?mac=52-54-00-00-00-10 ",
    ] {
        assert!(ram.contains(part), "{part} is not in {ram}");
    }
    assert!(script(ON_DISK).contains("sanboot"));
    let on_disk = BootEventKind::Script { answer: ScriptAnswer::LocalDisk, boot: None };
    server.nodes.wait_for(ON_DISK, &on_disk);
    assert!(matches!(
        server.nodes.kinds(CLIENT)[..],
        [BootEventKind::Script { answer: ScriptAnswer::RamImage, boot: Some(_) }]
    ));
    let table = BootTable::new([], BootAnswer::RamImage);
    server.nodes.0.table.send_replace(Arc::new(table));
    assert!(script(ON_DISK).contains("kernel "), "the table is read anew for each boot");
    assert_eq!(lab.http_status(&["http://10.77.0.1/boot/nonsense.ipxe"]), "404");
    let health = lab.client(&["curl", "-sSf", "http://10.77.0.1/healthz"]);
    assert_eq!(health.stdout, b"ok\n");
    server.stop().unwrap();
}

#[test]
fn a_boot_gets_its_segment_even_from_a_restarted_controller() {
    let lab = Lab::new();
    lab.client_address();
    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    let script = lab.client(&["curl", "-sSf", "http://10.77.0.1/boot/52-54-00-00-00-10.ipxe"]);
    let script = String::from_utf8(script.stdout).unwrap();
    let link = script
        .lines()
        .find_map(|line| line.strip_prefix("initrd ")?.split(' ').next())
        .filter(|url| url.ends_with("/segment.cpio"))
        .expect("the segment is the first initrd")
        .to_owned();
    server.stop().unwrap();

    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    let archive = lab.dir().join("segment.cpio");
    let (path, dir) = (archive.to_str().unwrap(), lab.dir().join("out"));
    assert!(lab.client(&["curl", "-sSf", "-o", path, &link]).status.success());
    fs::create_dir(&dir).unwrap();
    let unpack = format!("cd {} && busybox cpio -idm < {path}", dir.display());
    assert!(lab.client(&["sh", "-c", &unpack]).status.success());
    let boot: BootConfig =
        serde_json::from_slice(&fs::read(dir.join("metalcast/boot.json")).unwrap()).unwrap();
    assert_eq!((boot.mac, boot.controllers), (CLIENT, vec![(SERVER, 7777).into()]));
    assert_eq!(boot.ca_pem, server.pki.ca_pem());
    let token: EnrolmentToken = server.pki.unseal(&boot.token).unwrap();
    assert_eq!((token.boot, token.mac), (boot.boot, CLIENT));
    assert!((600..=900).contains(&(token.expires_unix - now_unix())));
    server.nodes.wait_for(CLIENT, &BootEventKind::Segment);

    let stale = BootLink { boot: boot.boot, mac: CLIENT, issued_unix: now_unix() - 1000 };
    let stale = format!("http://10.77.0.1/boot/{}/segment.cpio", server.pki.seal(&stale));
    assert_eq!(lab.http_status(&[&stale]), "410");
    let forged = format!("http://10.77.0.1/boot/{}/segment.cpio", boot.token);
    assert_eq!(lab.http_status(&[&forged]), "404");
    server.stop().unwrap();
}

#[test]
fn the_ram_image_comes_whole_and_in_parts() {
    let lab = Lab::new();
    lab.client_address();
    let initramfs = with_ram_image(lab.dir());
    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    let url = "http://10.77.0.1/ram/initramfs?mac=52-54-00-00-00-10";
    let whole = lab.client(&["curl", "-sSf", url]);
    assert!(whole.stdout == initramfs, "{} bytes", whole.stdout.len());
    server.nodes.wait_for(CLIENT, &BootEventKind::Initramfs);
    let part = lab.client(&["curl", "-sSf", "--range", "1000000-1999999", url]);
    assert!(part.stdout == initramfs[1_000_000..2_000_000]);
    let tail = lab.client(&["curl", "-sSf", "--range", "-5", url]);
    assert!(tail.stdout == initramfs[initramfs.len() - 5..]);
    assert_eq!(lab.http_status(&["--range", "3000001-", url]), "416");
    let head = lab.client(&["curl", "-sSfI", url]);
    let head = String::from_utf8(head.stdout).unwrap().to_lowercase();
    assert!(head.contains("content-length: 3000001"), "{head}");
    assert_eq!(
        server.nodes.kinds(CLIENT).iter().filter(|k| **k == BootEventKind::Initramfs).count(),
        2,
        "a part in the middle is no new boot"
    );
    fs::remove_file(lab.dir().join("ram-image/vmlinuz")).unwrap();
    assert_eq!(lab.http_status(&["http://10.77.0.1/ram/vmlinuz"]), "404");
    server.stop().unwrap();
}

#[test]
fn a_report_is_taken_once_and_with_its_token_only() {
    let lab = Lab::new();
    lab.client_address();
    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    let task = TaskId { job: JobId(3), node: NodeId(Uuid::from_u128(5)), generation: 1 };
    let post = |body: &str| {
        lab.http_status(&["--max-time", "20", "--data-binary", body, "http://10.77.0.1/report"])
    };
    let report = |token: String| {
        let report = SystemReport {
            token,
            hostname: "node1".into(),
            machine_id: "0".repeat(32),
            kernel: "6.1".into(),
            root: "/dev/vda5".into(),
            uptime_seconds: 12,
        };
        serde_json::to_string(&report).unwrap()
    };
    let good = report(server.pki.seal(&ReportToken { task }));
    assert_eq!(post("{}"), "400");
    assert_eq!(post(&report("00".into())), "403");
    assert_eq!(post(&"x".repeat(5000)), "413");
    assert_eq!(post(&good), "204");
    assert_eq!(post(&good), "409");
    let reports = server.nodes.0.reports.lock().unwrap();
    let [(token, taken, from)] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((token.task, taken.hostname.as_str()), (task, "node1"));
    assert_eq!(*from, IpAddr::V4(Ipv4Addr::new(10, 77, 0, 10)));
    drop(reports);
    server.stop().unwrap();
}

#[test]
fn a_taken_port_and_a_missing_interface_are_explained() {
    let lab = Lab::new();
    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    let mut settings = config(lab.dir());
    let error = Server::try_start(&lab, settings.clone(), FakeNodes::new()).err().unwrap();
    assert!(error.contains("port 67") && error.contains("ss -ulpn sport = :67"), "{error}");
    settings.dhcp = config::Dhcp::Off;
    let error = Server::try_start(&lab, settings.clone(), FakeNodes::new()).err().unwrap();
    assert!(error.contains("10.77.0.1:69 for TFTP"), "{error}");
    settings.network.tftp_port = 6969;
    let error = Server::try_start(&lab, settings.clone(), FakeNodes::new()).err().unwrap();
    assert!(error.contains("ss -tlpn sport = :80"), "{error}");
    server.stop().unwrap();

    let mut settings = config(lab.dir());
    settings.network.interface = "absent0".into();
    let error = Server::try_start(&lab, settings, FakeNodes::new()).err().unwrap();
    assert!(error.contains("absent0") && error.contains("ip link"), "{error}");
    let mut settings = config(lab.dir());
    let config::Dhcp::Server(DhcpServer { local, .. }) = &mut settings.dhcp else { panic!() };
    local.range_end = Ipv4Addr::new(10, 99, 0, 1);
    let error = Server::try_start(&lab, settings, FakeNodes::new()).err().unwrap();
    assert!(error.contains("range end 10.99.0.1"), "{error}");
}
