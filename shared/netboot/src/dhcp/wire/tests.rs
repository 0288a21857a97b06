use super::*;
use crate::dhcp::testing::{Ask, REQUESTS, fixture, ip, mac};
use dhcproto::{Decodable, v4};
use proptest::prelude::*;

/// dhcproto's view of a message: the header fields, and options as raw bytes.
fn second_opinion(bytes: &[u8]) -> (v4::borrowed::Message<'_>, Vec<(u8, Vec<u8>)>) {
    let message = v4::borrowed::Message::new(bytes).unwrap();
    let options = message.opts().map(|it| (it.code().into(), it.data().to_vec())).collect();
    (message, options)
}

#[test]
fn captured_packets_read_as_dhcproto_reads_them() {
    for name in REQUESTS {
        let bytes = fixture(name);
        let (header, options) = parse(&bytes).unwrap();
        let (theirs, their_options) = second_opinion(&bytes);
        assert_eq!(header.xid, theirs.xid(), "{name}");
        assert_eq!(header.secs, theirs.secs(), "{name}");
        assert_eq!(header.broadcast, theirs.flags().broadcast(), "{name}");
        assert_eq!(header.chaddr, theirs.chaddr(), "{name}");
        assert_eq!(header.ciaddr, theirs.ciaddr(), "{name}");
        assert_eq!(header.file, theirs.fname(), "{name}");
        let ours: Vec<(u8, Vec<u8>)> = options.0.clone().into_iter().collect();
        let mut theirs = their_options;
        theirs.sort();
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn malformed_messages_are_told_apart() {
    let good = Ask::discover(mac(1)).bytes();
    assert_eq!(parse(&good[..239]), Err(WireError::TooShort(239)));
    assert_eq!(parse(&[0; MAX_LEN + 1]), Err(WireError::TooLong(MAX_LEN + 1)));
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        parse(&bytes)
    };
    assert_eq!(with(236, 0), Err(WireError::NoMagic));
    assert_eq!(with(1, 6), Err(WireError::NotEthernet { htype: 6, hlen: 6 }));
    assert_eq!(with(2, 255), Err(WireError::NotEthernet { htype: 1, hlen: 255 }));
    assert_eq!(with(241, 200), Err(WireError::TruncatedOption(53)));
    // An option code as the very last byte, without a length.
    assert_eq!(parse(&[&good[..240], &[12]].concat()), Err(WireError::TruncatedOption(12)));
    // No end mark at all is tolerated.
    assert!(parse(&good[..243]).is_ok());
}

#[test]
fn options_in_pieces_and_in_overloaded_fields_are_joined() {
    let mut ask = Ask::discover(mac(1))
        .with(code::USER_CLASS, b"iP")
        .with(code::HOST_NAME, b"x")
        .with(code::USER_CLASS, b"XE")
        .with(code::OVERLOAD, &[3]);
    ask.header.file = [&[code::CLIENT_ID, 2][..], b"ab", &[code::END], b"junk"].concat();
    ask.header.sname = [&[code::CLIENT_ID, 1][..], b"c"].concat();
    let (header, options) = parse(&ask.bytes()).unwrap();
    assert_eq!(options.get(code::USER_CLASS), Some(&b"iPXE"[..]));
    assert_eq!(options.get(code::CLIENT_ID), Some(&b"abc"[..]));
    assert_eq!((header.file, header.sname), (vec![], vec![]));
    // Without the overload the fields are names.
    ask.options.pop();
    let (header, options) = parse(&ask.bytes()).unwrap();
    assert_eq!(options.get(code::CLIENT_ID), None);
    assert!(header.file.starts_with(&[code::CLIENT_ID]));
}

#[test]
fn names_that_do_not_fit_the_header_are_left_out_of_it() {
    let mut ask = Ask::discover(mac(1));
    for (len, fits) in [(127, true), (128, false), (500, false)] {
        ask.header.file = vec![b'x'; len];
        let (header, _) = parse(&ask.bytes()).unwrap();
        assert_eq!(header.file.len(), if fits { len } else { 0 });
    }
    ask.header.sname = vec![b'x'; 64];
    assert_eq!(parse(&ask.bytes()).unwrap().0.sname, b"");
}

proptest! {
    /// What we write, dhcproto reads: header, long options, padding.
    #[test]
    fn written_messages_are_read_by_dhcproto(
        xid: u32, secs: u16, broadcast: bool, addresses: [u8; 4], file in "[a-z/.]{1,127}",
        values in proptest::collection::btree_map(
            224u8..=254, proptest::collection::vec(any::<u8>(), 1..600), 0..4),
    ) {
        let [a, b, c, d] = addresses.map(ip);
        let header = Header {
            op: Op::Reply, hops: 3, xid, secs, broadcast, ciaddr: a, yiaddr: b, siaddr: c,
            giaddr: d, chaddr: mac(7).0, sname: b"server".to_vec(), file: file.clone().into_bytes(),
        };
        let mut writer = Writer::new(&header);
        writer.put(code::MESSAGE_TYPE, &[5]);
        for (code, value) in &values {
            writer.put(*code, value);
        }
        let bytes = writer.finish();
        prop_assert!(bytes.len() >= MIN_LEN);
        let message = v4::Message::from_bytes(&bytes).unwrap();
        prop_assert_eq!(message.opcode(), v4::Opcode::BootReply);
        prop_assert_eq!(message.xid(), xid);
        prop_assert_eq!(message.secs(), secs);
        prop_assert_eq!(message.hops(), 3);
        prop_assert_eq!(message.flags().broadcast(), broadcast);
        prop_assert_eq!(
            [message.ciaddr(), message.yiaddr(), message.siaddr(), message.giaddr()],
            [a, b, c, d]
        );
        prop_assert_eq!(message.chaddr(), &mac(7).0[..]);
        prop_assert_eq!(message.fname().unwrap().strip_suffix(b"\0").unwrap(), file.as_bytes());
        prop_assert_eq!(message.opts().msg_type(), Some(v4::MessageType::Ack));
        for (code, value) in &values {
            match message.opts().get((*code).into()) {
                Some(v4::DhcpOption::Unknown(option)) => prop_assert_eq!(option.data(), &value[..]),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        // And so do we.
        let (ours, options) = parse(&bytes).unwrap();
        prop_assert_eq!(ours, header);
        for (code, value) in &values {
            prop_assert_eq!(options.get(*code), Some(&value[..]));
        }
    }

    #[test]
    fn junk_options_are_survived(area in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = Ask::discover(mac(1)).bytes();
        bytes.truncate(FIXED_LEN);
        bytes.extend(area);
        let _ = parse(&bytes);
    }
}
