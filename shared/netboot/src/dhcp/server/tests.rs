use super::*;
use crate::dhcp::{
    boot::NoBootFile,
    packet::Arch,
    testing::{Ask, RELAY, REQUESTS, SERVER, boot_settings, config, far, fixture, ip, mac},
    wire::{self, code},
};
use dhcproto::{Decodable, v4};
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000;

fn server() -> Server {
    Server::new(config(), LeaseTable::default()).unwrap()
}

fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn kind(outcome: Outcome) -> ReplyKind {
    reply(outcome).summary.kind
}

/// DISCOVER and REQUEST; the address.
fn lease(server: &mut Server, now: u64, who: Mac) -> Ipv4Addr {
    let ReplyKind::Offer(ip) = kind(server.handle(now, &Ask::discover(who).bytes())) else {
        panic!()
    };
    let take = Ask::request(who).wants(ip).server(SERVER).bytes();
    assert_eq!(kind(server.handle(now, &take)), ReplyKind::Ack(ip));
    ip
}

fn options(bytes: &[u8]) -> wire::Options {
    wire::parse(bytes).unwrap().1
}

#[test]
fn an_ack_says_what_a_client_needs() {
    let mut server = server();
    let given = lease(&mut server, NOW, mac(1));
    let take =
        Ask::request(mac(1)).wants(given).server(SERVER).with(code::HOST_NAME, b"pc").bytes();
    let reply = reply(server.handle(NOW, &take));
    assert_eq!(reply.destination, Destination::Broadcast);
    assert_eq!(
        reply.lease_change,
        Some(LeaseRecord {
            ip: given,
            expires_unix: NOW + 3600,
            holder: Holder::Client { mac: mac(1), hostname: Some("pc".into()) },
        })
    );
    let message = v4::Message::from_bytes(&reply.bytes).unwrap();
    assert_eq!(message.xid(), 0x1234_5678);
    assert_eq!(message.chaddr(), mac(1).0);
    assert_eq!((message.yiaddr(), message.siaddr()), (given, Ipv4Addr::UNSPECIFIED));
    let mut options: Vec<v4::DhcpOption> =
        message.opts().iter().map(|(_, option)| option.clone()).collect();
    options.sort_by_key(|option| u8::from(v4::OptionCode::from(option)));
    use v4::DhcpOption as O;
    assert_eq!(
        options,
        [
            O::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
            O::Router(vec![SERVER]),
            O::DomainNameServer(vec![ip(2), ip(3)]),
            O::DomainName("lab.example".into()),
            O::BroadcastAddr(ip(255)),
            O::AddressLeaseTime(3600),
            O::MessageType(v4::MessageType::Ack),
            O::ServerIdentifier(SERVER),
            O::Renewal(1800),
            O::Rebinding(3150),
        ]
    );
    assert!(reply.bytes.len() >= wire::MIN_LEN);
}

#[test]
fn one_machine_keeps_its_address_through_rom_ipxe_and_system() {
    let mut server = server();
    let rom = kind(server.handle(NOW, &fixture("ipxe-rom-virtio-discover")));
    let ReplyKind::Offer(ip) = rom else { panic!("{rom:?}") };
    // The captured REQUEST names another server; ours is asked the same with our id.
    let take = |id: &[u8]| {
        let ask = Ask::request(mac(5)).wants(ip).server(SERVER);
        ask.with(code::CLIENT_ID, id).bytes()
    };
    assert_eq!(kind(server.handle(NOW, &take(b"\x01rom"))), ReplyKind::Ack(ip));
    let chained = kind(server.handle(NOW + 5, &fixture("undionly-chained-discover")));
    assert_eq!(chained, ReplyKind::Offer(ip));
    assert_eq!(kind(server.handle(NOW + 6, &take(b"\xff\x00duid"))), ReplyKind::Ack(ip));
    // Long after the lease ran out, it is still remembered.
    let later = kind(server.handle(NOW + 100_000, &fixture("ipxe-rom-virtio-discover")));
    assert_eq!(later, ReplyKind::Offer(ip));
}

