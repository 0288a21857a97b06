//! IPv6 router discovery (RFC 4861), as far as a booting machine waits for it.
//!
//! iPXE configures IPv6 beside DHCP and does not go on before a router has answered or six
//! solicitations over 16 s have not been. Telling it that there is no router ends that wait:
//!
//! ```text
//! machine ── Router Solicitation to ff02::2 ──────────────────────> [`Solicitation::parse`]
//! machine <── Router Advertisement, router lifetime 0, unicast ── [`advertisement`]
//! ```
//!
//! [`responder::Responder`] says who is answered. Nothing here advertises a prefix, a route or
//! a server: with this module nobody gets an IPv6 address. Frames are whole Ethernet frames.

pub mod responder;
#[cfg(test)]
mod tests;

use crate::checksum::{fold, sum};
use crate::mac::{Mac, is_station};
use std::net::Ipv6Addr;

/// The group that solicitations are sent to (RFC 4291 section 2.7.1).
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// IPv6 in an Ethernet header (RFC 2464 section 3).
pub const ETHERTYPE: u16 = 0x86dd;
/// ICMPv6 in an IPv6 header (RFC 4443 section 1).
pub const ICMPV6: u8 = 58;
/// ICMPv6 type of a Router Solicitation (RFC 4861 section 4.1).
pub const ROUTER_SOLICITATION: u8 = 133;
/// Where an IPv6 header has its next header, from the frame's beginning.
pub const NEXT_HEADER_AT: usize = ETHERNET_LEN + 6;
/// Where the ICMPv6 type lies, from the frame's beginning.
pub const ICMP_TYPE_AT: usize = ETHERNET_LEN + IPV6_LEN;
/// Bytes of an advertisement's frame. Ethernet pads nothing: its least is 60.
pub const ADVERTISEMENT_LEN: usize = ETHERNET_LEN + IPV6_LEN + ROUTER_ADVERTISEMENT_LEN;

const ETHERNET_LEN: usize = 14;
const IPV6_LEN: usize = 40;
/// RFC 4861 section 4.1 without options.
const ROUTER_SOLICITATION_LEN: usize = 8;
/// RFC 4861 section 4.2 without options.
const ROUTER_ADVERTISEMENT_LEN: usize = 16;
const ROUTER_ADVERTISEMENT: u8 = 134;
/// No router forwards such a packet, so it was sent on this link (RFC 4861 section 3.1).
const HOP_LIMIT: u8 = 255;
/// RFC 4861 section 4.6.1.
const SOURCE_LINK_LAYER: u8 = 1;
/// Option lengths are in units of this many bytes (RFC 4861 section 4.6).
const OPTION_UNIT: usize = 8;

/// A machine asks for routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicitation {
    /// The sender of the Ethernet frame.
    pub mac: Mac,
    /// The sender of the packet, a link-local address.
    pub source: Ipv6Addr,
}

/// Who advertises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Router {
    /// Address of our network card.
    pub mac: Mac,
    /// Our link-local address: others are not believed (RFC 4861 section 6.1.2).
    pub address: Ipv6Addr,
}

/// Why a frame is not a solicitation that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SolicitationError {
    /// A header, the message or an option is cut short, or its length is impossible.
    #[error("frame is cut short")]
    Truncated,
    /// Not ICMPv6 directly behind an IPv6 header, or not to all routers, or of another type.
    #[error("not a router solicitation")]
    OtherPacket,
    /// From beyond the link, or with a code.
    #[error("hop limit {hop_limit} and code {code} instead of 255 and 0")]
    NotOfTheLink {
        /// Of the IPv6 header.
        hop_limit: u8,
        /// Of the ICMPv6 header.
        code: u8,
    },
    /// The check sum is wrong.
    #[error("wrong check sum")]
    Checksum,
    /// The sender has no address of the link yet, so that only a multicast could reach it.
    #[error("sender {0} is no link-local address")]
    NoAddress(Ipv6Addr),
    /// The Ethernet header and the option name different senders, or none that can be.
    #[error("sent by {ethernet}, which is not the sender that it names or no station")]
    Sender {
        /// Sender in the Ethernet header.
        ethernet: Mac,
    },
}

