//! The BOOTP header and raw DHCP options (RFC 951, 2131 section 2, 2132, 3396).
//!
//! Options stay bytes here; their meaning is read one by one in `packet` and `client`. A general
//! DHCP crate was measured first and is kept as the tests' second opinion. It was not taken
//! because one malformed option (a host name that is not UTF-8, say) fails its whole message, its
//! lazy reader takes a truncated option for the end and panics on a long `hlen`, it ignores option
//! overload (52), cannot place option 82 last as RFC 3046 wants it, and draws random numbers.

use std::{collections::BTreeMap, net::Ipv4Addr};

/// Bytes before the options: header and magic cookie.
pub const FIXED_LEN: usize = 240;
/// RFC 951's smallest message; some relays and boot ROMs drop shorter ones.
pub const MIN_LEN: usize = 300;
/// Longest message read. Clients send under 600 bytes; 4 KiB leaves room for jumbo relays.
pub const MAX_LEN: usize = 4096;
/// What every client takes without saying so in option 57: 576 bytes with IP and UDP headers.
pub const DEFAULT_MAX_MESSAGE: usize = 576;
/// IPv4 and UDP headers, which option 57 counts in.
pub const IP_UDP_LEN: usize = 28;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const BROADCAST_FLAG: u16 = 0x8000;

/// Option codes used in this crate.
#[allow(missing_docs, reason = "the names are those of RFC 2132, 4578 and the iPXE registry")]
pub mod code {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const BROADCAST_ADDRESS: u8 = 28;
    pub const VENDOR_SPECIFIC: u8 = 43;
    pub const REQUESTED_IP: u8 = 50;
    pub const LEASE_SECONDS: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETER_LIST: u8 = 55;
    pub const MESSAGE_TEXT: u8 = 56;
    pub const MAX_MESSAGE: u8 = 57;
    pub const RENEWAL_SECONDS: u8 = 58;
    pub const REBINDING_SECONDS: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER_NAME: u8 = 66;
    pub const BOOT_FILE_NAME: u8 = 67;
    pub const USER_CLASS: u8 = 77;
    pub const RELAY_INFO: u8 = 82;
    pub const CLIENT_ARCH: u8 = 93;
    pub const MACHINE_UUID: u8 = 97;
    pub const SUBNET_SELECTION: u8 = 118;
    pub const IPXE: u8 = 175;
    pub const END: u8 = 255;
}

/// Why bytes are not a DHCP message over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Fewer than 240 bytes.
    #[error("{0} bytes are too short for a DHCP message")]
    TooShort(usize),
    /// More than [`MAX_LEN`] bytes.
    #[error("{0} bytes are too long for a DHCP message")]
    TooLong(usize),
    /// Plain BOOTP or something else altogether.
    #[error("the DHCP magic cookie is missing")]
    NoMagic,
    /// Not Ethernet with six-byte addresses.
    #[error("hardware type {htype} with address length {hlen} is not Ethernet")]
    NotEthernet {
        /// The header's `htype`.
        htype: u8,
        /// The header's `hlen`.
        hlen: u8,
    },
    /// An option runs over the end of its area.
    #[error("option {0} is cut short")]
    TruncatedOption(u8),
}

/// `op`: who sent the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// 1, from a client.
    Request,
    /// 2, from a server.
    Reply,
    /// Anything else.
    Other(u8),
}

/// The fixed part of a message, without `chaddr`'s padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Direction.
    pub op: Op,
    /// Relays passed.
    pub hops: u8,
    /// The client's transaction number.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// The client asks for broadcast replies.
    pub broadcast: bool,
    /// The client's address, if it has one and answers ARP for it.
    pub ciaddr: Ipv4Addr,
    /// The address given to the client.
    pub yiaddr: Ipv4Addr,
    /// Next server, the one with the boot file.
    pub siaddr: Ipv4Addr,
    /// Relay, or 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// The client's Ethernet address.
    pub chaddr: [u8; 6],
    /// Server name, at most 63 bytes, without NUL.
    pub sname: Vec<u8>,
    /// Boot file, at most 127 bytes, without NUL.
    pub file: Vec<u8>,
}

/// A message's options by code, the parts of one that came in several pieces joined (RFC 3396).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// The bytes of an option.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    /// An option of exactly `N` bytes; `None` if absent or of another length.
    pub fn fixed<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.get(code)?.try_into().ok()
    }

    /// An option that is one IPv4 address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.fixed::<4>(code).map(Ipv4Addr::from)
    }

    /// An option that is a list of IPv4 addresses; a rest of 1 to 3 bytes is dropped.
    pub fn addresses(&self, code: u8) -> impl Iterator<Item = Ipv4Addr> {
        let (quads, _) = self.get(code).unwrap_or_default().as_chunks::<4>();
        quads.iter().map(|quad| Ipv4Addr::from(*quad))
    }

    /// An option that is a 32-bit number.
    pub fn number(&self, code: u8) -> Option<u32> {
        self.fixed::<4>(code).map(u32::from_be_bytes)
    }

    fn read_area(&mut self, mut area: &[u8]) -> Result<(), WireError> {
        loop {
            match area {
                // RFC 2131 wants an end mark, some clients leave it out.
                [] | [code::END, ..] => return Ok(()),
                [code::PAD, rest @ ..] => area = rest,
                [code, len, rest @ ..] if rest.len() >= usize::from(*len) => {
                    let (value, rest) = rest.split_at(usize::from(*len));
                    self.0.entry(*code).or_default().extend_from_slice(value);
                    area = rest;
                }
                [code, ..] => return Err(WireError::TruncatedOption(*code)),
            }
        }
    }
}

