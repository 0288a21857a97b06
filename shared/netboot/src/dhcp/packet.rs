//! A client's message as the server sees it: checked, typed, and classified by the program that
//! sent it (firmware, iPXE, operating system).
//!
//! What the protocol rests on (message type, addresses) must be right or the message is refused;
//! what only describes the client (host name, architecture, UUID) is dropped when malformed.

use super::wire::{self, Op, WireError, code};
use crate::mac::{Mac, is_station};
use std::net::Ipv4Addr;
use uuid::Uuid;

/// Relays count hops and stop at 16 (RFC 1542 section 4.1.1).
const MAX_HOPS: u8 = 16;

/// Why a datagram on port 67 is not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Not a DHCP message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// `op` is not 1; replies of other servers land here.
    #[error("not a request")]
    NotRequest,
    /// Went through more than 16 relays.
    #[error("{0} relay hops")]
    TooManyHops(u8),
    /// A group address or zeroes as the client's address.
    #[error("{0} cannot be a client's address")]
    BadMac(Mac),
    /// Option 53 is absent, of the wrong length, or a type clients do not send.
    #[error("no message type a client sends")]
    BadMessageType,
    /// An option the exchange rests on has the wrong length.
    #[error("option {0} has the wrong length")]
    BadOption(u8),
}

/// Option 53 as sent by clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// Looking for a server.
    Discover,
    /// Taking an offer, or keeping an address.
    Request,
    /// The address is in use by someone else.
    Decline,
    /// Giving the address back.
    Release,
    /// Has an address, wants the rest.
    Inform,
}

/// Option 93, the client's system architecture (RFC 4578 and the IANA registry after it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 0.
    Bios,
    /// 6.
    Ia32Efi,
    /// 7, and 9, which IANA calls EFI byte code and old x64 firmware sends for itself.
    X64Efi,
    /// 10.
    Arm32Efi,
    /// 11.
    Arm64Efi,
    /// 15.
    Ia32Http,
    /// 16.
    X64Http,
    /// 18.
    Arm32Http,
    /// 19.
    Arm64Http,
    /// 20.
    BiosHttp,
    /// 25 to 30: 32, 64 and 128 bits, PXE and HTTP in turn.
    Riscv(u16),
    /// 41, Raspberry Pi rpiboot.
    RaspberryPi,
    /// Any other number.
    Other(u16),
}

impl Arch {
    /// The meaning of a number in option 93.
    pub fn from_code(code: u16) -> Self {
        match code {
            0 => Self::Bios,
            6 => Self::Ia32Efi,
            7 | 9 => Self::X64Efi,
            10 => Self::Arm32Efi,
            11 => Self::Arm64Efi,
            15 => Self::Ia32Http,
            16 => Self::X64Http,
            18 => Self::Arm32Http,
            19 => Self::Arm64Http,
            20 => Self::BiosHttp,
            25..=30 => Self::Riscv(code),
            41 => Self::RaspberryPi,
            other => Self::Other(other),
        }
    }
}

/// Option 175: what an iPXE says about itself, as encapsulated options
/// (`src/include/ipxe/features.h` in iPXE: a feature is a one-byte option that is not 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpxeFeatures {
    /// 0x13.
    pub http: bool,
    /// 0x18.
    pub bzimage: bool,
    /// 0x24.
    pub efi: bool,
}

impl IpxeFeatures {
    fn read(mut area: &[u8]) -> Self {
        let mut features = Self { http: false, bzimage: false, efi: false };
        while let [code, len, rest @ ..] = area {
            let Some((value, rest)) = rest.split_at_checked(usize::from(*len)) else { break };
            area = rest;
            let on = value.iter().any(|byte| *byte != 0);
            match code {
                0x13 => features.http = on,
                0x18 => features.bzimage = on,
                0x24 => features.efi = on,
                _ => {}
            }
        }
        features
    }
}

/// The program that sent a request, as far as booting is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// iPXE that can fetch its script over HTTP.
    Ipxe,
    /// iPXE built without HTTP.
    IpxeWithoutHttp,
    /// A PXE boot ROM or UEFI PXE.
    Pxe,
    /// UEFI HTTP boot.
    UefiHttp,
    /// An operating system, an agent, a printer: nothing that boots from us.
    Plain,
}

