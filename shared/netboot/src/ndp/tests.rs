use super::*;
use crate::dhcp::testing::{fixture, mac};
use proptest::prelude::*;

const IPXE: &str = "ipxe-rom-virtio-solicitation-frame";
const LINUX: &str = "linux-solicitation-frame";
/// Beginning of the options in a frame.
const OPTIONS_AT: usize = ICMP_TYPE_AT + ROUTER_SOLICITATION_LEN;

fn ipxe() -> Vec<u8> {
    fixture(IPXE)
}

/// A changed frame with its check sum made right again, so that another check has to object.
fn mended(mut frame: Vec<u8>) -> Vec<u8> {
    let ip: [u8; IPV6_LEN] = *frame[ETHERNET_LEN..].first_chunk().unwrap();
    let end = ICMP_TYPE_AT + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    frame[ICMP_TYPE_AT + 2..][..2].fill(0);
    let sum = checksum(address(&ip, 8), address(&ip, 24), &frame[ICMP_TYPE_AT..end]);
    frame[ICMP_TYPE_AT + 2..][..2].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// iPXE's frame with other options.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut frame = ipxe();
    frame.truncate(OPTIONS_AT);
    frame.extend(options);
    let len = (ROUTER_SOLICITATION_LEN + options.len()) as u16;
    frame[ETHERNET_LEN + 4..][..2].copy_from_slice(&len.to_be_bytes());
    mended(frame)
}

#[test]
fn captured_solicitations_are_read() {
    let asked = Solicitation::parse(&ipxe()).unwrap();
    let source: Ipv6Addr = "fe80::5054:ff:fe77:5".parse().unwrap();
    assert_eq!(asked, Solicitation { mac: mac(5), source });
    assert_eq!(link_local(mac(5)), source);

    let asked = Solicitation::parse(&fixture(LINUX)).unwrap();
    assert_eq!(asked.mac, "86:8e:c9:0f:36:17".parse().unwrap());
    assert_eq!(asked.source, link_local(asked.mac));
}

/// The sum was worked out apart from this crate; in the controller's tests the Linux kernel checks it.
#[test]
fn the_advertisement_is_byte_for_byte_this() {
    let router = Router { mac: mac(1), address: "fe80::1".parse().unwrap() };
    let frame = advertisement(router, Solicitation::parse(&ipxe()).unwrap());
    let expected = [
        "525400770005525400770001",         // to the machine, from us
        "86dd60000000",                     // IPv6
        "00103aff",                         // 16 bytes, ICMPv6, 255 hops
        "fe800000000000000000000000000001", // our link-local address
        "fe80000000000000505400fffe770005", // the machine's
        "86002ce2",                         // Router Advertisement, code 0, check sum
        "00000000",                         // hop limit, flags, router lifetime
        "0000000000000000",                 // reachable time, retransmission timer
    ];
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected.concat());
}

#[test]
fn damage_and_other_packets_are_told_apart() {
    use SolicitationError::{Checksum, NoAddress, NotOfTheLink, OtherPacket, Sender, Truncated};
    let with = |at: usize, value: u8| {
        let mut frame = ipxe();
        frame[at] = value;
        Solicitation::parse(&frame).unwrap_err()
    };
    let and_mended = |at: usize, value: u8| {
        let mut frame = ipxe();
        frame[at] = value;
        Solicitation::parse(&mended(frame)).unwrap_err()
    };
    assert_eq!(with(12, 0x08), OtherPacket);
    assert_eq!(with(14, 0x45), OtherPacket);
    // A hop-by-hop header before ICMPv6.
    assert_eq!(with(NEXT_HEADER_AT, 0), OtherPacket);
    assert_eq!(with(ICMP_TYPE_AT, ROUTER_ADVERTISEMENT), OtherPacket);
    // To ff02::1, all nodes.
    assert_eq!(and_mended(ETHERNET_LEN + 39, 1), OtherPacket);
    assert_eq!(with(19, 17), Truncated);
    assert_eq!(with(19, 7), Truncated);
    assert_eq!(with(18, 0xff), Truncated);
    assert_eq!(with(21, 64), NotOfTheLink { hop_limit: 64, code: 0 });
    assert_eq!(with(ICMP_TYPE_AT + 1, 3), NotOfTheLink { hop_limit: 255, code: 3 });
    for at in [22, 37, ICMP_TYPE_AT + 2, ICMP_TYPE_AT + 3, ICMP_TYPE_AT + 5, OPTIONS_AT + 7] {
        assert_eq!(with(at, 0x99), Checksum, "byte {at}");
    }
    let Err(NoAddress(_)) = Solicitation::parse(&mended({
        let mut frame = ipxe();
        frame[22..38].fill(0);
        frame
    })) else {
        panic!("an unspecified sender")
    };
    assert!(matches!(and_mended(22, 0x20), NoAddress(_)));
    // The frame's sender is not the one in the option; a group address.
    assert_eq!(with(11, 6), Sender { ethernet: mac(6) });
    assert!(matches!(and_mended(6, 0x53), Sender { .. }));
    assert_eq!(Solicitation::parse(&[]), Err(Truncated));
}

