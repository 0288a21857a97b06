//! The driver against a real DHCP server (dnsmasq) on a veth pair in namespaces of its own.

use super::*;
use crate::init::link::CARRIER_LIMIT;
use metalcast_sys::child::{self, Limits};
use metalcast_sys::netns;
use std::process::{Child, Command, Stdio};

fn ip(args: &str) -> String {
    let mut command = Command::new("ip");
    command.args(args.split(' '));
    let limits = Limits { time: Duration::from_secs(10), output_bytes: 4096 };
    child::run(command, b"", limits).unwrap().text()
}

/// The server, killed at the end of its test.
struct Dnsmasq(Child);

impl Dnsmasq {
    fn start(interface: &str) -> Self {
        let child = Command::new("dnsmasq")
            .args(["--conf-file=/dev/null", "--keep-in-foreground", "--port=0", "--user=root"])
            .args(["--dhcp-range=10.44.0.50,10.44.0.60,255.255.255.0,2m", "--pid-file="])
            .args([
                "--dhcp-option=3,10.44.0.254",
                "--no-ping",
                "--leasefile-ro",
                "--bind-interfaces",
            ])
            .arg(format!("--interface={interface}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq (Debian package dnsmasq-base) is needed for this test");
        Self(child)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_address_is_got_from_dnsmasq_and_put_on_the_interface() {
    // The namespace ends with its last thread, which is the driver's: both are in this process only.
    std::thread::spawn(|| {
        netns::enter_new().unwrap();
        ip("link add client type veth peer name server");
        ip("addr add 10.44.0.1/24 dev server");
        ip("link set server up");
        ip("link set client up");
        let server = Dnsmasq::start("server");
        let text = ip("-o link show client");
        let mac = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
        let lease = start("client", mac.parse().unwrap(), 7).unwrap();
        assert_eq!(lease.server, Ipv4Addr::new(10, 44, 0, 1));
        assert_eq!((lease.prefix_len, lease.router), (24, Some(Ipv4Addr::new(10, 44, 0, 254))));
        let address = format!("{}/24", lease.address);
        assert!(ip("-4 addr show client").contains(&address));
        assert!(ip("route show default").starts_with("default via 10.44.0.254 dev client"));
        drop(server);
    })
    .join()
    .unwrap();
}

/// Spanning tree of IEEE 802.1D keeps a port 15 s listening and 15 s learning, after up to 20 s in which
/// it may be blocked; some switches take longer. The card has a link all the while.
#[test]
fn a_switch_that_forwards_after_90_s_costs_no_boot() {
    const FORWARDS_AFTER: Duration = Duration::from_secs(90);
    let started = Instant::now();
    let config = Config { mac: Mac([2, 0, 0, 0, 0, 1]), seed: 7, hostname: None };
    let mut client = Client::new(config, started);
    let mut now = started;
    let (mut lost, mut asked) = (0, false);
    while !asked {
        while client.poll_transmit().is_some() {
            asked = now - started >= FORWARDS_AFTER;
            lost += 1;
        }
        (now, _) = client.poll_timeout().expect("a client without a lease asks again");
        client.handle_timeout(now);
    }
    assert!(lost > 5, "it asked {lost} times only");
    // Room for an offer, a lost answer and the server's own time.
    assert!(now - started < FORWARDS_AFTER + Duration::from_secs(40), "{:?}", now - started);
    assert!(now - started + Duration::from_secs(30) < FIRST_LEASE_LIMIT);
    assert!(FORWARDS_AFTER < CARRIER_LIMIT);
}

/// A real spanning tree with short times, between the client and dnsmasq.
#[test]
fn an_address_comes_through_a_bridge_port_that_forwards_late() {
    std::thread::spawn(|| {
        netns::enter_new().unwrap();
        ip("link add client type veth peer name port");
        // Twice 3 s, in hundredths.
        ip("link add server type bridge stp_state 1 forward_delay 300");
        ip("addr add 10.44.0.1/24 dev server");
        ip("link set server up");
        let server = Dnsmasq::start("server");
        let begun = Instant::now();
        ip("link set port master server");
        ip("link set port up");
        ip("link set client up");
        let text = ip("-o link show client");
        let mac = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
        let lease = start("client", mac.parse().unwrap(), 7).unwrap();
        assert_eq!(lease.server, Ipv4Addr::new(10, 44, 0, 1));
        assert!(
            begun.elapsed() > Duration::from_secs(5),
            "{:?}: no spanning tree",
            begun.elapsed()
        );
        drop(server);
    })
    .join()
    .unwrap();
}