impl Solicitation {
    /// Reads an Ethernet frame, with the checks of RFC 4861 section 6.1.1 and two of ours: the
    /// sender has a link-local address, and a link-layer address in an option is the frame's.
    ///
    /// # Errors
    /// What it is instead.
    pub fn parse(frame: &[u8]) -> Result<Self, SolicitationError> {
        use SolicitationError::{
            Checksum, NoAddress, NotOfTheLink, OtherPacket, Sender, Truncated,
        };
        let (ethernet, packet) = frame.split_first_chunk::<ETHERNET_LEN>().ok_or(Truncated)?;
        let (ip, payload) = packet.split_first_chunk::<IPV6_LEN>().ok_or(Truncated)?;
        let is_ipv6 = ethernet[12..] == ETHERTYPE.to_be_bytes() && ip[0] >> 4 == 6;
        if !is_ipv6 || ip[6] != ICMPV6 || address(ip, 24) != ALL_ROUTERS {
            return Err(OtherPacket);
        }
        // What lies behind the packet's own length is Ethernet's padding.
        let len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        let message = payload.get(..len).ok_or(Truncated)?;
        let (icmp, options) =
            message.split_first_chunk::<ROUTER_SOLICITATION_LEN>().ok_or(Truncated)?;
        if icmp[0] != ROUTER_SOLICITATION {
            return Err(OtherPacket);
        }
        let (hop_limit, code) = (ip[7], icmp[1]);
        if (hop_limit, code) != (HOP_LIMIT, 0) {
            return Err(NotOfTheLink { hop_limit, code });
        }
        let source = address(ip, 8);
        if checksum(source, ALL_ROUTERS, message) != 0 {
            return Err(Checksum);
        }
        if !source.is_unicast_link_local() {
            return Err(NoAddress(source));
        }
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *ethernet;
        let mac = Mac([a, b, c, d, e, f]);
        let named = source_link_layer(options)?;
        if !is_station(mac) || named.is_some_and(|named| named != mac) {
            return Err(Sender { ethernet: mac });
        }
        Ok(Self { mac, source })
    }
}

/// The frame that tells the solicitor, and only it, that `router` is no default router. It has
/// no options: neither a prefix nor anything else follows from it.
pub fn advertisement(router: Router, to: Solicitation) -> [u8; ADVERTISEMENT_LEN] {
    // Type; then code, current hop limit, the M and O flags, router lifetime, reachable time and
    // retransmission timer, all of them 0: "unspecified", or "no default router" for the lifetime.
    let mut icmp = [0; ROUTER_ADVERTISEMENT_LEN];
    icmp[0] = ROUTER_ADVERTISEMENT;
    let sum = checksum(router.address, to.source, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = [0; ADVERTISEMENT_LEN];
    let (ethernet, packet) = frame.split_at_mut(ETHERNET_LEN);
    ethernet[..6].copy_from_slice(&to.mac.0);
    ethernet[6..12].copy_from_slice(&router.mac.0);
    ethernet[12..].copy_from_slice(&ETHERTYPE.to_be_bytes());
    packet[0] = 6 << 4;
    packet[4..6].copy_from_slice(&(ROUTER_ADVERTISEMENT_LEN as u16).to_be_bytes());
    packet[6] = ICMPV6;
    packet[7] = HOP_LIMIT;
    packet[8..24].copy_from_slice(&router.address.octets());
    packet[24..40].copy_from_slice(&to.source.octets());
    packet[IPV6_LEN..].copy_from_slice(&icmp);
    frame
}

/// The link-local address that a network card has by its hardware address alone (RFC 4291
/// appendix A): what to advertise from when the interface has no address.
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The sender that the options name, the first if there are several. Unknown options are passed
/// over (RFC 4861 section 4.1).
fn source_link_layer(mut options: &[u8]) -> Result<Option<Mac>, SolicitationError> {
    let mut named = None;
    while let [kind, units, ..] = *options {
        let len = usize::from(units) * OPTION_UNIT;
        let Some((option, rest)) = options.split_at_checked(len).filter(|_| len > 0) else {
            return Err(SolicitationError::Truncated);
        };
        // Of other lengths it is for other networks than Ethernet (RFC 2464 section 6).
        if let (SOURCE_LINK_LAYER, [_, _, a, b, c, d, e, f]) = (kind, option) {
            named = named.or(Some(Mac([*a, *b, *c, *d, *e, *f])));
        }
        options = rest;
    }
    if options.is_empty() { Ok(named) } else { Err(SolicitationError::Truncated) }
}

fn address(ip: &[u8; IPV6_LEN], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&ip[at..at + 16]);
    octets.into()
}

/// RFC 4443 section 2.3: over the pseudo header of RFC 8200 section 8.1 and the message. What to
/// put into a message whose sum field is 0; 0 for a whole one.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let addresses = sum(&source.octets()) + sum(&destination.octets());
    !fold(addresses + sum(message) + message.len() as u64 + u64::from(ICMPV6))
}
