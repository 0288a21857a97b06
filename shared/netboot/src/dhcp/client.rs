//! The DHCP client of the agent, without sockets and clock.
//!
//! ```text
//! Selecting --offer--> Requesting --ACK--> Bound --T1--> Renewing --T2--> Rebinding
//!     ^                    |                 ^              |                 |
//!     +-NAK (wait), silence+                 +-----ACK------+-------ACK-------+
//!     +------------------------NAK, lease ran out----------------------------+
//! ```
//!
//! Every message is for broadcast to port 67, renewals too: the agent sends on a packet socket,
//! where there is no ARP. The first offer wins. The caller applies [`Event::Bound`] to the
//! interface, also when it comes again after a renewal, and takes the address away on
//! [`Event::Lost`].

use super::wire::{self, Header, Op, Options, Writer, code};
use crate::mac::Mac;
use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// RFC 2131 section 4.1: first repeat after 4 s, then doubled; every one moved by up to 1 s.
const FIRST_RETRY: Duration = Duration::from_secs(4);
/// The RFC doubles up to 64 s. A machine that is being installed should not wait that long for a
/// switch port that came up late.
const LAST_RETRY: Duration = Duration::from_secs(16);
/// Repeats of a DHCPREQUEST for an offer before looking for another.
const MAX_REQUESTS: u32 = 4;
/// RFC 2131 section 4.4.5: renewals are repeated after half of the remaining time, at least this.
const MIN_RENEWAL_RETRY: Duration = Duration::from_secs(60);
/// Shorter leases are taken for this long, or we would do nothing but renew.
const MIN_LEASE_SECS: u32 = 60;
/// Name servers kept from an answer.
const MAX_DNS: usize = 4;
/// Longest host name sent.
const MAX_HOSTNAME_LEN: usize = 63;
/// Datagrams and events kept until polled; a driver polls after each call, so few are ever there.
const MAX_QUEUED: usize = 8;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// What the client got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix_len: u8,
    /// Default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name servers, at most 4.
    pub dns: Vec<Ipv4Addr>,
    /// The server that gave it.
    pub server: Ipv4Addr,
    /// Length of the lease from the moment of the event, in seconds.
    pub lease_secs: u32,
}

/// What the caller must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The address is ours, for the first time or again.
    Bound(Lease),
    /// The address is no longer ours. The client is looking for one again.
    Lost {
        /// For the log.
        reason: &'static str,
    },
}

/// What never changes during a client's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The interface's Ethernet address.
    pub mac: Mac,
    /// Differs between machines and boots: transaction numbers and jitter come from it.
    pub seed: u64,
    /// Sent in option 12 if it is 1 to 63 bytes.
    pub hostname: Option<String>,
}

#[derive(Debug, Clone)]
enum State {
    Selecting { attempt: u32 },
    Requesting { attempt: u32, address: Ipv4Addr, server: Ipv4Addr },
    Bound { lease: Lease, times: Times },
    Renewing { lease: Lease, times: Times },
    Rebinding { lease: Lease, times: Times },
}

/// When things happen to a lease.
#[derive(Debug, Clone, Copy)]
struct Times {
    renew: Instant,
    rebind: Instant,
    expire: Instant,
}

