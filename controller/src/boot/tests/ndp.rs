//! A machine's real router solicitation over a packet socket, and what comes back to it.

use super::*;
use crate::config::{Dhcp, RouterSolicitations};
use metalcast_netboot::ndp::link_local;
use nix::{ifaddrs::getifaddrs, sys::socket::bind};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::Read,
    net::Ipv6Addr,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

/// The machine that the captured solicitation is of.
const IPXE: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 5]);
/// The user class (option 77) `iPXE`, by which the server knows one.
const AS_IPXE: [&str; 2] = ["-x", "0x4d:69505845"];
/// What a busy machine may need; good answers come within a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to listen for answers that must not come.
const SILENCE: Duration = Duration::from_millis(400);
/// Ethernet and IPv6 header.
const ICMP_AT: usize = 54;
const ROUTER_ADVERTISEMENT: u8 = 134;

fn frame(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// As QEMU's iPXE sends it.
fn solicitation() -> Vec<u8> {
    frame(include_str!(
        "../../../../shared/netboot/tests/fixtures/ipxe-rom-virtio-solicitation-frame.hex"
    ))
}

/// The same of another machine.
fn solicitation_of_stranger() -> Vec<u8> {
    frame(include_str!("../../../../shared/netboot/tests/fixtures/linux-solicitation-frame.hex"))
}

/// The client's end of the wire, below its kernel's IPv6 and above.
struct Wire {
    frames: Socket,
    icmp: Socket,
}

impl Wire {
    fn open(lab: &Lab) -> Self {
        // The kernel does not solicit by itself and need not ask who else has its address.
        for setting in ["router_solicitations=0", "accept_dad=0"] {
            let setting = format!("net.ipv6.conf.cli0.{setting}");
            assert!(lab.client(&["sysctl", "-qw", &setting]).status.success(), "apt has procps");
        }
        lab.as_client(|| {
            let ipv6 = Protocol::from(i32::from(0x86dd_u16.to_be()));
            let frames = Socket::new(Domain::PACKET, Type::RAW, Some(ipv6)).unwrap();
            let mut links = getifaddrs().unwrap().filter(|link| link.interface_name == "cli0");
            let link = links.find_map(|link| link.address?.as_link_addr().copied()).unwrap();
            bind(frames.as_raw_fd(), &link).unwrap();
            let icmp = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
            icmp.bind_device(Some(b"cli0")).unwrap();
            Self { frames, icmp }
        })
    }

    fn send(&self, frame: &[u8]) {
        // The interface was down for its new address, of which the next call would tell.
        self.frames.take_error().unwrap();
        assert_eq!(self.frames.send(frame).unwrap(), frame.len());
    }

    /// The next advertisement's frame.
    fn advertisement(&self, wait: Duration) -> Option<Vec<u8>> {
        next(&self.frames, ICMP_AT, wait)
    }

    /// The next advertisement that the kernel let through: addressed to us, its sum right.
    fn advertisement_taken_by_the_kernel(&self) -> Vec<u8> {
        next(&self.icmp, 0, PATIENCE).expect("the kernel takes the advertisement")
    }
}

/// The next packet of the socket with an advertisement's type at this place.
fn next(mut socket: &Socket, type_at: usize, wait: Duration) -> Option<Vec<u8>> {
    let deadline = Instant::now() + wait;
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|it| !it.is_zero())?;
        socket.set_read_timeout(Some(left)).unwrap();
        match socket.read(&mut buffer) {
            Ok(bytes) if buffer[..bytes].get(type_at) == Some(&ROUTER_ADVERTISEMENT) => {
                return Some(buffer[..bytes].to_vec());
            }
            // Others' packets; time is up; the interface went down for a new address.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Until the client's kernel takes packets for its address: even without duplicate address detection
/// it is tentative for up to a second.
fn wait_for_link_local(lab: &Lab, address: Ipv6Addr) {
    let deadline = Instant::now() + PATIENCE;
    let has_it = || {
        let show = ["ip", "-6", "address", "show", "dev", "cli0", "-tentative"];
        let shown = String::from_utf8(lab.client(&show).stdout).unwrap();
        shown.contains(&format!("{address}/"))
    };
    while !has_it() {
        assert!(Instant::now() < deadline, "cli0 has no {address}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn server_mac(lab: &Lab) -> Mac {
    let output = lab.server(&["ip", "-brief", "link", "show", "dev", "srv0"]).stdout;
    // `srv0@if2  UP  1a:4c:bd:1e:d6:c3 <BROADCAST,...>`
    String::from_utf8(output).unwrap().split_ascii_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn only_a_machine_with_a_boot_script_is_told_that_there_is_no_router() {
    let lab = Lab::new();
    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    let wire = Wire::open(&lab);
    lab.udhcpc(IPXE, &[]).expect("a lease");
    wire.send(&solicitation());
    assert_eq!(wire.advertisement(SILENCE), None, "a lease alone is no boot");

    // iPXE solicits while its DHCP goes on; what was heard is answered with the ACK.
    lab.udhcpc(IPXE, &AS_IPXE).expect("a lease");
    let got = wire.advertisement(PATIENCE).expect("an advertisement");
    let (router, machine) = (server_mac(&lab), link_local(IPXE));
    assert_eq!(got[..6], IPXE.0);
    assert_eq!(got[6..12], router.0);
    assert_eq!(got[22..38], link_local(router).octets());
    assert_eq!(got[38..54], machine.octets());
    assert_eq!((got[21], got.len()), (255, ICMP_AT + 16));
    assert_eq!(got[ICMP_AT + 4..], [0; 12], "no router, no flags, no times");
    assert_eq!(wire.advertisement(SILENCE), None, "it is told once");

    wait_for_link_local(&lab, machine);
    let mut damaged = solicitation();
    damaged[ICMP_AT + 6] ^= 1;
    let mut forged = solicitation();
    forged[6..12].copy_from_slice(&OTHER.0);
    for unanswered in [solicitation_of_stranger(), damaged, forged] {
        wire.send(&unanswered);
    }
    wire.send(&solicitation());
    let got = wire.advertisement(PATIENCE).expect("an advertisement");
    assert_eq!(got[..6], IPXE.0);
    assert_eq!(wire.advertisement(SILENCE), None, "the others hear nothing");
    assert_eq!(wire.advertisement_taken_by_the_kernel(), got[ICMP_AT..]);
    server.stop().unwrap();
}

#[test]
fn the_switch_keeps_it_silent() {
    let lab = Lab::new();
    let mut settings = config(lab.dir());
    let Dhcp::Server(subnet) = &mut settings.dhcp else { panic!() };
    subnet.router_solicitations = RouterSolicitations::Ignored;
    let server = Server::start(&lab, settings, FakeNodes::new());
    let wire = Wire::open(&lab);
    lab.udhcpc(IPXE, &AS_IPXE).expect("a lease");
    wire.send(&solicitation());
    assert_eq!(wire.advertisement(SILENCE), None);
    server.stop().unwrap();
}

#[test]
fn a_host_whose_ipv6_is_switched_off_answers_all_the_same() {
    let lab = Lab::new();
    let off = lab.server(&["sysctl", "-qw", "net.ipv6.conf.srv0.disable_ipv6=1"]);
    assert!(off.status.success(), "apt has procps");
    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    let wire = Wire::open(&lab);
    lab.udhcpc(IPXE, &AS_IPXE).expect("a lease");
    wire.send(&solicitation());
    let got = wire.advertisement(PATIENCE).expect("an advertisement");
    assert_eq!(got[22..38], link_local(server_mac(&lab)).octets());
    let groups = lab.server(&["ip", "maddress", "show", "dev", "srv0"]).stdout;
    let groups = String::from_utf8(groups).unwrap();
    assert!(groups.contains("33:33:00:00:00:02"), "the card is to pass solicitations on: {groups}");
    server.stop().unwrap();
}

#[test]
fn an_interface_without_ethernet_costs_the_answers_only() {
    let lab = Lab::new();
    assert!(lab.server(&["ip", "link", "set", "lo", "up"]).status.success());
    let text = "[network]\ninterface = 'lo'\naddress = '127.0.0.1'\n\
                [dhcp]\nrange_start = '127.0.0.100'\nrange_end = '127.0.0.200'\n";
    let mut settings = Config::parse(Path::new("test.toml"), text).unwrap();
    settings.state_dir = lab.dir().to_owned();
    let server = Server::start(&lab, settings, FakeNodes::new());
    let health = lab.server(&["curl", "-sSf", "http://127.0.0.1/healthz"]);
    assert_eq!(health.stdout, b"ok\n");
    server.stop().unwrap();
}