#[test]
fn ipxe_gets_its_script_and_does_not_wait_for_a_proxy() {
    let mut server = server();
    let reply = reply(server.handle(NOW, &fixture("ipxe-rom-virtio-discover")));
    let url = "http://10.77.0.1:8080/boot/52-54-00-77-00-05.ipxe";
    assert_eq!(reply.summary.boot, BootFile::Script { url: url.into() });
    let (header, options) = wire::parse(&reply.bytes).unwrap();
    assert_eq!(header.file, url.as_bytes());
    assert_eq!(options.get(code::BOOT_FILE_NAME), Some(url.as_bytes()));
    assert_eq!(options.get(code::IPXE), Some(&[176, 1, 1][..]));
    assert_eq!(options.get(code::VENDOR_CLASS), None);
    assert_eq!(options.get(code::MACHINE_UUID).map(<[u8]>::len), Some(17));
}

#[test]
fn pxe_firmware_is_told_everything_twice() {
    let mut server = server();
    let reply = reply(server.handle(NOW, &fixture("ovmf-pxe-discover")));
    let (header, options) = wire::parse(&reply.bytes).unwrap();
    assert_eq!(header.siaddr, SERVER);
    assert_eq!(header.file, b"ipxe.efi");
    assert_eq!(header.sname, b"10.77.0.1");
    assert_eq!(options.get(code::BOOT_FILE_NAME), Some(&b"ipxe.efi"[..]));
    assert_eq!(options.get(code::TFTP_SERVER_NAME), Some(&b"10.77.0.1"[..]));
    assert_eq!(options.get(code::VENDOR_CLASS), Some(&b"PXEClient"[..]));
    assert_eq!(options.get(code::VENDOR_SPECIFIC), Some(&[6, 1, 8, 255][..]));
    assert_eq!(options.get(code::MACHINE_UUID).map(<[u8]>::len), Some(17));
}

/// As a boot ROM of PXE 2.1 section 2.2.3 writes it; none of the captured ones is without iPXE.
#[test]
fn a_bios_boot_rom_gets_undionly() {
    let ask = Ask::discover(mac(1))
        .with(code::PARAMETER_LIST, &[1, 2, 3, 5, 6, 11, 12, 13, 15, 16, 17, 18, 43, 54, 60, 67])
        .with(code::MAX_MESSAGE, &1260_u16.to_be_bytes())
        .with(code::MACHINE_UUID, &[0; 17])
        .with(code::CLIENT_ARCH, &[0, 0])
        .with(94, &[1, 2, 1])
        .with(code::VENDOR_CLASS, b"PXEClient:Arch:00000:UNDI:002001");
    let boot = reply(server().handle(NOW, &ask.bytes())).summary.boot;
    assert_eq!(boot, BootFile::Tftp { file: "undionly.kpxe".into() });
}

#[test]
fn uefi_http_boot_is_echoed_its_class() {
    let reply = reply(server().handle(NOW, &fixture("ovmf-http-discover")));
    let (header, options) = wire::parse(&reply.bytes).unwrap();
    let url = b"http://10.77.0.1:8080/boot/ipxe.efi";
    assert_eq!(options.get(code::VENDOR_CLASS), Some(&b"HTTPClient"[..]));
    assert_eq!(options.get(code::BOOT_FILE_NAME), Some(&url[..]));
    assert_eq!(header.file, url);
}

#[test]
fn an_unknown_architecture_gets_an_address_and_the_reason_is_visible() {
    let ask = Ask::discover(mac(1))
        .with(code::CLIENT_ARCH, &[0, 6])
        .with(code::VENDOR_CLASS, b"PXEClient:Arch:00006:UNDI:003016");
    let reply = reply(server().handle(NOW, &ask.bytes()));
    assert!(matches!(reply.summary.kind, ReplyKind::Offer(_)));
    let reason = NoBootFile::UnknownArch(Some(Arch::Ia32Efi));
    assert_eq!(reply.summary.boot, BootFile::None(reason));
    assert_eq!(options(&reply.bytes).get(code::BOOT_FILE_NAME), None);
}

