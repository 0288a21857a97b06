use super::*;
use crate::dhcp::{
    packet::Arch,
    testing::{Ask, REQUESTS, SERVER, boot_settings, fixture, ip, mac},
    wire,
};
use dhcproto::{Decodable, v4};
use proptest::prelude::*;

/// Where a client without an address sends from.
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
const EVERYONE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 68);
const ADDRESS_SERVER: u8 = 2;
const SCRIPT: &str = "http://10.77.0.1:8080/boot/52-54-00-77-00-05.ipxe";

fn handle(port: Port, from: SocketAddrV4, datagram: &[u8]) -> Outcome {
    Proxy::new(SERVER, boot_settings()).unwrap().handle(port, from, datagram)
}

fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn ignored(outcome: Outcome) -> Ignored {
    match outcome {
        Outcome::Ignored(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn offer(fixture_name: &str) -> Reply {
    let reply = reply(handle(Port::Dhcp, NOWHERE, &fixture(fixture_name)));
    assert_eq!((reply.kind, reply.destination), (ReplyKind::Offer, EVERYONE));
    reply
}

/// As BIOS firmware asks on port 4011 when an offer said `PXEClient` without a boot file.
fn boot_rom(message_type: u8) -> Ask {
    Ask::new(message_type, mac(1))
        .with(code::MACHINE_UUID, &[0; 17])
        .with(code::CLIENT_ARCH, &[0, 0])
        .with(94, &[1, 2, 1])
        .with(code::VENDOR_CLASS, b"PXEClient:Arch:00000:UNDI:002001")
}

#[test]
fn ipxe_gets_an_offer_of_its_script_and_no_address() {
    for name in ["ipxe-rom-virtio-discover", "undionly-chained-discover"] {
        let offer = offer(name);
        assert_eq!(offer.boot, BootFile::Script { url: SCRIPT.into() });
        let message = v4::Message::from_bytes(&offer.bytes).unwrap();
        assert_eq!(message.opcode(), v4::Opcode::BootReply);
        assert_eq!((message.yiaddr(), message.siaddr()), (Ipv4Addr::UNSPECIFIED, SERVER));
        assert_eq!(message.fname(), Some(format!("{SCRIPT}\0").as_bytes()));
        let mut options: Vec<v4::DhcpOption> =
            message.opts().iter().map(|(_, option)| option.clone()).collect();
        options.sort_by_key(|option| u8::from(v4::OptionCode::from(option)));
        use v4::DhcpOption as O;
        let [
            O::VendorExtensions(pxe),
            message_type,
            server,
            class,
            file,
            O::ClientMachineIdentifier(id),
        ] = &options[..]
        else {
            panic!("{options:?}")
        };
        assert_eq!(pxe, &[6, 1, 8, 255]);
        assert_eq!(*message_type, O::MessageType(v4::MessageType::Offer));
        assert_eq!(*server, O::ServerIdentifier(SERVER));
        assert_eq!(*class, O::ClassIdentifier(b"PXEClient".to_vec()));
        assert_eq!(*file, O::BootfileName(SCRIPT.as_bytes().to_vec()));
        assert_eq!(id.len(), 17);
        assert!(offer.bytes.len() >= wire::MIN_LEN);
    }
}

#[test]
fn pxe_firmware_is_told_everything_twice() {
    let (header, options) = wire::parse(&offer("ovmf-pxe-discover").bytes).unwrap();
    assert_eq!((header.yiaddr, header.siaddr), (Ipv4Addr::UNSPECIFIED, SERVER));
    assert_eq!((&header.file[..], &header.sname[..]), (&b"ipxe.efi"[..], &b"10.77.0.1"[..]));
    assert_eq!(options.get(code::BOOT_FILE_NAME), Some(&b"ipxe.efi"[..]));
    assert_eq!(options.get(code::TFTP_SERVER_NAME), Some(&b"10.77.0.1"[..]));
    assert_eq!(options.get(code::VENDOR_CLASS), Some(&b"PXEClient"[..]));
    assert_eq!(options.get(code::VENDOR_SPECIFIC), Some(&[6, 1, 8, 255][..]));
    assert_eq!(options.get(code::LEASE_SECONDS), None);
    assert_eq!(options.get(code::SUBNET_MASK), None);
}

#[test]
fn uefi_http_boot_gets_a_url_and_its_class() {
    let (header, options) = wire::parse(&offer("ovmf-http-discover").bytes).unwrap();
    let url = b"http://10.77.0.1:8080/boot/ipxe.efi";
    assert_eq!(header.file, url);
    assert_eq!(options.get(code::BOOT_FILE_NAME), Some(&url[..]));
    assert_eq!(options.get(code::VENDOR_CLASS), Some(&b"HTTPClient"[..]));
    assert_eq!(options.get(code::VENDOR_SPECIFIC), None);
}

#[test]
fn who_does_not_boot_from_us_never_hears_us() {
    let not_booting = Ignored::NoBootFile(NoBootFile::NotBooting);
    for name in ["udhcpc-discover", "udhcpc-request", "dhclient-discover", "dhclient-request"] {
        for port in [Port::Dhcp, Port::Pxe] {
            assert_eq!(ignored(handle(port, NOWHERE, &fixture(name))), not_booting, "{name}");
        }
    }
    let arm = Ask::discover(mac(1))
        .with(code::VENDOR_CLASS, b"PXEClient:Arch:00010")
        .with(code::CLIENT_ARCH, &[0, 10]);
    let unknown = Ignored::NoBootFile(NoBootFile::UnknownArch(Some(Arch::Arm32Efi)));
    assert_eq!(ignored(handle(Port::Dhcp, NOWHERE, &arm.bytes())), unknown);
}

#[test]
fn the_captured_requests_are_left_to_the_server_they_name() {
    for name in REQUESTS.into_iter().filter(|name| name.ends_with("-request")) {
        if matches!(name, "udhcpc-request" | "dhclient-request") {
            continue;
        }
        let reason = ignored(handle(Port::Dhcp, NOWHERE, &fixture(name)));
        assert_eq!(reason, Ignored::OtherServer(ip(ADDRESS_SERVER)), "{name}");
    }
}

#[test]
fn port_4011_tells_the_boot_file_to_whom_it_may_concern() {
    let from = SocketAddrV4::new(ip(100), 68);
    for ask in [boot_rom(3), boot_rom(3).server(SERVER), boot_rom(8)] {
        let reply = reply(handle(Port::Pxe, from, &ask.ciaddr(ip(100)).bytes()));
        assert_eq!((reply.kind, reply.destination), (ReplyKind::Ack(ip(100)), from));
        assert_eq!(reply.boot, BootFile::Tftp { file: "undionly.kpxe".into() });
        let (header, options) = wire::parse(&reply.bytes).unwrap();
        assert_eq!((header.yiaddr, header.ciaddr), (Ipv4Addr::UNSPECIFIED, ip(100)));
        assert_eq!(header.file, b"undionly.kpxe");
        assert_eq!(options.get(code::MESSAGE_TYPE), Some(&[5][..]));
        assert_eq!(options.address(code::SERVER_ID), Some(SERVER));
    }
    // A ROM may ask from a port of its own; the answer goes there.
    let from = SocketAddrV4::new(ip(100), 4011);
    assert_eq!(reply(handle(Port::Pxe, from, &boot_rom(3).bytes())).destination, from);
    let unaddressed = handle(Port::Pxe, NOWHERE, &boot_rom(3).bytes());
    assert_eq!(reply(unaddressed).destination, EVERYONE);
    let other = boot_rom(3).server(ip(9)).bytes();
    assert_eq!(ignored(handle(Port::Pxe, from, &other)), Ignored::OtherServer(ip(9)));
    let discover = boot_rom(1).bytes();
    assert_eq!(ignored(handle(Port::Pxe, from, &discover)), Ignored::AboutAddress);
}

#[test]
fn on_port_67_only_a_request_that_names_us_is_ours() {
    let named = boot_rom(3).server(SERVER);
    let ack = reply(handle(Port::Dhcp, NOWHERE, &named.bytes()));
    assert_eq!((ack.destination, ack.kind), (EVERYONE, ReplyKind::Ack(Ipv4Addr::UNSPECIFIED)));
    let with_address = boot_rom(3).server(SERVER).ciaddr(ip(100)).bytes();
    let ack = reply(handle(Port::Dhcp, NOWHERE, &with_address));
    assert_eq!(ack.destination, SocketAddrV4::new(ip(100), 68));
    for message_type in [3, 4, 7, 8] {
        let ask = boot_rom(message_type).wants(ip(100)).bytes();
        assert_eq!(ignored(handle(Port::Dhcp, NOWHERE, &ask)), Ignored::AboutAddress);
    }
}

#[test]
fn a_relayed_machine_is_answered_through_its_relay() {
    let relay = Ipv4Addr::new(10, 78, 0, 1);
    let info = [1, 4, b'p', b'o', b'r', b't'];
    let ask = boot_rom(1).with(code::RELAY_INFO, &info).giaddr(relay).bytes();
    let offer = reply(handle(Port::Dhcp, SocketAddrV4::new(relay, 67), &ask));
    assert_eq!(offer.destination, SocketAddrV4::new(relay, 67));
    assert!(offer.bytes.ends_with(&[&[82, 6][..], &info, &[code::END]].concat()));
    assert_eq!(wire::parse(&offer.bytes).unwrap().0.giaddr, relay);
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let boot = BootSettings { http_base: "x".into(), ..boot_settings() };
    assert!(Proxy::new(SERVER, boot).is_err());
}

proptest! {
    #[test]
    fn whatever_comes_no_address_is_given(
        which in 0..REQUESTS.len(),
        port in prop_oneof![Just(Port::Dhcp), Just(Port::Pxe)],
        hits in proptest::collection::vec((0usize..412, any::<u8>()), 0..20),
    ) {
        let mut bytes = fixture(REQUESTS[which]);
        for (at, value) in &hits {
            if let Some(byte) = bytes.get_mut(*at) {
                *byte = *value;
            }
        }
        if let Outcome::Reply(reply) = handle(port, NOWHERE, &bytes) {
            let (header, options) = wire::parse(&reply.bytes).unwrap();
            prop_assert_eq!(header.op, Op::Reply);
            prop_assert_eq!(header.xid.to_be_bytes(), [bytes[4], bytes[5], bytes[6], bytes[7]]);
            prop_assert_eq!(header.yiaddr, Ipv4Addr::UNSPECIFIED);
            prop_assert!(options.get(code::VENDOR_CLASS).is_some());
        }
    }
}