/// The client.
#[derive(Debug)]
pub struct Client {
    config: Config,
    random: u64,
    xid: u32,
    started: Instant,
    /// When the request now in flight was first sent: a lease counts from there.
    asked: Instant,
    deadline: Instant,
    state: State,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

impl Client {
    /// Begins looking for a server; the first DHCPDISCOVER is ready to be polled.
    pub fn new(config: Config, now: Instant) -> Self {
        let mut client = Self {
            random: config.seed,
            config,
            xid: 0,
            started: now,
            asked: now,
            deadline: now,
            state: State::Selecting { attempt: 0 },
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        client.restart(now);
        client
    }

    /// Takes the UDP payload of a datagram to port 68. What is not for us is dropped.
    pub fn handle_input(&mut self, now: Instant, payload: &[u8]) {
        let Ok((header, options)) = wire::parse(payload) else { return };
        let for_us =
            header.op == Op::Reply && header.xid == self.xid && header.chaddr == self.config.mac.0;
        let Some([message_type]) = options.fixed::<1>(code::MESSAGE_TYPE) else { return };
        if !for_us {
            return;
        }
        let server_id = options.address(code::SERVER_ID);
        match (self.state.clone(), message_type) {
            (State::Selecting { .. }, OFFER) => {
                if let Some(lease) = read_lease(&header, &options) {
                    let (address, server) = (lease.address, lease.server);
                    self.state = State::Requesting { attempt: 0, address, server };
                    self.asked = now;
                    self.request(now);
                }
            }
            (State::Requesting { address, server, .. }, ACK) => {
                if let Some(lease) = read_lease(&header, &options)
                    && (lease.address, lease.server) == (address, server)
                {
                    self.bind(lease);
                }
            }
            (State::Requesting { server, .. }, NAK) if server_id == Some(server) => {
                self.restart_later(now);
            }
            (State::Renewing { lease: old, .. } | State::Rebinding { lease: old, .. }, ACK) => {
                if let Some(lease) = read_lease(&header, &options)
                    && lease.address == old.address
                {
                    self.bind(lease);
                }
            }
            // A NAK by anyone but the lease's server is heeded only once that server is silent.
            (State::Renewing { lease, .. }, NAK) if server_id == Some(lease.server) => {
                self.lose(now, "the server refused to renew");
            }
            (State::Rebinding { .. }, NAK) => self.lose(now, "a server refused to renew"),
            (
                State::Selecting { .. }
                | State::Requesting { .. }
                | State::Bound { .. }
                | State::Renewing { .. }
                | State::Rebinding { .. },
                _,
            ) => {}
        }
    }

    /// To be called at or after the time `poll_timeout` gave; too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.deadline {
            return;
        }
        match self.state.clone() {
            State::Selecting { .. } => self.discover(now),
            State::Requesting { attempt, .. } if attempt >= MAX_REQUESTS => self.restart(now),
            State::Requesting { .. } => self.request(now),
            State::Bound { times, .. }
            | State::Renewing { times, .. }
            | State::Rebinding { times, .. }
                if now >= times.expire =>
            {
                self.lose(now, "the lease ran out");
            }
            State::Bound { lease, times } if now < times.rebind => {
                self.xid = self.next_random();
                self.asked = now;
                self.state = State::Renewing { lease, times };
                self.renew(now);
            }
            State::Bound { lease, times } | State::Renewing { lease, times }
                if now >= times.rebind =>
            {
                self.xid = self.next_random();
                self.asked = now;
                self.state = State::Rebinding { lease, times };
                self.renew(now);
            }
            State::Bound { .. } | State::Renewing { .. } | State::Rebinding { .. } => {
                self.renew(now);
            }
        }
    }

