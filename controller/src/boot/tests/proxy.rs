//! The proxy beside a real dnsmasq that gives the addresses, on another host and on ours. The
//! machines are captured requests sent by real sockets; `tests/tests/beside_dhcp.rs` boots a real one.

use super::{
    lab::{Host, Program},
    *,
};
use metalcast_netboot::dhcp::wire::{self, Header, Options, code};
use socket2::{Domain, Socket, Type};
use std::{io, net::SocketAddrV4, net::UdpSocket, time::Instant};

/// Whose captured requests are sent.
const IPXE: Mac = Mac([0x52, 0x54, 0x00, 0x77, 0x00, 0x05]);
const SCRIPT: &[u8] = b"http://10.77.0.1/boot/52-54-00-77-00-05.ipxe";
/// dnsmasq on the other host.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const RANGE: &str = "--dhcp-range=10.77.0.100,10.77.0.199,1h";
/// Longer than both servers take.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// After the last expected answer, another one would have come by then.
const SILENCE: Duration = Duration::from_millis(500);

fn proxy_config(dir: &Path) -> Config {
    let text = "[network]\ninterface = 'srv0'\naddress = '10.77.0.1'\n[dhcp]\nmode = 'proxy'\n";
    Config { state_dir: dir.to_owned(), ..Config::parse(Path::new("test.toml"), text).unwrap() }
}

fn fixture(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/netboot/tests/fixtures");
    let text = fs::read_to_string(dir.join(format!("{name}.hex"))).unwrap();
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// A DHCP client's port.
pub struct Client(UdpSocket);

impl Client {
    pub fn open(lab: &Lab) -> Self {
        Self(lab.as_client(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.bind_device(Some(b"cli0")).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into()).unwrap();
            socket.into()
        }))
    }

    /// With the broadcast flag: dnsmasq would else send to an address that this host has not.
    pub fn send(&self, datagram: &[u8], to: (Ipv4Addr, u16)) {
        let mut datagram = datagram.to_vec();
        datagram[10] |= 0x80;
        self.0.send_to(&datagram, to).unwrap();
    }

    /// The next reply, with the port that it came from.
    pub fn receive(&self, patience: Duration) -> Option<(u16, Header, Options)> {
        let mut buffer = [0; 2048];
        self.0.set_read_timeout(Some(patience)).unwrap();
        let (bytes, from) = match self.0.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        };
        let (header, options) = wire::parse(&buffer[..bytes]).unwrap();
        Some((from.port(), header, options))
    }

    /// The replies of two servers to a broadcast, by server.
    fn ask_both(&self, name: &str) -> [(Header, Options); 2] {
        self.send(&fixture(name), (Ipv4Addr::BROADCAST, 67));
        let deadline = Instant::now() + PATIENCE;
        let mut of: [Option<(Header, Options)>; 2] = [None, None];
        while of.iter().any(Option::is_none) {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = left.max(Duration::from_millis(1));
            let Some((_, header, options)) = self.receive(left) else { panic!("{of:?}") };
            match options.address(code::SERVER_ID) {
                Some(FOREIGN) => of[0] = Some((header, options)),
                Some(SERVER) => of[1] = Some((header, options)),
                other => panic!("{other:?}"),
            }
        }
        of.map(Option::unwrap)
    }
}

/// Both offers arrive, each with its half; the machine's REQUEST is answered by the other alone.
#[test]
fn a_machine_gets_its_address_there_and_its_boot_file_here() {
    let lab = Lab::new();
    let _dnsmasq = lab.dnsmasq(Host::Other, &[RANGE]);
    let server = Server::start(&lab, proxy_config(lab.dir()), FakeNodes::new());
    lab.client_address();
    let client = Client::open(&lab);

    let [theirs, ours] = client.ask_both("ipxe-rom-virtio-discover");
    assert_eq!(theirs.0.yiaddr.octets()[..3], [10, 77, 0]);
    assert_eq!(theirs.1.get(code::BOOT_FILE_NAME), None);
    assert_eq!(ours.0.yiaddr, Ipv4Addr::UNSPECIFIED);
    assert_eq!((&ours.0.file[..], ours.0.siaddr), (SCRIPT, SERVER));
    assert_eq!(ours.1.get(code::VENDOR_CLASS), Some(&b"PXEClient"[..]));
    server.nodes.wait_for(IPXE, &BootEventKind::DhcpOffer);

    let [_, ours] = client.ask_both("ovmf-pxe-discover");
    assert_eq!((&ours.0.file[..], &ours.0.sname[..]), (&b"ipxe.efi"[..], &b"10.77.0.1"[..]));
    let [_, ours] = client.ask_both("ovmf-http-discover");
    assert_eq!(ours.0.file, b"http://10.77.0.1/boot/ipxe.efi");
    assert_eq!(ours.1.get(code::VENDOR_CLASS), Some(&b"HTTPClient"[..]));
    assert!(client.receive(SILENCE).is_none());

    // The captured REQUEST names 10.77.0.2: dnsmasq's business, which NAKs or ACKs it.
    client.send(&fixture("ipxe-rom-virtio-request"), (Ipv4Addr::BROADCAST, 67));
    let (_, _, options) = client.receive(PATIENCE).expect("an answer of dnsmasq");
    assert_eq!(options.address(code::SERVER_ID), Some(FOREIGN));
    assert!(client.receive(SILENCE).is_none());
    server.stop().unwrap();
    assert!(!lab.dir().join("leases.journal").exists(), "a proxy keeps no leases");
}

