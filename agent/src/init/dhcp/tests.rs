//! The driver against a real DHCP server (dnsmasq) on a veth pair in namespaces of its own.

use super::*;
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
