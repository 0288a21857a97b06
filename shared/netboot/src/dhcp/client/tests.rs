use super::*;
use crate::dhcp::{
    lease::LeaseTable,
    server::{Outcome, ReplyKind, Server},
    testing,
};
use proptest::prelude::*;

/// A client and a server on one wire, with a clock that only this moves.
struct Pair {
    client: Client,
    server: Server,
    now: Instant,
    unix: u64,
    sent: usize,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let config = Config { mac: testing::mac(9), seed: 7, hostname: Some("node9".to_owned()) };
        let server = Server::new(testing::config(), LeaseTable::default()).unwrap();
        Self { client: Client::new(config, now), server, now, unix: 1_000_000, sent: 0 }
    }

    /// Carries datagrams to and fro until it is quiet; returns what the client reported.
    fn exchange(&mut self) -> Vec<Event> {
        while let Some(payload) = self.client.poll_transmit() {
            self.sent += 1;
            if let Outcome::Reply(reply) = self.server.handle(self.unix, &payload) {
                self.client.handle_input(self.now, &reply.bytes);
            }
        }
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    /// Goes to the client's next time-out, and drops what it sends if `lost`.
    fn tick(&mut self) -> &'static str {
        let (at, reason) = self.client.poll_timeout().unwrap();
        self.unix += at.saturating_duration_since(self.now).as_secs();
        self.now = at;
        self.client.handle_timeout(at);
        reason
    }
}

fn lease() -> Lease {
    Lease {
        address: testing::ip(100),
        prefix_len: 24,
        router: Some(testing::SERVER),
        dns: vec![testing::ip(2), testing::ip(3)],
        server: testing::SERVER,
        lease_secs: 3600,
    }
}

#[test]
fn gets_and_renews_a_lease() {
    let mut pair = Pair::new();
    let events = pair.exchange();
    let [Event::Bound(first)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(*first, Lease { address: first.address, ..lease() });
    assert_eq!(pair.sent, 2);
    let before = pair.now;
    assert_eq!(pair.tick(), "renew the lease");
    assert_eq!(pair.now - before, Duration::from_secs(1800));
    assert_eq!(pair.exchange(), vec![Event::Bound(first.clone())]);
    assert_eq!(pair.server.counters().acks, 2);
}

#[test]
fn a_silent_server_costs_the_lease_only_at_its_end() {
    let mut pair = Pair::new();
    pair.exchange();
    let bound = pair.now;
    let mut rebound = false;
    loop {
        rebound |= pair.tick() == "repeat the rebinding";
        let sent = std::iter::from_fn(|| pair.client.poll_transmit()).count();
        assert!(sent <= 1);
        if let Some(event) = pair.client.poll_event() {
            assert_eq!(event, Event::Lost { reason: "the lease ran out" });
            break;
        }
        assert!(pair.now - bound <= Duration::from_secs(3600));
    }
    assert!(rebound);
    assert_eq!(pair.now - bound, Duration::from_secs(3600));
    // It goes on looking, and finds the server again.
    pair.tick();
    assert!(matches!(pair.exchange().as_slice(), [Event::Bound(_)]));
}

#[test]
fn a_refused_renewal_starts_over() {
    let mut pair = Pair::new();
    pair.exchange();
    let mut config = testing::config();
    config.local.range_first = testing::ip(200);
    config.local.range_last = testing::ip(210);
    pair.server = Server::new(config, LeaseTable::default()).unwrap();
    pair.tick();
    let events = pair.exchange();
    let [Event::Lost { reason }, Event::Bound(lease)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(*reason, "the server refused to renew");
    assert!(lease.address.octets()[3] >= 200);
}

#[test]
fn repeats_are_spread_and_bounded() {
    let now = Instant::now();
    let first_delays: Vec<Duration> = (0..20)
        .map(|seed| {
            let config = Config { mac: testing::mac(9), seed, hostname: None };
            let mut client = Client::new(config, now);
            let mut at = now;
            let mut delays = Vec::new();
            for _ in 0..8 {
                client.poll_transmit().expect("a DISCOVER per time-out");
                let (next, _) = client.poll_timeout().unwrap();
                delays.push(next - at);
                at = next;
                client.handle_timeout(at);
            }
            for (delay, middle) in delays.iter().zip([4, 8, 16, 16, 16, 16, 16, 16]) {
                let spread = Duration::from_secs(middle - 1)..=Duration::from_secs(middle + 1);
                assert!(spread.contains(delay), "{delay:?}");
            }
            delays[0]
        })
        .collect();
    assert!(first_delays.iter().any(|delay| *delay != first_delays[0]));
}

#[test]
fn an_offer_that_is_never_confirmed_is_given_up() {
    let mut pair = Pair::new();
    let discover = pair.client.poll_transmit().unwrap();
    let Outcome::Reply(offer) = pair.server.handle(pair.unix, &discover) else { panic!() };
    assert!(matches!(offer.summary.kind, ReplyKind::Offer(_)));
    pair.client.handle_input(pair.now, &offer.bytes);
    for _ in 0..MAX_REQUESTS {
        assert_eq!(pair.client.poll_transmit().unwrap()[242], REQUEST);
        assert_eq!(pair.tick(), "repeat DHCPREQUEST");
    }
    assert_eq!(pair.client.poll_transmit().unwrap()[242], DISCOVER);
}

#[test]
fn answers_for_others_are_dropped() {
    let mut pair = Pair::new();
    let discover = pair.client.poll_transmit().unwrap();
    let Outcome::Reply(offer) = pair.server.handle(pair.unix, &discover) else { panic!() };
    // Another transaction, another machine, a request instead of a reply, a mask with a hole.
    for (at, value) in [(4, offer.bytes[4] ^ 1), (33, 0xee), (0, 1)] {
        let mut bytes = offer.bytes.clone();
        bytes[at] = value;
        pair.client.handle_input(pair.now, &bytes);
        assert_eq!(pair.client.poll_transmit(), None, "byte {at}");
    }
    let mask = offer.bytes.windows(6).position(|it| it == [1, 4, 255, 255, 255, 0]).unwrap();
    let mut bytes = offer.bytes.clone();
    bytes[mask + 3] = 0x7f;
    pair.client.handle_input(pair.now, &bytes);
    assert_eq!(pair.client.poll_transmit(), None);
    pair.client.handle_input(pair.now, &offer.bytes);
    assert!(pair.client.poll_transmit().is_some());
}

proptest! {
    /// Whatever a network does to the answers, the client neither panics nor stops trying.
    #[test]
    fn mangled_answers_are_survived(
        hits in proptest::collection::vec((0usize..400, any::<u8>()), 0..12),
        cut in proptest::option::of(0usize..400),
        steps in 1usize..30,
    ) {
        let mut pair = Pair::new();
        for _ in 0..steps {
            while let Some(payload) = pair.client.poll_transmit() {
                let Outcome::Reply(reply) = pair.server.handle(pair.unix, &payload) else { continue };
                let mut bytes = reply.bytes;
                for (at, value) in &hits {
                    let len = bytes.len();
                    bytes[at % len] = *value;
                }
                if let Some(cut) = cut {
                    bytes.truncate(cut);
                }
                pair.client.handle_input(pair.now, &bytes);
            }
            while let Some(event) = pair.client.poll_event() {
                if let Event::Bound(lease) = event {
                    prop_assert!(lease.lease_secs >= MIN_LEASE_SECS);
                    prop_assert!((1..=32).contains(&lease.prefix_len));
                }
            }
            pair.tick();
        }
        prop_assert!(pair.client.poll_timeout().is_some());
    }
}
