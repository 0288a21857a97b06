//! The controller beside a DHCP server that exists, a real dnsmasq: a machine with an iPXE boot ROM takes its address
//! there and what it boots here, at first with the two on hosts of their own, then on one.

use std::time::{Duration, Instant};

use metalcast_tests::dnsmasq::{Dnsmasq, wait_for_line};
use metalcast_tests::lab::Lab;
use metalcast_tests::qemu::{Disk, Machine, Spec};
use metalcast_tests::rig::{Artefacts, Dhcp, Rig, Setup};

/// Ten times what an idle machine needs.
const REGISTRATION: Duration = Duration::from_secs(300);
const FIRMWARE: Duration = Duration::from_secs(60);

/// As `docs/beside-your-dhcp.md` has it for a server on the controller's host.
const ON_OUR_HOST: [&str; 2] = [
    "--dhcp-vendorclass=set:pxe,PXEClient",
    "--dhcp-option-force=tag:pxe,option:vendor-class,PXEClient",
];

#[test]
fn a_machine_registers_with_an_address_of_another_server() {
    let proxy = Setup { dhcp: Dhcp::Proxy, ..Setup::default() };
    let artefacts = Artefacts::given_or_built().unwrap();
    let mut lab = Lab::new("proxy", 25).unwrap();
    let dnsmasq = Dnsmasq::on_another_host(&lab, &[]).unwrap();
    dnsmasq.wait_for(&["DHCP, IP range"], FIRMWARE).unwrap();
    let mut rig = Rig::start_with(&lab, &artefacts, &proxy).unwrap();
    let disk = Disk::blank(&lab.dir().join("node1.disk"), 1 << 30, "MCDISK1").unwrap();
    let spec = Spec::node(1).disk(disk);
    let mut machines = [Machine::start(&mut lab, &spec).unwrap()];
    rig.wait_for_nodes(&mut machines, 1, "new", REGISTRATION).unwrap();
    let [mut machine] = machines;
    eprintln!("{:6.1} s: registered", machine.started().elapsed().as_secs_f64());
    wait_for_line(rig.log_path(), &["DHCP proxy offer", &spec.mac, ".ipxe"], FIRMWARE).unwrap();
    // Once for the boot ROM and once for the agent, which is told nothing by us.
    dnsmasq.wait_for(&["DHCPACK", &spec.mac], FIRMWARE).unwrap();
    let answers = std::fs::read_to_string(rig.log_path()).unwrap();
    assert!(!answers.contains("DHCP proxy ACK"), "the offer was enough: {answers}");

    drop(dnsmasq);
    rig.stop();
    let dnsmasq = Dnsmasq::on_our_host(&lab, &ON_OUR_HOST).unwrap();
    dnsmasq.wait_for(&["DHCP, IP range"], FIRMWARE).unwrap();
    let rig = Rig::start_with(&lab, &artefacts, &proxy).unwrap();
    wait_for_line(rig.log_path(), &["port 67 is taken", "PXEClient"], FIRMWARE).unwrap();
    let pressed = Instant::now();
    machine.reset().unwrap();
    let loading = "Metalcast: loading the RAM image";
    machine.wait_for(loading, pressed, FIRMWARE, "the boot script").unwrap();
    wait_for_line(rig.log_path(), &["DHCP proxy ACK", &spec.mac, ".ipxe"], FIRMWARE).unwrap();
    dnsmasq.wait_for(&["DHCPACK", &spec.mac], FIRMWARE).unwrap();
}
