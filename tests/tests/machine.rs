//! The framework itself, on a real machine: the firmware boots from the network, the control socket works, and the Debian
//! image starts by itself and takes its address by DHCP.

use std::process::Command;
use std::time::{Duration, Instant};

use metalcast_tests::dnsmasq::Dnsmasq;
use metalcast_tests::image::{self, Debian};
use metalcast_tests::lab::Lab;
use metalcast_tests::process::run;
use metalcast_tests::qemu::{BootOrder, Disk, Machine, Spec};

/// Five to ten times what an idle machine needs, for busy ones.
const FIRMWARE: Duration = Duration::from_secs(60);
const SYSTEM: Duration = Duration::from_secs(240);

#[test]
fn a_blank_machine_asks_the_network_first() {
    let mut lab = Lab::new("pxe", 21).unwrap();
    let dnsmasq = Dnsmasq::on_our_host(&lab, &["--log-dhcp"]).unwrap();
    let disk = Disk::blank(&lab.dir().join("disk"), 1 << 30, "MCDISK1").unwrap();
    let spec = Spec::node(1).memory_mib(256).disk(disk);
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    machine.wait_for("iPXE", machine.started(), FIRMWARE, "the network card's boot ROM").unwrap();
    dnsmasq.wait_for(&["DHCPDISCOVER", &spec.mac], FIRMWARE).unwrap();
    dnsmasq.wait_for(&["vendor class", "PXEClient:Arch:00000"], FIRMWARE).unwrap();
    dnsmasq.wait_for(&["DHCPACK", &spec.mac], FIRMWARE).unwrap();
}

#[test]
fn the_control_socket_pauses_and_resets() {
    let mut lab = Lab::new("qmp", 22).unwrap();
    let mut machine = Machine::start(&mut lab, &Spec::node(1).memory_mib(256)).unwrap();
    machine.wait_for("SeaBIOS", machine.started(), FIRMWARE, "the firmware").unwrap();
    assert_eq!(machine.status().unwrap(), "running");
    machine.pause().unwrap();
    assert_eq!(machine.status().unwrap(), "paused");
    machine.resume().unwrap();
    assert_eq!(machine.status().unwrap(), "running");
    machine.wait_for("iPXE", machine.started(), FIRMWARE, "the boot ROM").unwrap();
    let pressed = Instant::now();
    machine.reset().unwrap();
    machine.wait_for("SeaBIOS", pressed, FIRMWARE, "the firmware once more").unwrap();
    let pid = machine.pid();
    machine.power_off().unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_missing_marker_is_an_error_that_shows_the_console() {
    let mut lab = Lab::new("late", 23).unwrap();
    let mut machine = Machine::start(&mut lab, &Spec::node(1).memory_mib(256)).unwrap();
    machine.wait_for("SeaBIOS", machine.started(), FIRMWARE, "the firmware").unwrap();
    let limit = Duration::from_millis(100);
    let error = machine.wait_for("no such line", machine.started(), limit, "a thing").unwrap_err();
    let message = error.to_string();
    assert!(message.contains("a thing") && message.contains("SeaBIOS"), "{message}");
}

#[test]
fn the_debian_image_starts_and_takes_an_address() {
    let debian = image::debian().unwrap();
    let mut lab = Lab::new("debian", 24).unwrap();
    let dnsmasq = Dnsmasq::on_our_host(&lab, &["--log-dhcp"]).unwrap();
    let file = lab.dir().join("disk");
    run(Command::new("cp").arg("--sparse=always").arg(&debian.disk).arg(&file)).unwrap();
    let disk = Disk { file, serial: "MCDISK1".to_owned() };
    let spec = Spec::node(1).disk(disk).boot(BootOrder::DiskFirst);
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    let start = machine.started();
    for (marker, meaning) in [
        ("Linux version", "its GRUB loaded the kernel"),
        ("Welcome to Debian", "systemd started"),
        (Debian::LOGIN, "the login prompt"),
    ] {
        let line = machine.wait_for(marker, start, SYSTEM, meaning).unwrap();
        eprintln!("{:6.1} s: {meaning}", line.at.duration_since(start).as_secs_f64());
    }
    dnsmasq.wait_for(&["DHCPACK", &spec.mac, "labhost"], SYSTEM).unwrap();
    eprintln!("{:6.1} s: its address was given", start.elapsed().as_secs_f64());
}
