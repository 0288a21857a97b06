//! IPv4 and UDP headers around a DHCP payload, for the agent's packet socket: before there is an
//! address, the kernel's UDP cannot send from 0.0.0.0 nor hear an answer.
//!
//! Packets begin at the IPv4 header; the socket (`AF_PACKET`, `SOCK_DGRAM`) does Ethernet.

use crate::checksum::{fold, sum};
use std::net::Ipv4Addr;

const IP_LEN: usize = 20;
const UDP_LEN: usize = 8;
const UDP: u8 = 17;
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Largest payload put into a packet: an Ethernet frame's, so that nothing is ever fragmented.
pub const MAX_PAYLOAD: usize = 1500 - IP_LEN - UDP_LEN;

/// Why a packet is not a DHCP answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A header or the payload is cut short, or its length is impossible.
    #[error("packet is cut short")]
    Truncated,
    /// Not IPv4 with UDP, or a fragment.
    #[error("not a whole IPv4 UDP packet")]
    NotUdp,
    /// Not to port 68.
    #[error("to port {0}, not 68")]
    OtherPort(u16),
    /// The check sum of the IPv4 header is wrong.
    #[error("wrong IPv4 header check sum")]
    HeaderChecksum,
    /// The UDP check sum is wrong.
    #[error("wrong UDP check sum")]
    UdpChecksum,
}

/// More than [`MAX_PAYLOAD`] bytes to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes do not fit into one packet")]
pub struct PayloadTooLong(pub usize);

/// The packet that broadcasts a DHCP payload, 0.0.0.0:68 to 255.255.255.255:67.
pub fn build(payload: &[u8]) -> Result<Vec<u8>, PayloadTooLong> {
    if payload.len() > MAX_PAYLOAD {
        return Err(PayloadTooLong(payload.len()));
    }
    let too_long = |_| PayloadTooLong(payload.len());
    let udp_len = u16::try_from(UDP_LEN + payload.len()).map_err(too_long)?;
    let total_len = u16::try_from(IP_LEN + UDP_LEN + payload.len()).map_err(too_long)?;
    let (from, to) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    let mut out = Vec::with_capacity(usize::from(total_len));
    // Version 4, five words, no service class; no identification, no fragments; 64 hops.
    out.extend([0x45, 0]);
    out.extend(total_len.to_be_bytes());
    out.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    out.extend(from.octets());
    out.extend(to.octets());
    let header_sum = !fold(sum(&out));
    out[10..12].copy_from_slice(&header_sum.to_be_bytes());
    out.extend(CLIENT_PORT.to_be_bytes());
    out.extend(SERVER_PORT.to_be_bytes());
    out.extend(udp_len.to_be_bytes());
    out.extend([0, 0]);
    out.extend(payload);
    // RFC 768: a sum of 0 is sent as ffff, 0 means there is none.
    let udp_sum = match !fold(pseudo_sum(from, to, udp_len) + sum(&out[IP_LEN..])) {
        0 => 0xffff,
        sum => sum,
    };
    out[IP_LEN + 6..IP_LEN + 8].copy_from_slice(&udp_sum.to_be_bytes());
    Ok(out)
}

