//! ProxyDHCP (PXE 2.1 section 2.2): tells machines what to boot beside a server that gives them
//! their addresses. It gives none, keeps nothing, and answers nobody who does not boot from the
//! network.
//!
//! ```text
//! machine                     address server            proxy
//!    │── DISCOVER, broadcast ──────>│────────────────────>│ port 67
//!    │<─ OFFER, an address ─────────│                     │
//!    │<─ OFFER, no address, the boot file ────────────────│
//!    │── REQUEST / ACK <───────────>│                     │
//!    │── REQUEST, only if the boot file is still unknown ─>│ port 4011
//!    │<─ ACK, the boot file ──────────────────────────────│
//! ```
//!
//! A machine asks on port 4011 if its boot file was not in an offer, above all when both servers
//! share a host: then only one of them has port 67, and its offer says `PXEClient` for the other.

use super::{
    boot::{
        BootFile, BootSettings, BootSettingsError, NoBootFile,
        options::{self, Teller},
    },
    packet::{MessageType, PacketError, Request},
    wire::{Header, Op, Writer, code},
};
use crate::mac::Mac;
use std::net::{Ipv4Addr, SocketAddrV4};

const OFFER: u8 = 2;
const ACK: u8 = 5;
/// Where DHCP clients listen.
const CLIENT_PORT: u16 = 68;
/// Where relays listen.
const RELAY_PORT: u16 = 67;

/// The port that a datagram came in on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// UDP 67, which broadcasts and relays go to.
    Dhcp,
    /// UDP 4011, for machines that have an address.
    Pxe,
}

/// What became of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Send this from the port that the datagram came in on.
    Reply(Reply),
    /// Nothing is to be done.
    Ignored(Ignored),
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// UDP payload, at least 300 bytes.
    pub bytes: Vec<u8>,
    /// Where to; 255.255.255.255 means the interface that the datagram came in on.
    pub destination: SocketAddrV4,
    /// The client.
    pub mac: Mac,
    /// Kind of reply.
    pub kind: ReplyKind,
    /// What it tells: never [`BootFile::None`].
    pub boot: BootFile,
}

/// Kind of reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// DHCPOFFER without an address.
    Offer,
    /// DHCPACK to a client with this address.
    Ack(Ipv4Addr),
}

/// Why a datagram was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Not a request.
    #[error("malformed request: {0}")]
    Malformed(PacketError),
    /// Does not boot, or we have no boot file for it.
    #[error("no boot file for it: {0}")]
    NoBootFile(NoBootFile),
    /// It talks to the address server.
    #[error("the client talks to server {0}")]
    OtherServer(Ipv4Addr),
    /// Nothing that a proxy has to do with: an address is taken, kept or given back.
    #[error("a message about an address")]
    AboutAddress,
}

/// The proxy.
#[derive(Debug)]
pub struct Proxy {
    server: Ipv4Addr,
    boot: BootSettings,
}

impl Proxy {
    /// `server` is our address, also the server identifier.
    ///
    /// # Errors
    /// Settings that do not fit into a reply.
    pub fn new(server: Ipv4Addr, boot: BootSettings) -> Result<Self, BootSettingsError> {
        boot.check()?;
        Ok(Self { server, boot })
    }

    /// Answers one datagram received from `from` on `port`.
    pub fn handle(&self, port: Port, from: SocketAddrV4, datagram: &[u8]) -> Outcome {
        let request = match Request::parse(datagram) {
            Ok(request) => request,
            Err(error) => return Outcome::Ignored(Ignored::Malformed(error)),
        };
        match self.answer(port, from, &request) {
            Ok(reply) => Outcome::Reply(reply),
            Err(reason) => Outcome::Ignored(reason),
        }
    }

    fn answer(&self, port: Port, from: SocketAddrV4, request: &Request) -> Result<Reply, Ignored> {
        let boot = match self.boot.choose(request) {
            BootFile::None(reason) => return Err(Ignored::NoBootFile(reason)),
            boot => boot,
        };
        let kind = self.kind(port, from, request)?;
        Ok(Reply {
            bytes: self.build(request, kind, &boot),
            destination: destination(port, from, request),
            mac: request.mac,
            kind,
            boot,
        })
    }

    /// On port 67 a REQUEST is the address server's unless it names us; on port 4011 it is ours,
    /// also without a server identifier, which PXE 2.1 does not ask for there.
    fn kind(
        &self,
        port: Port,
        from: SocketAddrV4,
        request: &Request,
    ) -> Result<ReplyKind, Ignored> {
        let client = if request.ciaddr.is_unspecified() { *from.ip() } else { request.ciaddr };
        match (port, request.message_type, request.server_id) {
            (Port::Dhcp, MessageType::Discover, _) => Ok(ReplyKind::Offer),
            (_, MessageType::Request | MessageType::Inform, Some(server))
                if server != self.server =>
            {
                Err(Ignored::OtherServer(server))
            }
            (Port::Dhcp, MessageType::Request, Some(_))
            | (Port::Pxe, MessageType::Request | MessageType::Inform, _) => {
                Ok(ReplyKind::Ack(client))
            }
            (Port::Dhcp, MessageType::Request | MessageType::Inform, _)
            | (Port::Pxe, MessageType::Discover, _)
            | (_, MessageType::Decline | MessageType::Release, _) => Err(Ignored::AboutAddress),
        }
    }

    fn build(&self, request: &Request, kind: ReplyKind, boot: &BootFile) -> Vec<u8> {
        let (message_type, ciaddr) = match kind {
            ReplyKind::Offer => (OFFER, Ipv4Addr::UNSPECIFIED),
            ReplyKind::Ack(_) => (ACK, request.ciaddr),
        };
        let mut header = Header {
            op: Op::Reply,
            hops: 0,
            xid: request.xid,
            secs: 0,
            broadcast: request.broadcast,
            ciaddr,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: request.giaddr,
            chaddr: request.mac.0,
            sname: Vec::new(),
            file: Vec::new(),
        };
        options::fill(&mut header, &self.boot, boot);
        let mut out = Writer::new(&header);
        out.put(code::MESSAGE_TYPE, &[message_type]);
        out.put_addresses(code::SERVER_ID, &[self.server]);
        options::put(&mut out, &self.boot, request, boot, Teller::Proxy);
        // RFC 3046 section 2.2: echoed, and last.
        if let Some(relay_info) = request.relay_info.as_ref().filter(|_| request.is_relayed()) {
            out.put(code::RELAY_INFO, relay_info);
        }
        out.finish()
    }
}

/// To the relay; to where it came from, if that is an address; else to everyone on the link, since
/// the client has no address yet.
fn destination(port: Port, from: SocketAddrV4, request: &Request) -> SocketAddrV4 {
    if request.is_relayed() {
        return SocketAddrV4::new(request.giaddr, RELAY_PORT);
    }
    match port {
        Port::Pxe if !from.ip().is_unspecified() => from,
        Port::Dhcp if !request.ciaddr.is_unspecified() => {
            SocketAddrV4::new(request.ciaddr, CLIENT_PORT)
        }
        Port::Pxe | Port::Dhcp => SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT),
    }
}

#[cfg(test)]
mod tests;