#[test]
fn a_long_url_is_in_the_option_only_and_the_reply_still_fits() {
    let mut config = config();
    config.boot.http_base = format!("http://{}", "a".repeat(121));
    config.dns = vec![ip(2); 4];
    config.domain = Some("d".repeat(63));
    let mut server = Server::new(config, LeaseTable::default()).unwrap();
    let ask = Ask::discover(mac(1))
        .with(code::USER_CLASS, b"iPXE")
        .with(code::MACHINE_UUID, &[0; 17])
        .with(code::MAX_MESSAGE, &576_u16.to_be_bytes());
    let reply = reply(server.handle(NOW, &ask.bytes()));
    let (header, options) = wire::parse(&reply.bytes).unwrap();
    assert_eq!(header.file, b"");
    assert!(options.get(code::BOOT_FILE_NAME).is_some_and(|url| url.ends_with(b"-01.ipxe")));
    assert!(reply.bytes.len() <= 548, "{}", reply.bytes.len());
}

#[test]
fn reserved_addresses_are_kept_for_their_owner() {
    let mut config = config();
    config.reservations.insert(mac(51), Reservation { ip: ip(100), hostname: None });
    let mut server = Server::new(config, LeaseTable::default()).unwrap();
    assert_eq!(lease(&mut server, NOW, mac(50)), ip(50));
    for other in 1..=3 {
        assert_ne!(lease(&mut server, NOW, mac(other)), ip(100));
    }
    let full = server.handle(NOW, &Ask::discover(mac(4)).bytes());
    assert_eq!(full, Outcome::Ignored(Ignored::Exhausted(mac(4))));
    assert_eq!(server.counters().exhausted, 1);
    assert_eq!(lease(&mut server, NOW, mac(51)), ip(100));
    let renew = Ask::request(mac(50)).ciaddr(ip(50)).bytes();
    let reply = reply(server.handle(NOW, &renew));
    assert_eq!(reply.destination, Destination::Client(ip(50)));
    assert_eq!(options(&reply.bytes).get(code::HOST_NAME), Some(&b"node50"[..]));
}

#[test]
fn a_new_reservation_takes_effect_when_the_machine_starts() {
    let mut server = server();
    let old = lease(&mut server, NOW, mac(1));
    let mut config = config();
    config.reservations.insert(mac(1), Reservation { ip: ip(51), hostname: None });
    let mut server = Server::new(config, server.leases().clone()).unwrap();
    let renew = Ask::request(mac(1)).ciaddr(old).bytes();
    assert_eq!(kind(server.handle(NOW + 1, &renew)), ReplyKind::Ack(old));
    assert_eq!(lease(&mut server, NOW + 2, mac(1)), ip(51));
    assert!(matches!(kind(server.handle(NOW + 3, &renew)), ReplyKind::Nak(_)));
}

#[test]
fn requests_for_what_is_not_theirs_are_refused() {
    let mut server = server();
    let own = lease(&mut server, NOW, mac(1));
    let other = lease(&mut server, NOW, mac(2));
    let nak = |server: &mut Server, ask: Ask| match kind(server.handle(NOW, &ask.bytes())) {
        ReplyKind::Nak(reason) => reason,
        other => panic!("{other:?}"),
    };
    let (a, b) = (mac(1), mac(3));
    assert_eq!(nak(&mut server, Ask::request(a).wants(other)), NakReason::OtherAddress(own));
    assert_eq!(nak(&mut server, Ask::request(a).ciaddr(other)), NakReason::OtherAddress(own));
    assert_eq!(nak(&mut server, Ask::request(b).wants(other)), NakReason::NotAvailable);
    assert_eq!(nak(&mut server, Ask::request(b).wants(ip(50))), NakReason::NotAvailable);
    assert_eq!(nak(&mut server, Ask::request(b).wants(SERVER)), NakReason::NotAvailable);
    let foreign = Ipv4Addr::new(192, 168, 1, 7);
    assert_eq!(nak(&mut server, Ask::request(b).wants(foreign)), NakReason::WrongNetwork);
    assert_eq!(server.counters().naks, 6);
    // A NAK reaches a client that has no address here.
    let reply = reply(server.handle(NOW, &Ask::request(b).ciaddr(foreign).bytes()));
    assert_eq!(reply.destination, Destination::Broadcast);
    assert_eq!(reply.lease_change, None);
}

#[test]
fn a_machine_that_remembers_more_than_we_do_is_confirmed() {
    let mut server = server();
    let back = Ask::request(mac(1)).wants(ip(102)).bytes();
    assert_eq!(kind(server.handle(NOW, &back)), ReplyKind::Ack(ip(102)));
}

