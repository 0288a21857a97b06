//! The authoritative DHCP server of its own subnet, and of those that relays speak for.
//!
//! `handle` takes a datagram and gives the reply and the change of the leases; the driver makes
//! the change durable *before* it sends the reply, and sends nothing if it cannot. One MAC has one
//! address, whatever client id its boot ROM, iPXE and operating system come with. The server does
//! not probe addresses: a client that finds one in use declines it, and it is set aside.

use super::{
    boot::{BootFile, BootSettings, BootSettingsError},
    lease::{Holder, LeaseRecord, LeaseTable},
    packet::{MessageType, PacketError, Request},
};
use crate::mac::Mac;
use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

mod pool;
mod reply;

use pool::Pool;

/// How long a DHCPOFFER keeps its address, in seconds. iPXE collects offers for up to 14 s.
const OFFER_HOLD_SECS: u64 = 60;
/// How long a declined address is set aside, in seconds.
const QUARANTINE_SECS: u64 = 600;
/// Most addresses in all ranges together, one /16: bounds every table here.
pub const MAX_RANGE: u32 = 65_536;
/// Most subnets that relays speak for.
pub const MAX_RELAYED: usize = 64;
/// Name servers told to clients; more would not fit the smallest reply.
pub const MAX_DNS: usize = 4;
/// Longest domain or host name told to clients.
const MAX_NAME_LEN: usize = 63;

/// An address that belongs to one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// In the subnet; inside or outside of the range.
    pub ip: Ipv4Addr,
    /// Told to the client in option 12; at most 63 bytes.
    pub hostname: Option<String>,
}

/// What is served, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Our address, also the server identifier.
    pub server: Ipv4Addr,
    /// The subnet that we are on.
    pub local: Subnet,
    /// Subnets that relays speak for, at most [`MAX_RELAYED`]. None overlaps another.
    pub relayed: Vec<Subnet>,
    /// Name servers, at most 4.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name, at most 63 bytes.
    pub domain: Option<String>,
    /// Length of a lease in seconds, at least 60.
    pub lease_secs: u32,
    /// What to boot.
    pub boot: BootSettings,
    /// Fixed addresses.
    pub reservations: BTreeMap<Mac, Reservation>,
}

/// One subnet: the one that the range lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// Length of its prefix, 8 to 30.
    pub prefix_len: u8,
    /// First address given out.
    pub range_first: Ipv4Addr,
    /// Last address given out.
    pub range_last: Ipv4Addr,
    /// Default gateway.
    pub router: Option<Ipv4Addr>,
}

/// What is wrong with a [`Config`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not 8 to 30.
    #[error("prefix length {0} is not 8 to 30")]
    Prefix(u8),
    /// An address outside of the subnet, or its network or broadcast address.
    #[error("{role} {ip} is not a host address of {network}/{prefix_len}")]
    NotInSubnet {
        /// Which setting.
        role: &'static str,
        /// Its value.
        ip: Ipv4Addr,
        /// The subnet.
        network: Ipv4Addr,
        /// The subnet's prefix length.
        prefix_len: u8,
    },
    /// Ends before it begins, or more than 65536 addresses.
    #[error("range {0} to {1} is empty or larger than 65536 addresses")]
    Range(Ipv4Addr, Ipv4Addr),
    /// Two subnets share addresses.
    #[error("the subnets of {0} and {1} overlap")]
    Overlap(Ipv4Addr, Ipv4Addr),
    /// More than the tables are made for.
    #[error(
        "more than {MAX_RELAYED} relayed subnets, or more than {MAX_RANGE} addresses in all ranges"
    )]
    TooMany,
    /// Two reservations for one address, or one for the server's or the router's.
    #[error("address {0} is reserved for {1} but is taken")]
    ReservedTwice(Ipv4Addr, Mac),
    /// Under a minute.
    #[error("lease time of {0} s is under 60 s")]
    LeaseTime(u32),
    /// Too many name servers, or a domain or host name that is empty, too long or not printable.
    #[error("at most 4 name servers and names of 1 to 63 printable characters fit into a reply")]
    Names,
    /// See the source.
    #[error(transparent)]
    Boot(#[from] BootSettingsError),
}

/// What became of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Send this.
    Reply(Reply),
    /// Only the leases changed (release, decline): journal it.
    Recorded(LeaseRecord),
    /// Nothing is to be done.
    Ignored(Ignored),
}

/// A datagram to send, and what to do before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// UDP payload, at least 300 bytes.
    pub bytes: Vec<u8>,
    /// Where to.
    pub destination: Destination,
    /// Journal and fsync this first.
    pub lease_change: Option<LeaseRecord>,
    /// What it says, for logs and the table of boots.
    pub summary: Summary,
}