/// The DHCP payload of a received packet. Bytes behind the IPv4 length (Ethernet padding) are cut.
///
/// The UDP check sum may be absent (0), right, or the sum of the pseudo header alone: that is what
/// Linux leaves in the packet when it expects the network card to finish the sum, and over veth,
/// bridges and virtio no card ever does. A packet socket sees it so.
pub fn parse(packet: &[u8]) -> Result<&[u8], FrameError> {
    let [first, _, len_hi, len_lo, ..] = *packet else { return Err(FrameError::Truncated) };
    if first >> 4 != 4 {
        return Err(FrameError::NotUdp);
    }
    let header_len = usize::from(first & 15) * 4;
    let total_len = usize::from(u16::from_be_bytes([len_hi, len_lo]));
    if header_len < IP_LEN || total_len < header_len + UDP_LEN || packet.len() < total_len {
        return Err(FrameError::Truncated);
    }
    let (header, udp) = packet[..total_len].split_at(header_len);
    // More fragments (0x2000) or an offset: DHCP answers are never that long.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if header[9] != UDP || fragment != 0 {
        return Err(FrameError::NotUdp);
    }
    if fold(sum(header)) != 0xffff {
        return Err(FrameError::HeaderChecksum);
    }
    let word = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let (port, udp_len, udp_sum) = (word(2), word(4), word(6));
    if port != CLIENT_PORT {
        return Err(FrameError::OtherPort(port));
    }
    let Some(datagram) = udp.get(..usize::from(udp_len)).filter(|it| it.len() >= UDP_LEN) else {
        return Err(FrameError::Truncated);
    };
    let address =
        |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let pseudo = pseudo_sum(address(12), address(16), udp_len);
    let is_whole = fold(pseudo + sum(datagram)) == 0xffff;
    if udp_sum != 0 && udp_sum != fold(pseudo) && !is_whole {
        return Err(FrameError::UdpChecksum);
    }
    Ok(&datagram[UDP_LEN..])
}

fn pseudo_sum(from: Ipv4Addr, to: Ipv4Addr, udp_len: u16) -> u64 {
    sum(&from.octets()) + sum(&to.octets()) + u64::from(UDP) + u64::from(udp_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::testing::fixture;
    use proptest::prelude::*;

    #[test]
    fn builds_what_udhcpc_sent() {
        let theirs = fixture("udhcpc-discover-frame");
        let ours = build(&fixture("udhcpc-discover")).unwrap();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn reads_an_answer_with_its_check_sum_left_to_the_card() {
        let packet = fixture("veth-offer-frame");
        let payload = parse(&packet).unwrap();
        assert_eq!(payload.len(), 300);
        assert_eq!(payload[0], 2);
        let mut damaged = packet.clone();
        damaged[26] ^= 1;
        assert_eq!(parse(&damaged), Err(FrameError::UdpChecksum));
    }

    /// Our own packet turned round, as a server would send it.
    fn answer(payload: &[u8]) -> Vec<u8> {
        let mut packet = build(payload).unwrap();
        packet.swap(21, 23);
        packet
    }

    #[test]
    fn damage_is_told_apart() {
        let good = answer(b"abc");
        assert_eq!(parse(&good), Ok(&b"abc"[..]));
        let padded = [&good[..], &[0; 30]].concat();
        assert_eq!(parse(&padded), Ok(&b"abc"[..]));
        let with = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet[at] = value;
            parse(&packet).unwrap_err()
        };
        assert_eq!(with(0, 0x65), FrameError::NotUdp);
        assert_eq!(with(0, 0x44), FrameError::Truncated);
        assert_eq!(with(3, 255), FrameError::Truncated);
        assert_eq!(with(6, 0x20), FrameError::NotUdp);
        assert_eq!(with(8, 63), FrameError::HeaderChecksum);
        assert_eq!(with(9, 6), FrameError::NotUdp);
        assert_eq!(with(23, 69), FrameError::OtherPort(69));
        assert_eq!(with(25, 7), FrameError::Truncated);
        assert_eq!(with(25, 12), FrameError::Truncated);
        assert_eq!(with(28, b'x'), FrameError::UdpChecksum);
        assert_eq!(parse(&build(b"abc").unwrap()), Err(FrameError::OtherPort(67)));
        assert_eq!(build(&[0; MAX_PAYLOAD + 1]), Err(PayloadTooLong(MAX_PAYLOAD + 1)));
    }

    proptest! {
        #[test]
        fn any_payload_comes_back(payload in proptest::collection::vec(any::<u8>(), 0..=MAX_PAYLOAD)) {
            let packet = answer(&payload);
            prop_assert_eq!(parse(&packet).unwrap(), &payload[..]);
        }

        #[test]
        fn junk_is_survived(packet in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&packet);
        }

        #[test]
        fn mangled_packets_are_survived(at in 0usize..60, value: u8, cut in 0usize..60) {
            let mut packet = answer(&[7; 32]);
            packet[at] = value;
            packet.truncate(cut);
            let _ = parse(&packet);
        }
    }
}