/// A request that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Option 53.
    pub message_type: MessageType,
    /// Transaction number, echoed.
    pub xid: u32,
    /// Seconds since the client began trying.
    pub secs: u16,
    /// Replies must be broadcast.
    pub broadcast: bool,
    /// The client's Ethernet address.
    pub mac: Mac,
    /// The address the client uses already, or 0.0.0.0.
    pub ciaddr: Ipv4Addr,
    /// The relay, or 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// Option 50.
    pub requested_ip: Option<Ipv4Addr>,
    /// Option 54.
    pub server_id: Option<Ipv4Addr>,
    /// Option 61, raw.
    pub client_id: Option<Vec<u8>>,
    /// Option 12, if it is a plain host name.
    pub hostname: Option<String>,
    /// Option 55.
    pub parameters: Vec<u8>,
    /// The longest message the client takes, in bytes without IP and UDP headers (option 57).
    pub max_reply_len: usize,
    /// Option 93, or else the number in option 60.
    pub arch: Option<Arch>,
    /// Option 60, raw.
    pub vendor_class: Option<Vec<u8>>,
    /// Option 77, raw.
    pub user_class: Option<Vec<u8>>,
    /// Option 97 decoded.
    pub machine_uuid: Option<Uuid>,
    /// Option 97 as it came, to be echoed (PXE 2.1 section 2.2.2).
    pub machine_uuid_raw: Option<Vec<u8>>,
    /// Option 175.
    pub ipxe: Option<IpxeFeatures>,
    /// Option 82, raw, to be echoed to the relay.
    pub relay_info: Option<Vec<u8>>,
    /// Option 118 (RFC 3011), to be echoed.
    pub subnet_selection: Option<Ipv4Addr>,
}

impl Request {
    /// Reads a datagram received on port 67.
    pub fn parse(bytes: &[u8]) -> Result<Self, PacketError> {
        let (header, options) = wire::parse(bytes)?;
        let mac = Mac(header.chaddr);
        if header.op != Op::Request {
            return Err(PacketError::NotRequest);
        }
        if header.hops > MAX_HOPS {
            return Err(PacketError::TooManyHops(header.hops));
        }
        if !is_station(mac) {
            return Err(PacketError::BadMac(mac));
        }
        let message_type = match options.fixed::<1>(code::MESSAGE_TYPE) {
            Some([1]) => MessageType::Discover,
            Some([3]) => MessageType::Request,
            Some([4]) => MessageType::Decline,
            Some([7]) => MessageType::Release,
            Some([8]) => MessageType::Inform,
            _ => return Err(PacketError::BadMessageType),
        };
        let address = |code| match options.get(code) {
            None => Ok(None),
            Some(_) => options.address(code).ok_or(PacketError::BadOption(code)).map(Some),
        };
        let raw = |code| options.get(code).map(<[u8]>::to_vec);
        let max_message = options.fixed::<2>(code::MAX_MESSAGE).map_or(0, u16::from_be_bytes);
        let uuid = options.get(code::MACHINE_UUID);
        Ok(Self {
            message_type,
            xid: header.xid,
            secs: header.secs,
            broadcast: header.broadcast,
            mac,
            ciaddr: header.ciaddr,
            giaddr: header.giaddr,
            requested_ip: address(code::REQUESTED_IP)?,
            server_id: address(code::SERVER_ID)?,
            client_id: raw(code::CLIENT_ID),
            hostname: options.get(code::HOST_NAME).and_then(host_name),
            parameters: raw(code::PARAMETER_LIST).unwrap_or_default(),
            max_reply_len: usize::from(max_message).max(wire::DEFAULT_MAX_MESSAGE)
                - wire::IP_UDP_LEN,
            arch: options
                .get(code::CLIENT_ARCH)
                .and_then(|list| list.first_chunk())
                .map(|first| u16::from_be_bytes(*first))
                .or_else(|| options.get(code::VENDOR_CLASS).and_then(arch_in_vendor_class))
                .map(Arch::from_code),
            vendor_class: raw(code::VENDOR_CLASS),
            user_class: raw(code::USER_CLASS),
            machine_uuid: uuid.and_then(machine_uuid),
            machine_uuid_raw: uuid.filter(|raw| matches!(raw.len(), 0 | 17)).map(<[u8]>::to_vec),
            ipxe: options.get(code::IPXE).map(IpxeFeatures::read),
            relay_info: raw(code::RELAY_INFO),
            subnet_selection: options.address(code::SUBNET_SELECTION),
        })
    }