#[test]
fn who_does_not_boot_hears_the_other_server_alone() {
    let lab = Lab::new();
    let _dnsmasq = lab.dnsmasq(Host::Other, &[RANGE]);
    let server = Server::start(&lab, proxy_config(lab.dir()), FakeNodes::new());
    let lease = lab.udhcpc(CLIENT, &["-O", "bootfile"]).expect("a lease");
    assert_eq!(lease["serverid"], FOREIGN.to_string());
    assert_eq!(lease.get("boot_file").or(lease.get("bootfile")), None);
    lab.client_address();
    let client = Client::open(&lab);
    for name in ["udhcpc-discover", "dhclient-discover"] {
        client.send(&fixture(name), (Ipv4Addr::BROADCAST, 67));
        let (_, _, options) = client.receive(PATIENCE).expect("an offer");
        assert_eq!(options.address(code::SERVER_ID), Some(FOREIGN));
        assert!(client.receive(SILENCE).is_none(), "a proxy answered {name}");
    }
    assert!(server.nodes.kinds(CLIENT).is_empty());
    server.stop().unwrap();
}

/// The options that `docs/beside-your-dhcp.md` gives for the same host.
fn beside_us(lab: &Lab) -> Program {
    lab.dnsmasq(
        Host::Ours,
        &[
            RANGE,
            "--dhcp-vendorclass=set:pxe,PXEClient",
            "--dhcp-option-force=tag:pxe,option:vendor-class,PXEClient",
        ],
    )
}

/// Only one of two servers on a host has port 67: the offer there says `PXEClient`, and the machine
/// asks here on port 4011.
#[test]
fn on_the_same_host_port_4011_is_left_to_us() {
    let lab = Lab::new();
    let _dnsmasq = beside_us(&lab);
    let server = Server::start(&lab, proxy_config(lab.dir()), FakeNodes::new());
    lab.client_address();
    let client = Client::open(&lab);
    client.send(&fixture("ipxe-rom-virtio-discover"), (Ipv4Addr::BROADCAST, 67));
    let (port, header, options) = client.receive(PATIENCE).expect("dnsmasq's offer");
    assert_eq!((port, options.address(code::SERVER_ID)), (67, Some(SERVER)));
    assert_eq!(options.get(code::VENDOR_CLASS), Some(&b"PXEClient"[..]));
    assert!(!header.yiaddr.is_unspecified());
    assert_eq!((options.get(code::BOOT_FILE_NAME), header.file.len()), (None, 0));

    let mut request = fixture("ipxe-rom-virtio-request");
    name_server(&mut request, SERVER);
    client.send(&request, (SERVER, 4011));
    let (port, header, options) = client.receive(PATIENCE).expect("our answer");
    assert_eq!((port, options.address(code::SERVER_ID)), (4011, Some(SERVER)));
    assert_eq!((&header.file[..], header.yiaddr), (SCRIPT, Ipv4Addr::UNSPECIFIED));
    assert!(client.receive(SILENCE).is_none());
    server.stop().unwrap();
}

/// Puts a server's address over the one in option 54.
fn name_server(request: &mut [u8], server: Ipv4Addr) {
    let at = request.windows(6).position(|it| it == [54, 4, 10, 77, 0, 2]).unwrap();
    request[at + 2..at + 6].copy_from_slice(&server.octets());
}

#[test]
fn two_proxies_on_a_host_are_an_error() {
    let lab = Lab::new();
    let server = Server::start(&lab, proxy_config(lab.dir()), FakeNodes::new());
    let error = Server::try_start(&lab, proxy_config(lab.dir()), FakeNodes::new()).err().unwrap();
    assert!(error.contains("port 4011 on srv0") && error.contains("ss -ulpn"), "{error}");
    server.stop().unwrap();
}