#[test]
fn an_offer_is_held_and_let_go() {
    let mut server = server();
    let mut offered = |now, who| match server.handle(now, &Ask::discover(mac(who)).bytes()) {
        Outcome::Reply(reply) => match reply.summary.kind {
            ReplyKind::Offer(ip) => Some(ip),
            other => panic!("{other:?}"),
        },
        _ => None,
    };
    let mut all: Vec<Ipv4Addr> = (1..=4).map(|who| offered(NOW, who).unwrap()).collect();
    assert_eq!(offered(NOW, 1), Some(all[0]), "asking again changes nothing");
    assert_eq!(offered(NOW, 5), None);
    assert!(offered(NOW + OFFER_HOLD_SECS, 5).is_some());
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4);
    // A client that goes to another server frees its offer at once.
    let mut server = self::server();
    for who in 1..=4 {
        server.handle(NOW, &Ask::discover(mac(who)).bytes());
    }
    let elsewhere = Ask::request(mac(1)).wants(ip(9)).server(ip(9)).bytes();
    let outcome = server.handle(NOW, &elsewhere);
    assert_eq!(outcome, Outcome::Ignored(Ignored::OtherServer(ip(9))));
    assert!(matches!(server.handle(NOW, &Ask::discover(mac(5)).bytes()), Outcome::Reply(_)));
}

#[test]
fn declined_addresses_are_set_aside() {
    let mut server = server();
    let taken = lease(&mut server, NOW, mac(1));
    let not_theirs = Ask::new(4, mac(2)).wants(taken).server(SERVER).bytes();
    let ignored = server.handle(NOW, &not_theirs);
    assert_eq!(ignored, Outcome::Ignored(Ignored::NotTheirs(taken)));
    let decline = Ask::new(4, mac(1)).wants(taken).server(SERVER).bytes();
    let outcome = server.handle(NOW, &decline);
    let until = NOW + QUARANTINE_SECS;
    let record = LeaseRecord { ip: taken, expires_unix: until, holder: Holder::Quarantine };
    assert_eq!(outcome, Outcome::Recorded(record));
    for who in 1..=3 {
        assert_ne!(lease(&mut server, NOW, mac(who)), taken);
    }
    let full = server.handle(until - 1, &Ask::discover(mac(4)).bytes());
    assert!(matches!(full, Outcome::Ignored(Ignored::Exhausted(_))));
    assert_eq!(lease(&mut server, until, mac(4)), taken);
}

#[test]
fn released_addresses_are_free_but_remembered() {
    let mut server = server();
    let addresses: Vec<Ipv4Addr> = (1..=4).map(|who| lease(&mut server, NOW, mac(who))).collect();
    let release = Ask::new(7, mac(2)).ciaddr(addresses[1]).server(SERVER).bytes();
    assert!(matches!(server.handle(NOW + 5, &release), Outcome::Recorded(_)));
    // It comes back and finds its own; another one that comes first takes it.
    let ReplyKind::Offer(again) = kind(server.handle(NOW + 6, &Ask::discover(mac(2)).bytes()))
    else {
        panic!()
    };
    assert_eq!(again, addresses[1]);
    let later = NOW + 6 + OFFER_HOLD_SECS;
    assert_eq!(lease(&mut server, later, mac(9)), addresses[1]);
    assert_eq!(server.leases().of_mac(mac(2)), None);
}

#[test]
fn inform_gives_settings_but_no_lease() {
    let mut server = server();
    let reply = reply(server.handle(NOW, &Ask::new(8, mac(1)).ciaddr(ip(7)).bytes()));
    assert_eq!(reply.destination, Destination::Client(ip(7)));
    let (header, options) = wire::parse(&reply.bytes).unwrap();
    assert_eq!(header.yiaddr, Ipv4Addr::UNSPECIFIED);
    assert_eq!(options.get(code::LEASE_SECONDS), None);
    assert!(options.get(code::SUBNET_MASK).is_some());
    assert_eq!(reply.lease_change, None);
}

