//! The bytes of a reply.

use super::{Config, Destination, ReplyKind, Subnet};
use crate::dhcp::{
    boot::{
        BootFile,
        options::{self, Teller},
    },
    packet::Request,
    wire::{Header, Op, Writer, code},
};
use std::net::Ipv4Addr;

const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// What may be left out where the client's buffer is small.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Everything,
    Essentials,
}

pub(super) fn destination(request: &Request, kind: ReplyKind) -> Destination {
    if request.is_relayed() {
        Destination::Relay(request.giaddr)
    } else if request.ciaddr.is_unspecified() || matches!(kind, ReplyKind::Nak(_)) {
        Destination::Broadcast
    } else {
        Destination::Client(request.ciaddr)
    }
}

pub(super) fn build(
    config: &Config,
    subnet: &Subnet,
    request: &Request,
    kind: ReplyKind,
    boot: &BootFile,
) -> Vec<u8> {
    let bytes = write(config, subnet, request, kind, boot, Extent::Everything);
    if bytes.len() <= request.max_reply_len {
        return bytes;
    }
    write(config, subnet, request, kind, boot, Extent::Essentials)
}

fn write(
    config: &Config,
    subnet: &Subnet,
    request: &Request,
    kind: ReplyKind,
    boot: &BootFile,
    extent: Extent,
) -> Vec<u8> {
    let mut out = Writer::new(&header(config, request, kind, boot));
    let message_type = match kind {
        ReplyKind::Offer(_) => OFFER,
        ReplyKind::Ack(_) | ReplyKind::Informed => ACK,
        ReplyKind::Nak(_) => NAK,
    };
    out.put(code::MESSAGE_TYPE, &[message_type]);
    out.put_addresses(code::SERVER_ID, &[config.server_id(request)]);
    match kind {
        ReplyKind::Nak(reason) => {
            out.put(code::MESSAGE_TEXT, reason.to_string().as_bytes());
        }
        ReplyKind::Offer(_) | ReplyKind::Ack(_) => {
            let secs = config.lease_secs;
            out.put_number(code::LEASE_SECONDS, secs);
            out.put_number(code::RENEWAL_SECONDS, secs / 2);
            // RFC 2131 section 4.4.5: T2 is 7/8 of the lease.
            out.put_number(code::REBINDING_SECONDS, secs - secs / 8);
            put_network(&mut out, config, subnet, request, extent);
            options::put(&mut out, &config.boot, request, boot, Teller::Server);
        }
        ReplyKind::Informed => {
            put_network(&mut out, config, subnet, request, extent);
            options::put(&mut out, &config.boot, request, boot, Teller::Server);
        }
    }
    if let Some(link) = request.subnet_selection.filter(|_| request.is_relayed()) {
        out.put_addresses(code::SUBNET_SELECTION, &[link]);
    }
    // RFC 3046 section 2.2: echoed, and last.
    if let Some(relay_info) = request.relay_info.as_ref().filter(|_| request.is_relayed()) {
        out.put(code::RELAY_INFO, relay_info);
    }
    out.finish()
}

fn header(config: &Config, request: &Request, kind: ReplyKind, boot: &BootFile) -> Header {
    let is_nak = matches!(kind, ReplyKind::Nak(_));
    let mut header = Header {
        op: Op::Reply,
        hops: 0,
        xid: request.xid,
        secs: 0,
        // RFC 2131 section 4.3.2: a NAK through a relay must reach a client that has no address.
        broadcast: request.broadcast || (is_nak && request.is_relayed()),
        ciaddr: match kind {
            ReplyKind::Ack(_) | ReplyKind::Informed => request.ciaddr,
            ReplyKind::Offer(_) | ReplyKind::Nak(_) => Ipv4Addr::UNSPECIFIED,
        },
        yiaddr: match kind {
            ReplyKind::Offer(ip) | ReplyKind::Ack(ip) => ip,
            ReplyKind::Informed | ReplyKind::Nak(_) => Ipv4Addr::UNSPECIFIED,
        },
        siaddr: Ipv4Addr::UNSPECIFIED,
        giaddr: request.giaddr,
        chaddr: request.mac.0,
        sname: Vec::new(),
        file: Vec::new(),
    };
    if !is_nak {
        options::fill(&mut header, &config.boot, boot);
    }
    header
}

fn put_network(
    out: &mut Writer,
    config: &Config,
    subnet: &Subnet,
    request: &Request,
    extent: Extent,
) {
    out.put_addresses(code::SUBNET_MASK, &[subnet.mask()]);
    out.put_addresses(code::ROUTER, subnet.router.as_slice());
    if extent == Extent::Essentials {
        return;
    }
    out.put_addresses(code::DNS, &config.dns);
    let reserved = config.reservations.get(&request.mac);
    if let Some(hostname) = reserved.and_then(|it| it.hostname.as_ref()) {
        out.put(code::HOST_NAME, hostname.as_bytes());
    }
    if let Some(domain) = &config.domain {
        out.put(code::DOMAIN_NAME, domain.as_bytes());
    }
    out.put_addresses(code::BROADCAST_ADDRESS, &[subnet.broadcast()]);
}