/// The meaning of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The client.
    pub mac: Mac,
    /// Kind of reply.
    pub kind: ReplyKind,
    /// The boot file it was told, or why none.
    pub boot: BootFile,
}

/// Kind of reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// DHCPOFFER of an address.
    Offer(Ipv4Addr),
    /// DHCPACK of an address.
    Ack(Ipv4Addr),
    /// DHCPACK to a DHCPINFORM.
    Informed,
    /// DHCPNAK.
    Nak(NakReason),
}

/// Why a client must begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NakReason {
    /// The address is of another network.
    WrongNetwork,
    /// The address is someone else's, set aside, or not one we give.
    NotAvailable,
    /// The client has, or is to have, another address.
    OtherAddress(Ipv4Addr),
}

impl fmt::Display for NakReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongNetwork => f.write_str("address is of another network"),
            Self::NotAvailable => f.write_str("address is not available"),
            Self::OtherAddress(ip) => write!(f, "use {ip}"),
        }
    }
}

/// Where a reply goes. A client without an address gets a broadcast even if it did not ask for
/// one: unicast to an address it does not hold yet would need a raw socket, and every client
/// takes a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// UDP port 67 of the relay.
    Relay(Ipv4Addr),
    /// UDP port 68 of the client.
    Client(Ipv4Addr),
    /// 255.255.255.255 port 68 on the subnet's interface.
    Broadcast,
}

/// Why a datagram was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Not a request.
    #[error("malformed request: {0}")]
    Malformed(PacketError),
    /// Relayed from a network that is not ours.
    #[error("no subnet is configured for the relayed link of {0}")]
    OtherNetwork(Ipv4Addr),
    /// The client chose another server.
    #[error("client chose server {0}")]
    OtherServer(Ipv4Addr),
    /// No free address left.
    #[error("no free address left for {0}")]
    Exhausted(Mac),
    /// A request, release or decline without an address.
    #[error("no address in a message that needs one")]
    NoAddress,
    /// A release or decline of an address that is not the client's.
    #[error("{0} is not this client's address")]
    NotTheirs(Ipv4Addr),
}

/// How often what happened, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// DHCPOFFER sent.
    pub offers: u64,
    /// DHCPACK sent, to DHCPINFORM too.
    pub acks: u64,
    /// DHCPNAK sent.
    pub naks: u64,
    /// Addresses declined.
    pub declines: u64,
    /// Addresses released.
    pub releases: u64,
    /// Datagrams ignored, exhaustion included.
    pub ignored: u64,
    /// Clients turned away because the range is full.
    pub exhausted: u64,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    pool: Pool,
    counters: Counters,
}

impl Server {
    /// Begins with the leases of an earlier run; those that no longer fit the configuration are
    /// forgotten.
    pub fn new(config: Config, leases: LeaseTable) -> Result<Self, ConfigError> {
        check(&config)?;
        let pool = Pool::new(&config, leases);
        Ok(Self { config, pool, counters: Counters::default() })
    }

    /// Answers one datagram received on UDP port 67 at `now_unix` seconds.
    pub fn handle(&mut self, now_unix: u64, datagram: &[u8]) -> Outcome {
        let outcome = match Request::parse(datagram) {
            Ok(request) => self.answer(now_unix, &request),
            Err(error) => Outcome::Ignored(Ignored::Malformed(error)),
        };
        let counters = &mut self.counters;
        match &outcome {
            Outcome::Reply(reply) => match reply.summary.kind {
                ReplyKind::Offer(_) => counters.offers += 1,
                ReplyKind::Ack(_) | ReplyKind::Informed => counters.acks += 1,
                ReplyKind::Nak(_) => counters.naks += 1,
            },
            Outcome::Recorded(record) => match record.holder {
                Holder::Client { .. } => counters.releases += 1,
                Holder::Quarantine => counters.declines += 1,
            },
            Outcome::Ignored(reason) => {
                counters.ignored += 1;
                if matches!(reason, Ignored::Exhausted(_)) {
                    counters.exhausted += 1;
                }
            }
        }
        outcome
    }