#[test]
fn relays_get_their_option_back_as_the_last() {
    let mut server = server();
    let info = [1, 4, b'p', b'o', b'r', b't'];
    let relayed = || Ask::discover(mac(1)).with(code::RELAY_INFO, &info);
    let offer = reply(server.handle(NOW, &relayed().giaddr(ip(254)).bytes()));
    assert_eq!(offer.destination, Destination::Relay(ip(254)));
    let at = offer.bytes.windows(8).position(|it| it == [&[82, 6][..], &info].concat()).unwrap();
    assert_eq!(offer.bytes[at + 8], code::END);
    assert_eq!(wire::parse(&offer.bytes).unwrap().0.giaddr, ip(254));
    // Not without a relay, and not for a relay elsewhere.
    let direct = reply(server.handle(NOW, &relayed().bytes()));
    assert_eq!(options(&direct.bytes).get(code::RELAY_INFO), None);
    let nowhere = Ipv4Addr::new(10, 79, 0, 1);
    let outcome = server.handle(NOW, &relayed().giaddr(nowhere).bytes());
    assert_eq!(outcome, Outcome::Ignored(Ignored::OtherNetwork(nowhere)));
    // A NAK through a relay is flagged for broadcast.
    let bad = Ask::request(mac(1)).wants(Ipv4Addr::new(9, 9, 9, 9)).giaddr(ip(254)).bytes();
    assert!(wire::parse(&reply(server.handle(NOW, &bad)).bytes).unwrap().0.broadcast);
}

#[test]
fn a_relay_chooses_the_subnet() {
    let mut server = server();
    let offer = reply(server.handle(NOW, &Ask::discover(mac(1)).giaddr(RELAY).bytes()));
    let ReplyKind::Offer(given) = offer.summary.kind else { panic!("{offer:?}") };
    assert!([far(100), far(101)].contains(&given));
    assert_eq!(offer.destination, Destination::Relay(RELAY));
    let told = options(&offer.bytes);
    assert_eq!(told.address(code::SUBNET_MASK), Some(Ipv4Addr::new(255, 255, 0, 0)));
    assert_eq!(told.address(code::ROUTER), Some(RELAY));
    assert_eq!(told.address(code::BROADCAST_ADDRESS), Some(Ipv4Addr::new(10, 78, 255, 255)));
    let take = || Ask::request(mac(1)).wants(given).server(SERVER);
    let ack = reply(server.handle(NOW, &take().giaddr(RELAY).bytes()));
    assert_eq!(ack.summary.kind, ReplyKind::Ack(given));
    // It renews without the relay, and its subnet is known by what it has.
    let renew = Ask::request(mac(1)).ciaddr(given).bytes();
    let renewed = reply(server.handle(NOW + 1800, &renew));
    assert_eq!(renewed.destination, Destination::Client(given));
    assert_eq!(renewed.summary.kind, ReplyKind::Ack(given));
    assert_eq!(options(&renewed.bytes).address(code::ROUTER), Some(RELAY));
    // A full subnet takes nothing from another.
    lease_at(&mut server, RELAY, mac(2));
    let third = Ask::discover(mac(3)).giaddr(RELAY).bytes();
    assert_eq!(server.handle(NOW, &third), Outcome::Ignored(Ignored::Exhausted(mac(3))));
    lease(&mut server, NOW, mac(3));
    // Plugged in elsewhere, a machine gets another address and leaves its old one to others.
    let remembered = kind(server.handle(NOW, &take().bytes()));
    assert_eq!(remembered, ReplyKind::Nak(NakReason::WrongNetwork));
    let moved = lease(&mut server, NOW, mac(1));
    assert_eq!(server.leases().of_mac(mac(1)).unwrap().ip, moved);
    assert_eq!(lease_at(&mut server, RELAY, mac(4)), given);
}

/// DISCOVER and REQUEST through a relay; the address.
fn lease_at(server: &mut Server, relay: Ipv4Addr, who: Mac) -> Ipv4Addr {
    let ReplyKind::Offer(ip) = kind(server.handle(NOW, &Ask::discover(who).giaddr(relay).bytes()))
    else {
        panic!()
    };
    let take = Ask::request(who).wants(ip).server(SERVER).giaddr(relay).bytes();
    assert_eq!(kind(server.handle(NOW, &take)), ReplyKind::Ack(ip));
    ip
}

