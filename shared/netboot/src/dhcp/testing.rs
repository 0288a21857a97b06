//! What the DHCP tests share: captured packets, a small builder of requests, a plain subnet.

use super::{
    boot::BootSettings,
    server::{Config, Reservation, Subnet},
    wire::{Header, Op, Writer, code},
};
use crate::mac::Mac;
use std::{collections::BTreeMap, net::Ipv4Addr, path::Path};

/// A captured packet by its name without `.hex`; see `tests/fixtures/README.md`.
pub fn fixture(name: &str) -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.hex"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// All captured DHCP requests.
pub const REQUESTS: [&str; 15] = [
    "ipxe-rom-virtio-discover",
    "ipxe-rom-virtio-request",
    "ipxe-rom-e1000-discover",
    "ipxe-rom-e1000-request",
    "undionly-chained-discover",
    "undionly-chained-request",
    "ovmf-pxe-discover",
    "ovmf-pxe-request",
    "ovmf-http-discover",
    "snponly-efi-discover",
    "snponly-efi-request",
    "udhcpc-discover",
    "udhcpc-request",
    "dhclient-discover",
    "dhclient-request",
];

pub fn mac(last: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0x77, 0, last])
}

pub fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

/// An address behind the relay.
pub fn far(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, 0, last)
}

/// The relay, which is the router too.
pub const RELAY: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

pub fn boot_settings() -> BootSettings {
    BootSettings {
        http_base: "http://10.77.0.1:8080".into(),
        tftp_server: SERVER,
        bios_file: "undionly.kpxe".into(),
        x64_file: "ipxe.efi".into(),
        arm64_file: None,
    }
}

/// 10.77.0.0/24, addresses 100 to 103 by lease, 10.77.0.50 reserved for `mac(50)`; 10.78.0.0/16
/// behind a relay, addresses 10.78.0.100 to 10.78.0.101.
pub fn config() -> Config {
    Config {
        server: SERVER,
        local: Subnet {
            prefix_len: 24,
            range_first: ip(100),
            range_last: ip(103),
            router: Some(SERVER),
        },
        relayed: vec![Subnet {
            prefix_len: 16,
            range_first: far(100),
            range_last: far(101),
            router: Some(RELAY),
        }],
        dns: vec![ip(2), ip(3)],
        domain: Some("lab.example".into()),
        lease_secs: 3600,
        boot: boot_settings(),
        reservations: BTreeMap::from([(
            mac(50),
            Reservation { ip: ip(50), hostname: Some("node50".into()) },
        )]),
    }
}

/// A request under construction.
pub struct Ask {
    pub header: Header,
    pub options: Vec<(u8, Vec<u8>)>,
}

impl Ask {
    pub fn new(message_type: u8, mac: Mac) -> Self {
        let header = Header {
            op: Op::Request,
            hops: 0,
            xid: 0x1234_5678,
            secs: 0,
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr: mac.0,
            sname: Vec::new(),
            file: Vec::new(),
        };
        Self { header, options: vec![(code::MESSAGE_TYPE, vec![message_type])] }
    }
    pub fn discover(mac: Mac) -> Self {
        Self::new(1, mac)
    }
    pub fn request(mac: Mac) -> Self {
        Self::new(3, mac)
    }
    pub fn with(mut self, code: u8, value: &[u8]) -> Self {
        self.options.push((code, value.to_vec()));
        self
    }
    pub fn wants(self, ip: Ipv4Addr) -> Self {
        self.with(code::REQUESTED_IP, &ip.octets())
    }
    pub fn server(self, ip: Ipv4Addr) -> Self {
        self.with(code::SERVER_ID, &ip.octets())
    }
    pub fn ciaddr(mut self, ip: Ipv4Addr) -> Self {
        self.header.ciaddr = ip;
        self
    }
    pub fn giaddr(mut self, ip: Ipv4Addr) -> Self {
        self.header.giaddr = ip;
        self
    }
    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new(&self.header);
        for (code, value) in &self.options {
            writer.put(*code, value);
        }
        writer.finish()
    }
}