    /// The leases, current and run out.
    pub fn leases(&self) -> &LeaseTable {
        self.pool.leases()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn answer(&mut self, now_unix: u64, request: &Request) -> Outcome {
        let Some(subnet) = self.config.subnet_of(request).cloned() else {
            return Outcome::Ignored(Ignored::OtherNetwork(
                request.link().unwrap_or(request.giaddr),
            ));
        };
        match request.message_type {
            MessageType::Discover => self.discover(now_unix, request, &subnet),
            MessageType::Request => self.request(now_unix, request, &subnet),
            MessageType::Decline => self.decline(now_unix, request),
            MessageType::Release => self.release(now_unix, request),
            MessageType::Inform => self.inform(request, &subnet),
        }
    }

    fn discover(&mut self, now_unix: u64, request: &Request, subnet: &Subnet) -> Outcome {
        let wanted = request.requested_ip;
        let Some(ip) = self.pool.address_for(request.mac, subnet, wanted, now_unix) else {
            return Outcome::Ignored(Ignored::Exhausted(request.mac));
        };
        self.pool.hold(request.mac, ip, now_unix + OFFER_HOLD_SECS);
        self.reply(request, subnet, ReplyKind::Offer(ip), None)
    }

    /// RFC 2131 section 4.3.2: with a server id the client takes an offer (SELECTING), with option
    /// 50 alone it comes back after a reboot (INIT-REBOOT), with `ciaddr` it renews or rebinds. As
    /// the only server of the subnet we also confirm a free address that we do not remember.
    fn request(&mut self, now_unix: u64, request: &Request, subnet: &Subnet) -> Outcome {
        if let Some(server) = request.server_id
            && server != self.config.server_id(request)
        {
            self.pool.drop_hold(request.mac);
            return Outcome::Ignored(Ignored::OtherServer(server));
        }
        let Some(ip) = request.requested_ip.or_else(|| host(request.ciaddr)) else {
            return Outcome::Ignored(Ignored::NoAddress);
        };
        match self.pool.claim(request.mac, subnet, ip, now_unix) {
            Ok(()) => {
                let record = LeaseRecord {
                    ip,
                    expires_unix: now_unix + u64::from(self.config.lease_secs),
                    holder: Holder::Client { mac: request.mac, hostname: request.hostname.clone() },
                };
                self.pool.drop_hold(request.mac);
                self.pool.record(&record);
                self.reply(request, subnet, ReplyKind::Ack(ip), Some(record))
            }
            Err(reason) => self.reply(request, subnet, ReplyKind::Nak(reason), None),
        }
    }

    fn decline(&mut self, now_unix: u64, request: &Request) -> Outcome {
        let Some(ip) = request.requested_ip.or_else(|| host(request.ciaddr)) else {
            return Outcome::Ignored(Ignored::NoAddress);
        };
        self.give_up(now_unix, request, ip, Holder::Quarantine)
    }

    fn release(&mut self, now_unix: u64, request: &Request) -> Outcome {
        let Some(ip) = host(request.ciaddr) else {
            return Outcome::Ignored(Ignored::NoAddress);
        };
        let hostname = self.pool.leases().of_mac(request.mac).and_then(|it| it.hostname.clone());
        self.give_up(now_unix, request, ip, Holder::Client { mac: request.mac, hostname })
    }

    fn give_up(
        &mut self,
        now_unix: u64,
        request: &Request,
        ip: Ipv4Addr,
        holder: Holder,
    ) -> Outcome {
        if let Some(server) = request.server_id
            && server != self.config.server_id(request)
        {
            return Outcome::Ignored(Ignored::OtherServer(server));
        }
        if !self.pool.is_of(request.mac, ip, now_unix) {
            return Outcome::Ignored(Ignored::NotTheirs(ip));
        }
        let expires_unix = match holder {
            Holder::Quarantine => now_unix + QUARANTINE_SECS,
            Holder::Client { .. } => now_unix,
        };
        let record = LeaseRecord { ip, expires_unix, holder };
        self.pool.drop_hold(request.mac);
        self.pool.record(&record);
        Outcome::Recorded(record)
    }

    fn inform(&self, request: &Request, subnet: &Subnet) -> Outcome {
        if host(request.ciaddr).is_none() {
            return Outcome::Ignored(Ignored::NoAddress);
        }
        self.reply(request, subnet, ReplyKind::Informed, None)
    }

    fn reply(
        &self,
        request: &Request,
        subnet: &Subnet,
        kind: ReplyKind,
        lease_change: Option<LeaseRecord>,
    ) -> Outcome {
        let boot = self.config.boot.choose(request);
        Outcome::Reply(Reply {
            bytes: reply::build(&self.config, subnet, request, kind, &boot),
            destination: reply::destination(request, kind),
            lease_change,
            summary: Summary { mac: request.mac, kind, boot },
        })
    }
}

impl Config {
    fn subnets(&self) -> impl Iterator<Item = &Subnet> {
        std::iter::once(&self.local).chain(&self.relayed)
    }

