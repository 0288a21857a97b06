//! Tells a machine that boots through iPXE that there is no IPv6 router, so that it does not wait
//! 16 s for one; see `metalcast_netboot::ndp`, which decides who is told.
//!
//! A packet socket below the kernel's IPv6: the sender's hardware address is then the frame's own,
//! and the answer needs neither an IPv6 address of this host nor a neighbour entry for the machine.
//! Whatever fails here costs those 16 s and nothing else, so the controller goes on without.

use anyhow::{Context, bail};
use metalcast_netboot::{
    mac::is_station,
    ndp::{
        ALL_ROUTERS, ETHERTYPE, ICMP_TYPE_AT, ICMPV6, NEXT_HEADER_AT, ROUTER_SOLICITATION, Router,
        Solicitation, SolicitationError, advertisement, link_local, responder::Responder,
    },
};
use metalcast_shared::id::Mac;
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{LinkAddr, bind},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::{io, net::Ipv6Addr, os::fd::AsRawFd, time::Instant};
use tokio::{net::UdpSocket, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// Machines whose ACK was not yet taken note of.
const QUEUE_MACHINES: usize = 256;
/// A larger frame than Ethernet's 1514 bytes is cut off and then refused for its length.
const MAX_FRAME: usize = 2048;
/// `ARPHRD_ETHER` of linux/if_arp.h: other kinds of network have other headers.
const ETHERNET: u16 = 1;

/// The DHCP server's end: which machines got a boot script.
pub struct Scripts(mpsc::Sender<Mac>);

/// The answering end.
pub struct Given(mpsc::Receiver<Mac>);

/// Connects the two.
pub fn queue() -> (Scripts, Given) {
    let (sender, receiver) = mpsc::channel(QUEUE_MACHINES);
    (Scripts(sender), Given(receiver))
}

impl Scripts {
    /// An ACK with a boot script went to this machine. Does not wait: if nobody listens, or the
    /// queue is full, the machine boots 16 s later.
    pub fn given(&self, mac: Mac) {
        if let Err(mpsc::error::TrySendError::Full(mac)) = self.0.try_send(mac) {
            tracing::debug!(%mac, "too many machines boot at once: this one waits for a router");
        }
    }
}

/// The answering service with its socket bound.
pub struct Driver {
    interface: String,
    socket: UdpSocket,
    /// Holds the membership in the group that solicitations are sent to.
    _group: Option<Socket>,
    given: Given,
    responder: Responder,
}

impl Driver {
    /// Opens the socket; `None`, and a warning why, if that cannot be done.
    pub fn bind_or_warn(interface: &str, given: Given) -> Option<Self> {
        match Self::bind(interface, given) {
            Ok(driver) => Some(driver),
            Err(error) => {
                tracing::warn!(
                    interface,
                    "router solicitations are not answered, so that boots through iPXE take 16 s \
                     longer (boot.answer_router_solicitations = false silences this): {error:#}"
                );
                None
            }
        }
    }

    fn bind(interface: &str, given: Given) -> anyhow::Result<Self> {
        let link = link_of(interface)?;
        let socket = packet_socket(&link)
            .context("opening a packet socket on the interface (it needs root or CAP_NET_RAW)")?;
        let group = match join(&link) {
            Ok(group) => Some(group),
            Err(error) => {
                tracing::warn!(
                    interface,
                    "joining {ALL_ROUTERS} failed ({error}; is IPv6 off, ipv6.disable=1?): the \
                     network card may keep router solicitations from us, and boots through iPXE \
                     then take 16 s longer"
                );
                None
            }
        };
        let interface = interface.to_owned();
        Ok(Self { interface, socket, _group: group, given, responder: Responder::default() })
    }

    /// Answers until `shutdown`, or until the DHCP server is gone.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut buffer = [0; MAX_FRAME];
        loop {
            let answered = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                given = self.given.0.recv() => match given {
                    Some(mac) => self.responder.script_given(Instant::now(), mac),
                    None => return Ok(()),
                },
                received = self.socket.recv(&mut buffer) => match received {
                    Ok(bytes) => asked(&mut self.responder, &buffer[..bytes]),
                    // The interface went down: told once, and heard again when it is back.
                    Err(error) => {
                        tracing::debug!("socket for router solicitations: {error}");
                        None
                    }
                },
            };
            if let Some(to) = answered {
                self.answer(to).await;
            }
        }
    }

    async fn answer(&self, to: Solicitation) {
        let sent = async {
            let router = router_of(&self.interface)?;
            self.socket.send(&advertisement(router, to)).await.context("sending")
        };
        let mac = to.mac;
        match sent.await {
            Ok(_) => tracing::debug!(%mac, "told that there is no IPv6 router"),
            Err(error) => tracing::warn!(%mac, "router solicitation not answered: {error:#}"),
        }
    }
}

