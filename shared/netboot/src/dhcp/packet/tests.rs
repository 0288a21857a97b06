use super::*;
use crate::dhcp::testing::{Ask, REQUESTS, fixture, ip, mac};
use proptest::prelude::*;

fn parse(name: &str) -> Request {
    Request::parse(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const UUID: &str = "3c4f1a52-9d1e-4b7a-8c3d-0123456789ab";

#[test]
fn ipxe_rom_in_qemu() {
    let discover = parse("ipxe-rom-virtio-discover");
    assert_eq!(
        discover,
        Request {
            message_type: MessageType::Discover,
            xid: 0x90e4_511b,
            secs: 4,
            broadcast: false,
            mac: mac(5),
            ciaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            requested_ip: None,
            server_id: None,
            client_id: Some([&[1][..], &mac(5).0].concat()),
            hostname: None,
            parameters: vec![
                1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 129, 130, 131, 132, 133, 134,
                135, 175, 203
            ],
            max_reply_len: 1472 - 28,
            arch: Some(Arch::Bios),
            vendor_class: Some(b"PXEClient:Arch:00000:UNDI:002001".to_vec()),
            user_class: Some(b"iPXE".to_vec()),
            machine_uuid: Some(UUID.parse().unwrap()),
            machine_uuid_raw: discover.machine_uuid_raw.clone(),
            ipxe: Some(IpxeFeatures { http: true, bzimage: true, efi: false }),
            relay_info: None,
            subnet_selection: None,
        }
    );
    assert_eq!(discover.machine_uuid_raw.as_ref().unwrap().len(), 17);
    let request = parse("ipxe-rom-virtio-request");
    assert_eq!(request.message_type, MessageType::Request);
    assert_eq!(request.requested_ip, Some(ip(100)));
    assert_eq!(request.server_id, Some(ip(2)));
    assert_eq!(request.program(), Program::Ipxe);
}

#[test]
fn the_other_captured_clients() {
    for (name, program, arch, last, has_uuid) in [
        ("ipxe-rom-e1000-discover", Program::Ipxe, Some(Arch::Bios), 6, true),
        ("undionly-chained-discover", Program::Ipxe, Some(Arch::Bios), 5, true),
        ("snponly-efi-request", Program::Ipxe, Some(Arch::X64Efi), 7, true),
        ("ovmf-pxe-discover", Program::Pxe, Some(Arch::X64Efi), 7, true),
        ("ovmf-pxe-request", Program::Pxe, Some(Arch::X64Efi), 7, true),
        ("ovmf-http-discover", Program::UefiHttp, Some(Arch::X64Http), 8, true),
        ("udhcpc-discover", Program::Plain, None, 0x10, false),
        ("dhclient-request", Program::Plain, None, 0x10, false),
    ] {
        let request = parse(name);
        assert_eq!(request.program(), program, "{name}");
        assert_eq!(request.arch, arch, "{name}");
        assert_eq!(request.mac, mac(last), "{name}");
        let uuid = has_uuid.then(|| UUID.parse().unwrap());
        assert_eq!(request.machine_uuid, uuid, "{name}");
    }
    assert_eq!(parse("snponly-efi-discover").ipxe.map(|it| (it.http, it.efi)), Some((true, true)));
    assert!(parse("undionly-chained-discover").broadcast);
}

#[test]
fn user_class_in_both_spellings() {
    let program = |class: &[u8]| {
        let ask = Ask::discover(mac(1))
            .with(code::USER_CLASS, class)
            .with(code::VENDOR_CLASS, b"PXEClient:Arch:00000:UNDI:002001");
        Request::parse(&ask.bytes()).unwrap().program()
    };
    assert_eq!(program(b"iPXE"), Program::Ipxe);
    assert_eq!(program(b"\x04iPXE"), Program::Ipxe);
    assert_eq!(program(b"\x03foo\x04iPXE"), Program::Ipxe);
    for not in [&b""[..], b"gPXE", b"iPXE2", b"\x04iPX", b"\x05iPXE", b"\xff", b"\x00"] {
        assert_eq!(program(not), Program::Pxe, "{not:?}");
    }
}

#[test]
fn ipxe_without_http_is_noticed() {
    let program = |features: &[u8]| {
        let ask = Ask::discover(mac(1)).with(code::USER_CLASS, b"iPXE").with(code::IPXE, features);
        Request::parse(&ask.bytes()).unwrap().program()
    };
    assert_eq!(program(&[0x13, 1, 1]), Program::Ipxe);
    assert_eq!(program(&[0x18, 1, 1, 0x13, 1, 1]), Program::Ipxe);
    for without in [&[][..], &[0x18, 1, 1], &[0x13, 1, 0], &[0x13, 0], &[0x13], &[0x13, 9, 1]] {
        assert_eq!(program(without), Program::IpxeWithoutHttp, "{without:?}");
    }
}

#[test]
fn architectures() {
    let arch = |options: &[(u8, &[u8])]| {
        let mut ask = Ask::discover(mac(1));
        for (code, value) in options {
            ask = ask.with(*code, value);
        }
        Request::parse(&ask.bytes()).unwrap().arch
    };
    assert_eq!(arch(&[(code::CLIENT_ARCH, &[0, 9])]), Some(Arch::X64Efi));
    assert_eq!(arch(&[(code::CLIENT_ARCH, &[0, 7, 0, 16])]), Some(Arch::X64Efi));
    assert_eq!(arch(&[(code::CLIENT_ARCH, &[0, 27])]), Some(Arch::Riscv(27)));
    assert_eq!(arch(&[(code::CLIENT_ARCH, &[1, 0])]), Some(Arch::Other(256)));
    assert_eq!(arch(&[(code::CLIENT_ARCH, &[7])]), None);
    let class = &b"PXEClient:Arch:00011:UNDI:003000"[..];
    assert_eq!(arch(&[(code::VENDOR_CLASS, class)]), Some(Arch::Arm64Efi));
    assert_eq!(arch(&[(code::VENDOR_CLASS, &class[..18])]), None);
}

#[test]
fn descriptions_may_be_wrong_but_not_the_exchange() {
    let ask = |code, value: &[u8]| Request::parse(&Ask::discover(mac(1)).with(code, value).bytes());
    assert_eq!(ask(code::HOST_NAME, b"\xff\xfe").unwrap().hostname, None);
    assert_eq!(ask(code::HOST_NAME, b"a b").unwrap().hostname, None);
    assert_eq!(ask(code::HOST_NAME, b"node-1.x\0").unwrap().hostname, Some("node-1.x".into()));
    assert_eq!(ask(code::MACHINE_UUID, &[1; 17]).unwrap().machine_uuid, None);
    let odd = ask(code::MACHINE_UUID, &[0; 5]).unwrap();
    assert_eq!((odd.machine_uuid, odd.machine_uuid_raw), (None, None));
    assert_eq!(ask(code::MAX_MESSAGE, &[0, 10]).unwrap().max_reply_len, 548);
    assert_eq!(ask(code::REQUESTED_IP, &[1, 2, 3]), Err(PacketError::BadOption(50)));
    assert_eq!(ask(code::SERVER_ID, &[]), Err(PacketError::BadOption(54)));
}

#[test]
fn what_is_not_a_request() {
    let parse = |ask: Ask| Request::parse(&ask.bytes());
    for message_type in [0, 2, 5, 6, 9, 255] {
        assert_eq!(parse(Ask::new(message_type, mac(1))), Err(PacketError::BadMessageType));
    }
    let mut ask = Ask::discover(mac(1));
    ask.options.clear();
    assert_eq!(parse(ask), Err(PacketError::BadMessageType));
    let mut ask = Ask::discover(mac(1));
    ask.header.op = Op::Reply;
    assert_eq!(parse(ask), Err(PacketError::NotRequest));
    let mut ask = Ask::discover(mac(1));
    ask.header.hops = 17;
    assert_eq!(parse(ask), Err(PacketError::TooManyHops(17)));
    assert!(matches!(parse(Ask::discover(Mac([0; 6]))), Err(PacketError::BadMac(_))));
    assert!(matches!(parse(Ask::discover(Mac([0xff; 6]))), Err(PacketError::BadMac(_))));
}

proptest! {
    #[test]
    fn random_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..800)) {
        let _ = Request::parse(&bytes).map(|request| request.program());
    }

    #[test]
    fn mangled_requests_are_survived(
        which in 0..REQUESTS.len(),
        hits in proptest::collection::vec((236usize..412, any::<u8>()), 1..20),
        cut in 0usize..420,
    ) {
        let mut bytes = fixture(REQUESTS[which]);
        for (at, value) in hits {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let _ = Request::parse(&bytes).map(|request| request.program());
        bytes.truncate(cut);
        let _ = Request::parse(&bytes).map(|request| request.program());
    }
}