    /// Addresses that are never given.
    fn taken(&self) -> impl Iterator<Item = Ipv4Addr> {
        std::iter::once(self.server).chain(self.subnets().filter_map(|subnet| subnet.router))
    }

    /// The subnet that a client is on. One that renews a lease from behind a relay asks us directly:
    /// the address that it has tells its subnet.
    fn subnet_of(&self, request: &Request) -> Option<&Subnet> {
        if let Some(link) = request.link() {
            return self.subnets().find(|subnet| subnet.holds(link));
        }
        let behind_relay =
            host(request.ciaddr).and_then(|ip| self.relayed.iter().find(|it| it.contains(ip)));
        Some(behind_relay.unwrap_or(&self.local))
    }

    fn server_id(&self, request: &Request) -> Ipv4Addr {
        request.server_id_override().unwrap_or(self.server)
    }
}

impl Subnet {
    /// The subnet mask.
    pub fn mask(&self) -> Ipv4Addr {
        let host_bits = 32 - u32::from(self.prefix_len);
        Ipv4Addr::from(u32::MAX.checked_shl(host_bits).unwrap_or(0))
    }

    /// The subnet's broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        self.network() | !self.mask()
    }

    fn network(&self) -> Ipv4Addr {
        self.range_first & self.mask()
    }

    /// Addresses in the range; 0 if it ends before it begins.
    fn range_len(&self) -> u32 {
        let span = self.range_last.to_bits().checked_sub(self.range_first.to_bits());
        span.map_or(0, |span| span.saturating_add(1))
    }

    /// True for any address of the subnet; link selection may name its first one (RFC 3527).
    fn holds(&self, ip: Ipv4Addr) -> bool {
        ip & self.mask() == self.network()
    }

    /// True for a host address of the subnet.
    fn contains(&self, ip: Ipv4Addr) -> bool {
        self.holds(ip) && ip != self.network() && ip != self.broadcast()
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !(8..=30).contains(&self.prefix_len) {
            return Err(ConfigError::Prefix(self.prefix_len));
        }
        self.check_host("range start", self.range_first)?;
        self.check_host("range end", self.range_last)?;
        if let Some(router) = self.router {
            self.check_host("router", router)?;
        }
        if !(1..=MAX_RANGE).contains(&self.range_len()) {
            return Err(ConfigError::Range(self.range_first, self.range_last));
        }
        Ok(())
    }

    fn check_host(&self, role: &'static str, ip: Ipv4Addr) -> Result<(), ConfigError> {
        let (network, prefix_len) = (self.network(), self.prefix_len);
        let error = ConfigError::NotInSubnet { role, ip, network, prefix_len };
        if self.contains(ip) { Ok(()) } else { Err(error) }
    }
}

fn host(ip: Ipv4Addr) -> Option<Ipv4Addr> {
    (!ip.is_unspecified()).then_some(ip)
}

fn check(config: &Config) -> Result<(), ConfigError> {
    if config.relayed.len() > MAX_RELAYED {
        return Err(ConfigError::TooMany);
    }
    let mut before: Vec<&Subnet> = Vec::new();
    for subnet in config.subnets() {
        subnet.check()?;
        let overlaps =
            |other: &&&Subnet| other.holds(subnet.network()) || subnet.holds(other.network());
        if let Some(other) = before.iter().find(overlaps) {
            return Err(ConfigError::Overlap(other.range_first, subnet.range_first));
        }
        before.push(subnet);
    }
    config.local.check_host("server address", config.server)?;
    if config.subnets().map(Subnet::range_len).sum::<u32>() > MAX_RANGE {
        return Err(ConfigError::TooMany);
    }
    let mut taken: Vec<Ipv4Addr> = config.taken().collect();
    for (mac, reservation) in &config.reservations {
        let ip = reservation.ip;
        let subnet = config.subnets().find(|subnet| subnet.holds(ip)).unwrap_or(&config.local);
        subnet.check_host("reserved address", ip)?;
        if taken.contains(&ip) {
            return Err(ConfigError::ReservedTwice(ip, *mac));
        }
        taken.push(ip);
    }
    if config.lease_secs < 60 {
        return Err(ConfigError::LeaseTime(config.lease_secs));
    }
    let host_names = config.reservations.values().filter_map(|it| it.hostname.as_ref());
    let names_fit = config.domain.iter().chain(host_names).all(|name| {
        (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
    });
    if config.dns.len() > MAX_DNS || !names_fit {
        return Err(ConfigError::Names);
    }
    config.boot.check()?;
    Ok(())
}

#[cfg(test)]
mod tests;