/// A relay whose own address says nothing about the link (RFC 3527), and that its clients are to
/// take for their server (RFC 5107).
#[test]
fn a_relay_may_name_the_link_and_itself() {
    let mut server = server();
    let link = |address: Ipv4Addr| [&[1, 1, b'x', 5, 4][..], &address.octets()].concat();
    let named =
        |info: &[u8]| Ask::discover(mac(1)).giaddr(ip(254)).with(code::RELAY_INFO, info).bytes();
    let network = Ipv4Addr::new(10, 78, 0, 0);
    let offer = reply(server.handle(NOW, &named(&link(network))));
    let ReplyKind::Offer(given) = offer.summary.kind else { panic!("{offer:?}") };
    assert!([far(100), far(101)].contains(&given));
    assert_eq!(offer.destination, Destination::Relay(ip(254)));
    let nowhere = Ipv4Addr::new(10, 79, 0, 0);
    let outcome = server.handle(NOW, &named(&link(nowhere)));
    assert_eq!(outcome, Outcome::Ignored(Ignored::OtherNetwork(nowhere)));
    // Cut short or of another length it says nothing, and the relay's own address does.
    for damaged in [&[5, 4, 10, 78][..], &[5, 3, 10, 78, 0], &[5], &[5, 5, 10, 78, 0, 0, 0]] {
        let ReplyKind::Offer(given) = kind(server.handle(NOW, &named(damaged))) else { panic!() };
        assert!(config().local.contains(given), "{damaged:?}");
    }

    let selected =
        Ask::discover(mac(2)).giaddr(ip(254)).with(code::SUBNET_SELECTION, &network.octets());
    let offer = reply(server.handle(NOW, &selected.bytes()));
    assert!(
        matches!(offer.summary.kind, ReplyKind::Offer(given) if config().relayed[0].contains(given))
    );
    assert_eq!(options(&offer.bytes).address(code::SUBNET_SELECTION), Some(network));

    let itself = [&[11, 4][..], &RELAY.octets()].concat();
    let ask = |ask: Ask| ask.giaddr(RELAY).with(code::RELAY_INFO, &itself);
    let offer = reply(server.handle(NOW, &ask(Ask::discover(mac(1))).bytes()));
    assert_eq!(options(&offer.bytes).address(code::SERVER_ID), Some(RELAY));
    let take = ask(Ask::request(mac(1)).wants(given)).server(RELAY).bytes();
    assert_eq!(kind(server.handle(NOW, &take)), ReplyKind::Ack(given));
    // What is not relayed chooses nothing.
    let alone = Ask::discover(mac(5)).with(code::RELAY_INFO, &itself);
    let alone = alone.with(code::SUBNET_SELECTION, &network.octets()).bytes();
    let offer = reply(server.handle(NOW, &alone));
    assert!(
        matches!(offer.summary.kind, ReplyKind::Offer(given) if config().local.contains(given))
    );
    assert_eq!(options(&offer.bytes).address(code::SERVER_ID), Some(SERVER));
    assert_eq!(options(&offer.bytes).get(code::SUBNET_SELECTION), None);
}