/// Reads header and options.
pub fn parse(bytes: &[u8]) -> Result<(Header, Options), WireError> {
    if bytes.len() > MAX_LEN {
        return Err(WireError::TooLong(bytes.len()));
    }
    let Some((fixed, area)) = bytes.split_at_checked(FIXED_LEN) else {
        return Err(WireError::TooShort(bytes.len()));
    };
    if fixed[236..] != MAGIC {
        return Err(WireError::NoMagic);
    }
    let (htype, hlen) = (fixed[1], fixed[2]);
    if (htype, hlen) != (1, 6) {
        return Err(WireError::NotEthernet { htype, hlen });
    }
    let mut options = Options::default();
    options.read_area(area)?;
    let (sname, file) = (&fixed[44..108], &fixed[108..236]);
    // RFC 2132 section 9.3: bit 0 puts options into `file`, bit 1 into `sname`.
    let overload = options.fixed::<1>(code::OVERLOAD).map_or(0, |[bits]| bits & 3);
    let (file_is_options, sname_is_options) = (overload & 1 != 0, overload & 2 != 0);
    if file_is_options {
        options.read_area(file)?;
    }
    if sname_is_options {
        options.read_area(sname)?;
    }
    let header = Header {
        op: match fixed[0] {
            1 => Op::Request,
            2 => Op::Reply,
            other => Op::Other(other),
        },
        hops: fixed[3],
        xid: u32::from_be_bytes(array(fixed, 4)),
        secs: u16::from_be_bytes(array(fixed, 8)),
        broadcast: u16::from_be_bytes(array(fixed, 10)) & BROADCAST_FLAG != 0,
        ciaddr: array::<4>(fixed, 12).into(),
        yiaddr: array::<4>(fixed, 16).into(),
        siaddr: array::<4>(fixed, 20).into(),
        giaddr: array::<4>(fixed, 24).into(),
        chaddr: array(fixed, 28),
        sname: if sname_is_options { Vec::new() } else { text(sname) },
        file: if file_is_options { Vec::new() } else { text(file) },
    };
    Ok((header, options))
}

/// Copies out of the fixed part, whose length is known.
fn array<const N: usize>(fixed: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&fixed[at..at + N]);
    out
}

fn text(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// Builds a message: the header first, then options in the order they are put.
#[derive(Debug)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Starts with the header. Names too long for their field are left out of it, never cut: half
    /// a file name would be another file.
    pub fn new(header: &Header) -> Self {
        let mut out = Vec::with_capacity(512);
        let op = match header.op {
            Op::Request => 1,
            Op::Reply => 2,
            Op::Other(other) => other,
        };
        out.extend([op, 1, 6, header.hops]);
        out.extend(header.xid.to_be_bytes());
        out.extend(header.secs.to_be_bytes());
        out.extend(if header.broadcast { BROADCAST_FLAG } else { 0 }.to_be_bytes());
        for address in [header.ciaddr, header.yiaddr, header.siaddr, header.giaddr] {
            out.extend(address.octets());
        }
        out.extend(header.chaddr);
        out.resize(44, 0);
        for (name, end) in [(&header.sname, 108), (&header.file, 236)] {
            if out.len() + name.len() < end {
                out.extend(name);
            }
            out.resize(end, 0);
        }
        out.extend(MAGIC);
        Self(out)
    }

    /// Adds an option; more than 255 bytes go out in several pieces (RFC 3396).
    pub fn put(&mut self, code: u8, value: &[u8]) -> &mut Self {
        if value.is_empty() {
            self.0.extend([code, 0]);
        }
        for piece in value.chunks(255) {
            let len = u8::try_from(piece.len()).expect("chunks are at most 255 bytes");
            self.0.extend([code, len]);
            self.0.extend(piece);
        }
        self
    }

    /// Adds an option that is one or more addresses; none adds nothing.
    pub fn put_addresses(&mut self, code: u8, addresses: &[Ipv4Addr]) -> &mut Self {
        if addresses.is_empty() {
            return self;
        }
        let octets: Vec<u8> = addresses.iter().flat_map(Ipv4Addr::octets).collect();
        self.put(code, &octets)
    }

    /// Adds an option that is a 32-bit number.
    pub fn put_number(&mut self, code: u8, value: u32) -> &mut Self {
        self.put(code, &value.to_be_bytes())
    }

    /// The length so far, end mark not counted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true: the header is always there.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the options and pads to [`MIN_LEN`].
    pub fn finish(mut self) -> Vec<u8> {
        self.0.push(code::END);
        if self.0.len() < MIN_LEN {
            self.0.resize(MIN_LEN, 0);
        }
        self.0
    }
}

#[cfg(test)]
mod tests;