    /// The next payload to broadcast from port 68 to port 67.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// When to call `handle_timeout`, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let reason = match self.state {
            State::Selecting { .. } => "repeat DHCPDISCOVER",
            State::Requesting { .. } => "repeat DHCPREQUEST",
            State::Bound { .. } => "renew the lease",
            State::Renewing { .. } => "repeat the renewal",
            State::Rebinding { .. } => "repeat the rebinding",
        };
        Some((self.deadline, reason))
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn restart(&mut self, now: Instant) {
        self.xid = self.next_random();
        self.started = now;
        self.state = State::Selecting { attempt: 0 };
        self.discover(now);
    }

    /// After a refused offer: not at once, or a server that offers what it then refuses would
    /// be asked as fast as the wire allows.
    fn restart_later(&mut self, now: Instant) {
        self.xid = self.next_random();
        self.state = State::Selecting { attempt: 0 };
        self.deadline = now + self.retry_delay(0);
    }

    fn lose(&mut self, now: Instant, reason: &'static str) {
        self.event(Event::Lost { reason });
        self.restart(now);
    }

    fn bind(&mut self, lease: Lease) {
        // RFC 2131 section 4.4.1: the lease runs from the moment of the request.
        let after = |secs: u32| self.asked + Duration::from_secs(secs.into());
        let secs = lease.lease_secs;
        let times =
            Times { renew: after(secs / 2), rebind: after(secs - secs / 8), expire: after(secs) };
        self.deadline = times.renew;
        self.state = State::Bound { lease: lease.clone(), times };
        self.event(Event::Bound(lease));
    }

    fn discover(&mut self, now: Instant) {
        let State::Selecting { attempt } = &mut self.state else { return };
        let number = *attempt;
        *attempt += 1;
        self.deadline = now + self.retry_delay(number);
        let message = self.message(now, DISCOVER, Ipv4Addr::UNSPECIFIED, &[]);
        self.transmit(message);
    }

    fn request(&mut self, now: Instant) {
        let State::Requesting { attempt, address, server } = &mut self.state else { return };
        let (number, address, server) = (*attempt, *address, *server);
        *attempt += 1;
        self.deadline = now + self.retry_delay(number);
        let options = [(code::REQUESTED_IP, address), (code::SERVER_ID, server)];
        let message = self.message(now, REQUEST, Ipv4Addr::UNSPECIFIED, &options);
        self.transmit(message);
    }

    fn renew(&mut self, now: Instant) {
        let (address, end) = match &self.state {
            State::Renewing { lease, times } => (lease.address, times.rebind),
            State::Rebinding { lease, times } => (lease.address, times.expire),
            State::Selecting { .. } | State::Requesting { .. } | State::Bound { .. } => return,
        };
        let half = end.saturating_duration_since(now) / 2;
        self.deadline = (now + half.max(MIN_RENEWAL_RETRY)).min(end);
        let message = self.message(now, REQUEST, address, &[]);
        self.transmit(message);
    }

    fn message(
        &self,
        now: Instant,
        message_type: u8,
        ciaddr: Ipv4Addr,
        addresses: &[(u8, Ipv4Addr)],
    ) -> Vec<u8> {
        let secs = now.saturating_duration_since(self.started).as_secs();
        let mac = self.config.mac;
        let mut out = Writer::new(&Header {
            op: Op::Request,
            hops: 0,
            xid: self.xid,
            secs: u16::try_from(secs).unwrap_or(u16::MAX),
            // A packet socket would hear a unicast too, but a relay or switch may need ARP for it.
            broadcast: ciaddr.is_unspecified(),
            ciaddr,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr: mac.0,
            sname: Vec::new(),
            file: Vec::new(),
        });
        out.put(code::MESSAGE_TYPE, &[message_type]);
        // Type 1 and the MAC, as iPXE and most boot ROMs send it: foreign servers that go by the
        // client id then give the address the machine booted with.
        let [a, b, c, d, e, f] = mac.0;
        out.put(code::CLIENT_ID, &[1, a, b, c, d, e, f]);
        for (code, address) in addresses {
            out.put_addresses(*code, &[*address]);
        }
        out.put(code::MAX_MESSAGE, &1472_u16.to_be_bytes());
        out.put(code::VENDOR_CLASS, b"metalcast");
        if let Some(hostname) = &self.config.hostname
            && (1..=MAX_HOSTNAME_LEN).contains(&hostname.len())
        {
            out.put(code::HOST_NAME, hostname.as_bytes());
        }
        out.put(
            code::PARAMETER_LIST,
            &[code::SUBNET_MASK, code::ROUTER, code::DNS, code::DOMAIN_NAME, code::LEASE_SECONDS],
        );
        out.finish()
    }

    fn transmit(&mut self, message: Vec<u8>) {
        // A driver that does not poll loses the oldest, as a network would.
        if self.transmits.len() >= MAX_QUEUED {
            self.transmits.pop_front();
        }
        self.transmits.push_back(message);
    }

    fn event(&mut self, event: Event) {
        if self.events.len() >= MAX_QUEUED {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn retry_delay(&mut self, attempt: u32) -> Duration {
        let base = FIRST_RETRY.saturating_mul(1 << attempt.min(8)).min(LAST_RETRY);
        let jitter_ms = u64::from(self.next_random() % 2001);
        base - Duration::from_secs(1) + Duration::from_millis(jitter_ms)
    }

    /// SplitMix64: enough to keep machines apart, and the same for the same seed.
    fn next_random(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

/// The lease in an OFFER or ACK; `None` if the address cannot be one of a host, or the mask, the
/// server or the time is missing.
fn read_lease(header: &Header, options: &Options) -> Option<Lease> {
    let address = header.yiaddr;
    let unusable = address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast();
    let mask = u32::from_be_bytes(options.fixed::<4>(code::SUBNET_MASK)?);
    let prefix_len = mask.leading_ones();
    if unusable || prefix_len == 0 || mask.count_ones() != prefix_len {
        return None;
    }
    Some(Lease {
        address,
        prefix_len: u8::try_from(prefix_len).ok()?,
        router: options.addresses(code::ROUTER).find(|router| !router.is_unspecified()),
        dns: options.addresses(code::DNS).take(MAX_DNS).collect(),
        server: options.address(code::SERVER_ID)?,
        lease_secs: options.number(code::LEASE_SECONDS)?.max(MIN_LEASE_SECS),
    })
}

#[cfg(test)]
mod tests;