#[test]
fn options_are_walked_with_care() {
    use SolicitationError::{Sender, Truncated};
    let named = |last| [1, 1, 0x52, 0x54, 0, 0x77, 0, last];
    let parse = |options: &[u8]| Solicitation::parse(&with_options(options)).map(|it| it.mac);
    assert_eq!(parse(&[]), Ok(mac(5)), "it may be left out");
    assert_eq!(parse(&named(5)), Ok(mac(5)));
    assert_eq!(parse(&named(6)), Err(Sender { ethernet: mac(5) }));
    let unknown = [200, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
    assert_eq!(parse(&[&unknown[..], &named(5)].concat()), Ok(mac(5)));
    assert_eq!(parse(&[&unknown[..], &named(6)].concat()), Err(Sender { ethernet: mac(5) }));
    assert_eq!(parse(&[&named(5)[..], &[14, 0, 0, 0, 0, 0, 0, 0]].concat()), Err(Truncated));
    assert_eq!(parse(&[14, 255, 0, 0, 0, 0, 0, 0]), Err(Truncated));
    for len in 1..8 {
        assert_eq!(parse(&named(5)[..len]), Err(Truncated), "{len} bytes");
        assert_eq!(parse(&[&named(5)[..], &[1; 8][..len]].concat()), Err(Truncated), "{len}");
    }
    let padded = [ipxe(), vec![0xaa; 30]].concat();
    assert_eq!(Solicitation::parse(&padded).unwrap().mac, mac(5));
}

proptest! {
    #[test]
    fn junk_is_survived(frame in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = Solicitation::parse(&frame);
    }

    #[test]
    fn mangled_frames_are_survived(at in 0usize..70, value: u8, cut in 0usize..=70) {
        let mut frame = ipxe();
        frame[at] = value;
        let _ = Solicitation::parse(&frame[..cut]);
        if at != 18 && at != 19 {
            let _ = Solicitation::parse(&mended(frame));
        }
    }

    /// With a right check sum the options themselves are reached.
    #[test]
    fn hostile_options_are_survived(options in proptest::collection::vec(any::<u8>(), 0..200)) {
        let got = Solicitation::parse(&with_options(&options));
        prop_assert!(got.is_err() || options.len() % OPTION_UNIT == 0);
    }

    #[test]
    fn every_flipped_bit_of_a_message_is_noticed(at in 22usize..70, bit in 0u8..8) {
        let mut frame = ipxe();
        frame[at] ^= 1 << bit;
        prop_assert!(Solicitation::parse(&frame).is_err());
    }

    #[test]
    fn advertisements_add_up(ours: [u8; 6], theirs: [u8; 6]) {
        let router = Router { mac: Mac(ours), address: link_local(Mac(ours)) };
        let to = Solicitation { mac: Mac(theirs), source: link_local(Mac(theirs)) };
        let frame = advertisement(router, to);
        prop_assert_eq!(&frame[..6], &theirs[..]);
        prop_assert_eq!(checksum(router.address, to.source, &frame[ICMP_TYPE_AT..]), 0);
    }
}