/// The solicitation in a frame, if it is to be answered now.
fn asked(responder: &mut Responder, frame: &[u8]) -> Option<Solicitation> {
    match Solicitation::parse(frame) {
        Ok(asked) => responder.solicited(Instant::now(), asked).then_some(asked),
        Err(SolicitationError::OtherPacket) => None,
        Err(error) => {
            tracing::debug!("router solicitation refused: {error}");
            None
        }
    }
}

/// A socket for the whole frames of this interface. It cannot be bound before it has its protocol,
/// so for a moment it may hear another interface; that does not matter, because nobody was given a
/// script yet and answers leave by this interface alone.
///
/// Tokio has no type for such sockets; on its UDP socket recv(2) and send(2) mean the same.
fn packet_socket(link: &LinkAddr) -> io::Result<UdpSocket> {
    let protocol = Protocol::from(i32::from(ETHERTYPE.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    socket.attach_filter(&solicitations_only())?;
    // The protocol of an interface's own address is 0: bind(2) leaves the socket's as it is.
    bind(socket.as_raw_fd(), link)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// Classic BPF (networking/filter.rst): next header ICMPv6, type Router Solicitation. The socket
/// costs nothing while other IPv6 goes by.
fn solicitations_only() -> [SockFilter; 6] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let op = |code, skip_if_not, k| SockFilter::new(code, 0, skip_if_not, k);
    [
        op(LOAD_BYTE, 0, NEXT_HEADER_AT as u32),
        op(JUMP_IF_EQUAL, 3, u32::from(ICMPV6)),
        op(LOAD_BYTE, 0, ICMP_TYPE_AT as u32),
        op(JUMP_IF_EQUAL, 1, u32::from(ROUTER_SOLICITATION)),
        op(RETURN, 0, u32::MAX),
        op(RETURN, 0, 0),
    ]
}

/// Makes the network card, and switches that watch memberships, pass the group's packets on. The
/// membership lasts as long as the socket.
fn join(link: &LinkAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    let index = u32::try_from(link.ifindex()).map_err(io::Error::other)?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    Ok(socket)
}

/// Number and hardware address of an Ethernet interface.
fn link_of(interface: &str) -> anyhow::Result<LinkAddr> {
    let link = getifaddrs()
        .context("listing the interfaces")?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .context("the interface is gone")?;
    if link.hatype() != ETHERNET || link.halen() != 6 {
        bail!("it is no Ethernet interface (type {})", link.hatype());
    }
    Ok(link)
}

/// Who we are at the moment: addresses come and go while the controller runs.
fn router_of(interface: &str) -> anyhow::Result<Router> {
    let mac = link_of(interface)?.addr().map(Mac).filter(|mac| is_station(*mac));
    let mac = mac.context("the interface has no hardware address")?;
    let address = getifaddrs()
        .context("listing the addresses")?
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| Some(entry.address?.as_sockaddr_in6()?.ip()))
        .find(Ipv6Addr::is_unicast_link_local)
        .unwrap_or_else(|| link_local(mac));
    Ok(Router { mac, address })
}
