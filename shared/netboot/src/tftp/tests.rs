use super::*;
use proptest::prelude::*;

fn request(options: Options) -> Request {
    Request { filename: "f".into(), mode: Mode::Octet, options }
}

fn content(len: usize) -> Arc<[u8]> {
    (0..len).map(|at| (at * 31 + at / 256) as u8).collect()
}

fn ack(number: u16) -> Vec<u8> {
    [OP_ACK.to_be_bytes(), number.to_be_bytes()].concat()
}

/// A client as RFC 7440 describes it: acknowledges at the end of a window, at the last block, and
/// on a gap what it has in order.
struct Reader {
    block: usize,
    window: u16,
    expected: u16,
    unacked: u16,
    got: Vec<u8>,
    done: bool,
    last_ack: Option<u16>,
}

impl Reader {
    fn new(block: usize, window: u16, first: u16) -> Self {
        let got = Vec::new();
        Self { block, window, expected: first, unacked: 0, got, done: false, last_ack: None }
    }

    fn ack(&mut self, number: u16) -> Option<Vec<u8>> {
        self.unacked = 0;
        self.last_ack = Some(number);
        Some(ack(number))
    }

    fn receive(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let op = u16::from_be_bytes([datagram[0], datagram[1]]);
        if op == OP_OACK {
            return if self.got.is_empty() { self.ack(0) } else { None };
        }
        assert_eq!(op, OP_DATA, "{datagram:?}");
        let number = u16::from_be_bytes([datagram[2], datagram[3]]);
        let data = &datagram[4..];
        assert!(data.len() <= self.block);
        if number != self.expected {
            // A gap or a repeat: say where we are.
            let behind = self.expected.wrapping_sub(1);
            return if self.expected == 1 && self.got.is_empty() && self.last_ack.is_none() {
                None
            } else {
                self.ack(behind)
            };
        }
        if !self.done {
            self.got.extend_from_slice(data);
        }
        self.done |= data.len() < self.block;
        self.expected = self.expected.wrapping_add(1);
        self.unacked += 1;
        if self.unacked >= self.window || self.done { self.ack(number) } else { None }
    }
}

/// What a bad network does to one datagram.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Pass,
    Lose,
    Double,
    Delay,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::Pass),
        1 => Just(Fate::Lose),
        1 => Just(Fate::Double),
        1 => Just(Fate::Delay),
    ]
}

/// Runs a transfer to its end; `fates` are used round and round, for both directions.
fn run(mut transfer: Transfer, reader: &mut Reader, mut now: Instant, fates: &[Fate]) -> Ended {
    let mut fates = fates.iter().copied().cycle();
    let mut late: Vec<Vec<u8>> = Vec::new();
    let mut pass = |datagram: Vec<u8>| -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        match fates.next().unwrap_or(Fate::Pass) {
            Fate::Pass => out.push(datagram),
            Fate::Lose => {}
            Fate::Double => out.extend([datagram.clone(), datagram]),
            Fate::Delay => {
                late.push(datagram);
                return out;
            }
        }
        out.append(&mut late);
        out
    };
    for _ in 0..2_000_000 {
        if let Some(ended) = transfer.poll_event() {
            return ended;
        }
        match transfer.poll_transmit() {
            Some(datagram) => {
                for datagram in pass(datagram) {
                    // A direction's late datagrams may turn up in the other; each side drops them.
                    let op = datagram[1];
                    if op == OP_ACK as u8 {
                        transfer.handle_input(now, &datagram);
                    } else if let Some(reply) = reader.receive(&datagram) {
                        for reply in pass(reply) {
                            if reply[1] == OP_ACK as u8 {
                                transfer.handle_input(now, &reply);
                            }
                        }
                    }
                }
            }
            None => {
                let (at, _) = transfer.poll_timeout().expect("not ended");
                now = now.max(at);
                transfer.handle_timeout(now);
            }
        }
    }
    panic!("the transfer does not end");
}

#[test]
fn a_plain_transfer_without_options() {
    let now = Instant::now();
    for len in [0, 1, 511, 512, 513, 1024, 5000] {
        let content = content(len);
        let request = request(Options::default());
        let transfer = Transfer::new(now, &request, content.clone(), Caps::default());
        let mut reader = Reader::new(512, 1, 1);
        let ended = run(transfer, &mut reader, now, &[Fate::Pass]);
        assert_eq!(ended, Ended::Done { bytes: len as u64, repeated: 0 });
        assert_eq!(reader.got, content[..]);
    }
}

#[test]
fn options_are_granted_up_to_the_caps() {
    let now = Instant::now();
    let options =
        Options { blksize: Some(4096), tsize: true, timeout_secs: Some(3), windowsize: Some(1000) };
    let mut transfer = Transfer::new(now, &request(options), content(10), Caps::default());
    assert_eq!(
        transfer.poll_transmit().unwrap(),
        b"\0\x06blksize\x001468\0tsize\x0010\0timeout\x003\0windowsize\x0064\0"
    );
    assert_eq!(transfer.poll_transmit(), None, "the OACK waits for its ACK");
    assert_eq!(transfer.poll_timeout(), Some((now + Duration::from_secs(3), "repeat the window")));
    transfer.handle_input(now, &ack(0));
    assert_eq!(&transfer.poll_transmit().unwrap()[..4], [0, 3, 0, 1]);
}

#[test]
fn block_numbers_wrap() {
    let now = Instant::now();
    let content = content(8 * 140_000 + 3);
    for window in [1, 4, 64] {
        let options = Options { blksize: Some(8), windowsize: Some(window), ..Options::default() };
        let transfer = Transfer::new(now, &request(options), content.clone(), Caps::default());
        let mut reader = Reader::new(8, window, 1);
        let ended = run(transfer, &mut reader, now, &[Fate::Pass]);
        assert_eq!(ended, Ended::Done { bytes: content.len() as u64, repeated: 0 });
        assert!(reader.got == content[..]);
    }
}