    /// True if a relay passed it on.
    pub fn is_relayed(&self) -> bool {
        !self.giaddr.is_unspecified()
    }

    /// An address of the link that a relayed client is on: where the relay says so (RFC 3527), else
    /// where a subnet is asked for (RFC 3011), else the relay's own address. Without a relay both
    /// would let any client choose, so they are not looked at.
    pub fn link(&self) -> Option<Ipv4Addr> {
        const LINK_SELECTION: u8 = 5;
        self.is_relayed().then(|| {
            self.relay_address(LINK_SELECTION).or(self.subnet_selection).unwrap_or(self.giaddr)
        })
    }

    /// The server identifier that a relay has its clients see (RFC 5107), so that they also renew
    /// through it.
    pub fn server_id_override(&self) -> Option<Ipv4Addr> {
        const SERVER_ID_OVERRIDE: u8 = 11;
        self.is_relayed().then(|| self.relay_address(SERVER_ID_OVERRIDE)).flatten()
    }

    /// A sub-option of option 82 that is one address.
    fn relay_address(&self, wanted: u8) -> Option<Ipv4Addr> {
        let mut rest = self.relay_info.as_deref()?;
        while let [code, len, tail @ ..] = rest {
            let (value, tail) = tail.split_at_checked(usize::from(*len))?;
            if *code == wanted {
                return value.first_chunk::<4>().filter(|_| *len == 4).copied().map(Ipv4Addr::from);
            }
            rest = tail;
        }
        None
    }

    /// Who is asking. iPXE also says `PXEClient`, so its user class is looked at first.
    pub fn program(&self) -> Program {
        let vendor = self.vendor_class.as_deref().unwrap_or_default();
        if self.user_class.as_deref().is_some_and(is_ipxe) {
            match self.ipxe {
                Some(IpxeFeatures { http: false, .. }) => Program::IpxeWithoutHttp,
                Some(_) | None => Program::Ipxe,
            }
        } else if vendor.starts_with(b"PXEClient") {
            Program::Pxe
        } else if vendor.starts_with(b"HTTPClient") {
            Program::UefiHttp
        } else {
            Program::Plain
        }
    }
}

/// iPXE puts its name into option 77 as it is; RFC 3004 wants a length byte before every class.
/// Both are taken.
fn is_ipxe(user_class: &[u8]) -> bool {
    const NAME: &[u8] = b"iPXE";
    if user_class == NAME {
        return true;
    }
    let mut rest = user_class;
    while let [len, tail @ ..] = rest {
        let Some((class, tail)) = tail.split_at_checked(usize::from(*len)) else { return false };
        if class == NAME {
            return true;
        }
        rest = tail;
    }
    false
}

/// `PXEClient:Arch:00007:UNDI:003016`: firmware that leaves option 93 out still says it here.
fn arch_in_vendor_class(vendor_class: &[u8]) -> Option<u16> {
    let rest = vendor_class
        .strip_prefix(b"PXEClient:Arch:")
        .or_else(|| vendor_class.strip_prefix(b"HTTPClient:Arch:"))?;
    str::from_utf8(rest.get(..5)?).ok()?.parse().ok()
}

/// Type 0 and the SMBIOS UUID in its own byte order, first three fields little-endian (RFC 4578
/// section 2.3, SMBIOS 2.6 section 7.2.1).
fn machine_uuid(raw: &[u8]) -> Option<Uuid> {
    let [0, uuid @ ..] = raw else { return None };
    Some(Uuid::from_bytes_le(uuid.try_into().ok()?))
}

/// A name of letters, digits, `-`, `_` and dots, up to 63 bytes; a trailing NUL, which some clients
/// send, is cut off. Anything else would only make trouble in logs and files.
fn host_name(raw: &[u8]) -> Option<String> {
    let raw = raw.strip_suffix(b"\0").unwrap_or(raw);
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ((1..=63).contains(&raw.len()) && raw.iter().all(fits))
        .then(|| raw.iter().copied().map(char::from).collect())
}

#[cfg(test)]
mod tests;
