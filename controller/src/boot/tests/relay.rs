//! A client in another subnet, behind a real relay (dnsmasq's).

use super::{
    lab::{Host, Program},
    proxy::{Client, PATIENCE},
    *,
};
use metalcast_netboot::dhcp::wire::{Header, Op, Writer, code};

/// Us, as udhcpc names a server.
const SERVER_ID: &str = "10.77.0.1";

fn relayed_config(dir: &Path) -> Config {
    let text = "[network]\ninterface = 'srv0'\naddress = '10.77.0.1'\n\
                [dhcp]\nrange_start = '10.77.0.100'\nrange_end = '10.77.0.200'\n\
                [[dhcp.relayed]]\nprefix_len = 24\nrouter = '10.78.0.1'\n\
                range_start = '10.78.0.100'\nrange_end = '10.78.0.101'\n";
    Config { state_dir: dir.to_owned(), ..Config::parse(Path::new("test.toml"), text).unwrap() }
}

fn relay(lab: &Lab) -> Program {
    lab.dnsmasq(Host::Other, &["--interface=rel0", "--dhcp-relay=10.78.0.1,10.77.0.1"])
}

#[test]
fn a_client_behind_a_relay_gets_an_address_of_its_subnet() {
    let lab = Lab::new();
    lab.move_behind_the_other_host();
    let _relay = relay(&lab);
    let server = Server::start(&lab, relayed_config(lab.dir()), FakeNodes::new());
    let class = ["-V", "PXEClient:Arch:00000:UNDI:002001", "-O", "bootfile"];
    let lease = lab.udhcpc(CLIENT, &class).expect("a lease");
    let ip: Ipv4Addr = lease["ip"].parse().unwrap();
    assert!(ip.to_string().starts_with("10.78.0.10"), "{ip}");
    let told = ["mask", "router", "serverid", "boot_file"].map(|name| lease[name].as_str());
    assert_eq!(told, ["24", "10.78.0.1", SERVER_ID, "undionly.kpxe"]);
    server.nodes.wait_for(CLIENT, &BootEventKind::DhcpAck { ip });
    let journal = fs::read_to_string(lab.dir().join("leases.journal")).unwrap();
    assert!(journal.contains(&format!("{ip} {CLIENT}")), "{journal}");

    // By its router it reaches us, and renews its lease without the relay.
    lab.take(&lease);
    let health = lab.client(&["curl", "-sSf", "--max-time", "20", "http://10.77.0.1/healthz"]);
    assert_eq!(health.stdout, b"ok\n");
    let client = Client::open(&lab);
    client.send(&renewal(CLIENT, ip), (SERVER, 67));
    let (_, header, options) = client.receive(PATIENCE).expect("an answer");
    assert_eq!(options.get(code::MESSAGE_TYPE), Some(&[5][..]));
    assert_eq!((header.yiaddr, options.address(code::ROUTER)), (ip, "10.78.0.1".parse().ok()));
    server.stop().unwrap();

    let server = Server::start(&lab, relayed_config(lab.dir()), FakeNodes::new());
    let other = lab.udhcpc(OTHER, &["-r", &lease["ip"]]).expect("a lease");
    assert_ne!(other["ip"], lease["ip"], "an address in use was given away");
    assert_eq!(lab.udhcpc(ON_DISK, &[]), None, "two addresses for three");
    let again = lab.udhcpc(CLIENT, &[]).expect("a lease");
    assert_eq!(again["ip"], lease["ip"]);
    server.stop().unwrap();
}

#[test]
fn a_relay_of_a_subnet_that_is_not_configured_gets_no_answer() {
    let lab = Lab::new();
    lab.move_behind_the_other_host();
    let _relay = relay(&lab);
    let server = Server::start(&lab, config(lab.dir()), FakeNodes::new());
    assert_eq!(lab.udhcpc(CLIENT, &[]), None);
    assert!(server.nodes.kinds(CLIENT).is_empty());
    server.stop().unwrap();
}

/// A DHCPREQUEST in the state RENEWING (RFC 2131 section 4.3.2).
fn renewal(mac: Mac, ciaddr: Ipv4Addr) -> Vec<u8> {
    let nobody = Ipv4Addr::UNSPECIFIED;
    let mut out = Writer::new(&Header {
        op: Op::Request,
        hops: 0,
        xid: 7,
        secs: 0,
        broadcast: false,
        ciaddr,
        yiaddr: nobody,
        siaddr: nobody,
        giaddr: nobody,
        chaddr: mac.0,
        sname: Vec::new(),
        file: Vec::new(),
    });
    out.put(code::MESSAGE_TYPE, &[3]);
    out.finish()
}