#[test]
fn a_size_probe_ends_quietly() {
    let now = Instant::now();
    let options = Options { tsize: true, ..Options::default() };
    let mut transfer = Transfer::new(now, &request(options), content(10), Caps::default());
    transfer.poll_transmit().unwrap();
    transfer.handle_input(now, b"\0\x05\0\x08User aborted the transfer\0");
    assert_eq!(transfer.poll_event(), Some(Ended::Probed));
    assert_eq!(transfer.poll_event(), None);
    assert_eq!((transfer.poll_transmit(), transfer.poll_timeout()), (None, None));
}

#[test]
fn a_client_that_gives_up_is_told_with_its_words() {
    let now = Instant::now();
    let request = request(Options::default());
    let mut transfer = Transfer::new(now, &request, content(1000), Caps::default());
    transfer.poll_transmit().unwrap();
    transfer.handle_input(now, b"\0\x05\0\x03disk\x07full");
    let message = "disk?full".to_owned();
    assert_eq!(transfer.poll_event(), Some(Ended::Refused { code: 3, message }));
}

#[test]
fn a_silent_client_is_given_up() {
    let now = Instant::now();
    let request = request(Options::default());
    let mut transfer = Transfer::new(now, &request, content(1000), Caps::default());
    let mut sent = 0;
    let mut at = now;
    while let Some((deadline, _)) = transfer.poll_timeout() {
        while transfer.poll_transmit().is_some() {
            sent += 1;
        }
        at = deadline;
        transfer.handle_timeout(at);
    }
    assert_eq!(sent, 1 + MAX_REPEATS);
    assert_eq!(at - now, Duration::from_secs(1 + 2 + 4 + 8 + 8 + 8 + 8));
    assert_eq!(transfer.poll_event(), Some(Ended::Silent { all_sent: false, bytes: 0 }));
    assert_eq!(transfer.poll_transmit().unwrap()[..2], OP_ERROR.to_be_bytes());
}

/// Every block acknowledged twice must not be sent twice from then on.
#[test]
fn sorcerers_apprentice_is_not_called() {
    let now = Instant::now();
    for window in [1, 8] {
        let content = content(512 * 50);
        let options = Options { windowsize: Some(window), ..Options::default() };
        let transfer = Transfer::new(now, &request(options), content.clone(), Caps::default());
        let mut reader = Reader::new(512, window, 1);
        let ended = run(transfer, &mut reader, now, &[Fate::Double]);
        let Ended::Done { repeated, .. } = ended else { panic!("{ended:?}") };
        assert!(repeated <= 51 * 2, "{repeated} repeated with window {window}");
        assert_eq!(reader.got, content[..]);
    }
}

#[test]
fn a_lost_block_in_a_window_is_repeated_without_a_time_out() {
    let now = Instant::now();
    let options = Options { windowsize: Some(4), ..Options::default() };
    let mut transfer = Transfer::new(now, &request(options), content(512 * 9), Caps::default());
    transfer.poll_transmit().unwrap();
    transfer.handle_input(now, &ack(0));
    let numbers = |transfer: &mut Transfer| -> Vec<u8> {
        std::iter::from_fn(|| transfer.poll_transmit()).map(|it| it[3]).collect()
    };
    assert_eq!(numbers(&mut transfer), [1, 2, 3, 4]);
    transfer.handle_input(now, &ack(2));
    assert_eq!(numbers(&mut transfer), [3, 4, 5, 6]);
    // The first of the window was lost: the ACK before it comes again, and works once.
    transfer.handle_input(now, &ack(2));
    assert_eq!(numbers(&mut transfer), [3, 4, 5, 6]);
    transfer.handle_input(now, &ack(2));
    assert_eq!(numbers(&mut transfer), [] as [u8; 0]);
    // An ACK of what was never sent is dropped.
    transfer.handle_input(now, &ack(9));
    assert_eq!(numbers(&mut transfer), [] as [u8; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Over a bad network a transfer either brings every byte or ends with an error, and with
    /// bounded loss it brings them.
    #[test]
    fn loss_doubles_and_reordering(
        len in 0usize..40_000,
        block in 8u16..1468,
        window in proptest::option::of(1u16..80),
        tsize: bool,
        fates in proptest::collection::vec(fate(), 17..200),
    ) {
        let now = Instant::now();
        let content = content(len);
        let options = Options { blksize: Some(block), windowsize: window, tsize, timeout_secs: None };
        let transfer = Transfer::new(now, &request(options), content.clone(), Caps::default());
        let mut reader = Reader::new(block.into(), window.unwrap_or(1).min(MAX_WINDOW), 1);
        match run(transfer, &mut reader, now, &fates) {
            Ended::Done { bytes, .. } => {
                prop_assert_eq!(bytes, len as u64);
                prop_assert!(reader.got == content[..]);
            }
            // Only the very last ACK can have been lost for good: this client does not dally.
            Ended::Silent { .. } => prop_assert!(content.starts_with(&reader.got)),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn junk_is_survived(datagrams in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..8), 0..40)
    ) {
        let now = Instant::now();
        let options = Options { windowsize: Some(3), ..Options::default() };
        let mut transfer = Transfer::new(now, &request(options), content(5000), Caps::default());
        for datagram in &datagrams {
            let mut in_flight = 0;
            while transfer.poll_transmit().is_some() {
                in_flight += 1;
                prop_assert!(in_flight <= 3);
            }
            transfer.handle_input(now, datagram);
        }
    }
}