#[test]
fn leases_survive_a_restart_if_they_still_fit() {
    let mut server = server();
    let kept = lease(&mut server, NOW, mac(1));
    let journal = server.leases().compact();
    let table = || LeaseTable::replay(journal.as_bytes()).table;
    let mut again = Server::new(config(), table()).unwrap();
    let renew = Ask::request(mac(1)).ciaddr(kept).bytes();
    assert_eq!(kind(again.handle(NOW + 1, &renew)), ReplyKind::Ack(kept));
    let mut moved = config();
    (moved.local.range_first, moved.local.range_last) = (ip(200), ip(210));
    let mut moved = Server::new(moved, table()).unwrap();
    assert_eq!(moved.leases().iter().count(), 0);
    assert!(matches!(kind(moved.handle(NOW + 1, &renew)), ReplyKind::Nak(_)));
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let bad = |change: fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        Server::new(config, LeaseTable::default()).unwrap_err()
    };
    assert_eq!(bad(|it| it.local.prefix_len = 31), ConfigError::Prefix(31));
    assert!(matches!(bad(|it| it.local.range_last = ip(255)), ConfigError::NotInSubnet { .. }));
    let elsewhere = |it: &mut Config| it.local.router = Some([9; 4].into());
    assert!(matches!(bad(elsewhere), ConfigError::NotInSubnet { .. }));
    assert!(matches!(bad(|it| it.server = far(1)), ConfigError::NotInSubnet { .. }));
    assert!(matches!(bad(|it| it.local.range_last = ip(99)), ConfigError::Range(..)));
    let twice = |it: &mut Config| it.relayed.push(it.local.clone());
    assert_eq!(bad(twice), ConfigError::Overlap(ip(100), ip(100)));
    let around = |it: &mut Config| it.relayed[0].prefix_len = 8;
    assert_eq!(bad(around), ConfigError::Overlap(ip(100), far(100)));
    let much = |it: &mut Config| {
        it.local.range_last = ip(254);
        it.relayed[0].range_last = Ipv4Addr::new(10, 78, 255, 254);
    };
    assert_eq!(bad(much), ConfigError::TooMany);
    let many = |it: &mut Config| it.relayed = vec![it.relayed[0].clone(); MAX_RELAYED + 1];
    assert_eq!(bad(many), ConfigError::TooMany);
    let large = |it: &mut Config| {
        it.local.prefix_len = 8;
        it.local.range_first = Ipv4Addr::new(10, 1, 0, 0);
        it.local.range_last = Ipv4Addr::new(10, 2, 0, 0);
    };
    assert!(matches!(bad(large), ConfigError::Range(..)));
    let twice = |it: &mut Config| {
        it.reservations.insert(mac(51), Reservation { ip: ip(50), hostname: None });
    };
    assert_eq!(bad(twice), ConfigError::ReservedTwice(ip(50), mac(51)));
    assert_eq!(bad(|it| it.lease_secs = 59), ConfigError::LeaseTime(59));
    assert_eq!(bad(|it| it.dns = vec![ip(2); 5]), ConfigError::Names);
    assert_eq!(bad(|it| it.domain = Some("a b".into())), ConfigError::Names);
    let no_base =
        |it: &mut Config| it.boot = BootSettings { http_base: "x".into(), ..boot_settings() };
    assert!(matches!(bad(no_base), ConfigError::Boot(_)));
}

/// One step of a random life of a subnet.
#[derive(Debug, Clone)]
struct Step {
    who: u8,
    message_type: u8,
    /// Last byte of the address asked for, if any.
    wants: Option<u8>,
    ciaddr: Option<u8>,
    names_us: Option<bool>,
    wait_secs: u64,
    program: u8,
    relayed: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let address = || proptest::option::of(prop_oneof![98u8..106, Just(50), Just(1)]);
    let message_type =
        prop_oneof![4 => Just(1), 6 => Just(3), 1 => Just(4), 1 => Just(7), 1 => Just(8)];
    let wait = prop_oneof![8 => 0u64..5, 1 => 50u64..700, 1 => 3000u64..8000];
    let who = prop_oneof![6 => 1u8..8, 1 => Just(50u8)];
    let relayed = prop_oneof![4 => Just(false), 1 => Just(true)];
    (who, message_type, address(), address(), any::<Option<bool>>(), wait, 0u8..5, relayed)
        .prop_map(|(who, message_type, wants, ciaddr, names_us, wait_secs, program, relayed)| {
            Step { who, message_type, wants, ciaddr, names_us, wait_secs, program, relayed }
        })
}

fn ask(step: &Step, offered: Option<Ipv4Addr>) -> Ask {
    let mut ask = Ask::new(step.message_type, mac(step.who));
    if step.relayed {
        ask = ask.giaddr(RELAY);
    }
    if let Some(wants) = step.wants {
        ask = ask.wants(ip(wants));
    } else if let Some(offered) = offered {
        ask = ask.wants(offered);
    }
    if let Some(ciaddr) = step.ciaddr {
        ask = ask.ciaddr(ip(ciaddr));
    }
    if let Some(us) = step.names_us {
        ask = ask.server(if us { SERVER } else { ip(9) });
    }
    let pxe = b"PXEClient:Arch:00000:UNDI:002001";
    match step.program {
        1 => ask.with(code::VENDOR_CLASS, pxe).with(code::CLIENT_ARCH, &[0, 0]),
        2 => ask.with(code::VENDOR_CLASS, pxe).with(code::USER_CLASS, b"iPXE"),
        3 => ask.with(code::USER_CLASS, b"iPXE").with(code::IPXE, &[0x13, 1, 1]),
        4 => ask.with(code::USER_CLASS, b"iPXE").with(code::IPXE, &[0x18, 1, 1]),
        _ => ask,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// However clients behave: one address has one MAC and is of the subnet that was asked from, a
    /// running lease is never given to another, nor moved but to its owner's reservation or subnet, a reservation goes to its owner only, a reply answers its request, the journal
    /// tells the same story as the table, and iPXE with HTTP is never sent an iPXE.
    #[test]
    fn a_subnet_stays_in_order(steps in proptest::collection::vec(step(), 1..120)) {
        let mut server = server();
        let mut now = NOW;
        let mut journal = String::new();
        // The model: who was told "yours until then" last.
        let mut held: BTreeMap<Mac, (Ipv4Addr, u64)> = BTreeMap::new();
        let mut offered: BTreeMap<Mac, Ipv4Addr> = BTreeMap::new();
        for step in &steps {
            now += step.wait_secs;
            let who = mac(step.who);
            let request = ask(step, offered.get(&who).copied());
            let outcome = server.handle(now, &request.bytes());
            let (record, reply) = match outcome {
                Outcome::Reply(reply) => (reply.lease_change.clone(), Some(reply)),
                Outcome::Recorded(record) => (Some(record), None),
                Outcome::Ignored(_) => (None, None),
            };
            if let Some(record) = &record {
                journal += &record.to_line();
                if reply.is_none() {
                    held.remove(&who);
                }
            }
            let Some(reply) = reply else { continue };
            let (header, options) = wire::parse(&reply.bytes).unwrap();
            prop_assert_eq!((header.xid, header.chaddr), (0x1234_5678, who.0));
            prop_assert!(reply.bytes.len() >= wire::MIN_LEN);
            let given = match reply.summary.kind {
                ReplyKind::Offer(ip) => { offered.insert(who, ip); Some(ip) }
                ReplyKind::Ack(ip) => Some(ip),
                ReplyKind::Informed | ReplyKind::Nak(_) => None,
            };
            if let Some(given) = given {
                prop_assert_eq!(header.yiaddr, given);
                prop_assert_eq!(config().relayed[0].contains(given), step.relayed);
                // Its owner may get another one, after it declined its own.
                prop_assert!(given != ip(50) || who == mac(50));
                for (other, (address, until)) in &held {
                    prop_assert!(*until <= now || *address != given || *other == who);
                }
                if let Some((address, until)) = held.get(&who) {
                    let goes_home = who == mac(50) && given == ip(50);
                    let is_elsewhere = config().relayed[0].contains(*address) != step.relayed;
                    prop_assert!(
                        *until <= now || *address == given || goes_home || is_elsewhere,
                        "moved while valid"
                    );
                }
            }
            if let ReplyKind::Ack(ip) = reply.summary.kind {
                prop_assert!(record.is_some());
                held.insert(who, (ip, now + 3600));
            }
            if matches!(step.program, 2 | 3) && given.is_some() {
                let file = options.get(code::BOOT_FILE_NAME).unwrap();
                prop_assert!(file.ends_with(b".ipxe") && file.starts_with(b"http://"));
            }
        }
        prop_assert_eq!(&LeaseTable::replay(journal.as_bytes()).table, server.leases());
    }

    #[test]
    fn mangled_requests_are_survived(
        which in proptest::collection::vec(0..REQUESTS.len(), 1..8),
        hits in proptest::collection::vec((0usize..412, any::<u8>()), 0..20),
    ) {
        let mut server = server();
        for which in which {
            let mut bytes = fixture(REQUESTS[which]);
            for (at, value) in &hits {
                if let Some(byte) = bytes.get_mut(*at) {
                    *byte = *value;
                }
            }
            if let Outcome::Reply(reply) = server.handle(NOW, &bytes) {
                let (header, _) = wire::parse(&reply.bytes).unwrap();
                prop_assert_eq!(header.xid.to_be_bytes(), [bytes[4], bytes[5], bytes[6], bytes[7]]);
                prop_assert_eq!(&header.chaddr[..], &bytes[28..34]);
            }
        }
    }
}
