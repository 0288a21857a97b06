//! What comes to port 69.

const OP_READ: u16 = 1;
const OP_WRITE: u16 = 2;
const OP_ERROR: u16 = 5;

/// Longest request read; RFC 2347 says 512 bytes.
const MAX_REQUEST: usize = 512;
/// Longest file name taken.
const MAX_NAME: usize = 255;

/// How the client wants line ends. Served alike, see the module above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bytes as they are.
    Octet,
    /// Asked for text.
    Netascii,
}

/// The options asked for, those out of range left out as if never sent (RFC 2347 allows it).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes a block, 8 to 65464.
    pub blksize: Option<u16>,
    /// The size of the file is wanted.
    pub tsize: bool,
    /// Seconds before a repeat, 1 to 255.
    pub timeout_secs: Option<u8>,
    /// Blocks an ACK, 1 to 65535.
    pub windowsize: Option<u16>,
}

/// A request to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Relative, `/` between the parts, without empty ones, `.` or `..`.
    pub filename: String,
    /// How.
    pub mode: Mode,
    /// And with what.
    pub options: Options,
}

/// Why a datagram on port 69 starts no transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a request at all: data, an ACK or error that came astray. Not answered, or two servers
    /// could go on answering each other.
    #[error("not a request")]
    NotRequest,
    /// Too long, cut short, or not text.
    #[error("malformed request")]
    Malformed,
    /// A request to write.
    #[error("writing is not allowed")]
    Write,
    /// Neither octet nor netascii.
    #[error("unknown transfer mode")]
    Mode,
    /// A file name that is empty, too long, or leads out of the served files.
    #[error("file name not allowed")]
    Name,
}

impl RequestError {
    /// The ERROR packet to answer with, if it is to be answered.
    pub fn reply(self) -> Option<Vec<u8>> {
        // RFC 1350: 2 is an access violation, 4 an illegal operation.
        let code = match self {
            Self::NotRequest => return None,
            Self::Write | Self::Name => 2,
            Self::Malformed | Self::Mode => 4,
        };
        Some(error_packet(code, &self.to_string()))
    }
}

/// An ERROR packet; code 1 says "file not found".
pub fn error_packet(code: u16, message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + message.len());
    out.extend(OP_ERROR.to_be_bytes());
    out.extend(code.to_be_bytes());
    out.extend(message.bytes().filter(|byte| *byte != 0));
    out.push(0);
    out
}

impl Request {
    /// Reads a datagram received on port 69.
    pub fn parse(datagram: &[u8]) -> Result<Self, RequestError> {
        let Some((op, body)) = datagram.split_first_chunk::<2>() else {
            return Err(RequestError::NotRequest);
        };
        match u16::from_be_bytes(*op) {
            OP_READ => {}
            OP_WRITE => return Err(RequestError::Write),
            _ => return Err(RequestError::NotRequest),
        }
        if datagram.len() > MAX_REQUEST {
            return Err(RequestError::Malformed);
        }
        let body = body.strip_suffix(b"\0").ok_or(RequestError::Malformed)?;
        let mut fields = body.split(|byte| *byte == 0).map(str::from_utf8);
        let mut field = || fields.next().transpose().map_err(|_| RequestError::Malformed);
        let name = field()?.ok_or(RequestError::Malformed)?;
        let mode = match field()?.ok_or(RequestError::Malformed)?.to_ascii_lowercase().as_str() {
            "octet" => Mode::Octet,
            "netascii" => Mode::Netascii,
            _ => return Err(RequestError::Mode),
        };
        let mut options = Options::default();
        // Some ROMs pad the request with zeroes: an empty name ends the options.
        while let Some(option) = field()?.filter(|name| !name.is_empty()) {
            let value = field()?.ok_or(RequestError::Malformed)?;
            options.read(option, value);
        }
        Ok(Self { filename: normalise(name)?, mode, options })
    }
}

impl Options {
    fn read(&mut self, name: &str, value: &str) {
        match name.to_ascii_lowercase().as_str() {
            "blksize" => {
                self.blksize = value.parse().ok().filter(|size| (8..=65464).contains(size));
            }
            "tsize" => self.tsize = value.parse::<u64>().is_ok(),
            "timeout" => self.timeout_secs = value.parse().ok().filter(|secs| *secs > 0),
            "windowsize" => self.windowsize = value.parse().ok().filter(|size| *size > 0),
            // RFC 2347: what is not known is not acknowledged.
            _ => {}
        }
    }
}

/// Clients write `/x`, `\x`, `//x` or `./x` for `x`.
fn normalise(name: &str) -> Result<String, RequestError> {
    if name.len() > MAX_NAME || !name.bytes().all(|byte| (32..127).contains(&byte)) {
        return Err(RequestError::Name);
    }
    let parts: Vec<&str> =
        name.split(['/', '\\']).filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.is_empty() || parts.contains(&"..") {
        return Err(RequestError::Name);
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(fields: &[&str]) -> Vec<u8> {
        let mut out = vec![0, 1];
        for field in fields {
            out.extend(field.bytes());
            out.push(0);
        }
        out
    }

    /// As captured from OVMF 2022.11 and Debian 12's iPXE.
    #[test]
    fn requests_of_real_firmware() {
        let ovmf =
            read(&["snponly.efi", "octet", "tsize", "0", "blksize", "1468", "windowsize", "4"]);
        assert_eq!(
            Request::parse(&ovmf),
            Ok(Request {
                filename: "snponly.efi".into(),
                mode: Mode::Octet,
                options: Options {
                    blksize: Some(1468),
                    tsize: true,
                    timeout_secs: None,
                    windowsize: Some(4)
                },
            })
        );
        let ipxe = read(&["undionly.kpxe", "octet", "blksize", "1432", "tsize", "0"]);
        assert_eq!(Request::parse(&ipxe).unwrap().options.blksize, Some(1432));
    }

    #[test]
    fn names_stay_inside() {
        for (name, is) in [
            ("/a/b", "a/b"),
            ("\\a\\b", "a/b"),
            ("//a/./b", "a/b"),
            ("a..b", "a..b"),
            ("...", "..."),
        ] {
            assert_eq!(Request::parse(&read(&[name, "OCTET"])).unwrap().filename, is);
        }
        for name in ["", "/", ".", "..", "../a", "a/../../b", "a\\..\\b", "a\nb", &"x".repeat(256)]
        {
            assert_eq!(Request::parse(&read(&[name, "octet"])), Err(RequestError::Name), "{name}");
        }
    }

    #[test]
    fn what_is_refused_and_how() {
        let code = |datagram: &[u8]| {
            let reply = Request::parse(datagram).unwrap_err().reply();
            reply.map(|packet| (packet[1], packet[3]))
        };
        assert_eq!(code(b"\0\x02a\0octet\0"), Some((5, 2)));
        assert_eq!(code(b"\0\x01a\0mail\0"), Some((5, 4)));
        assert_eq!(code(b"\0\x01a\0octet"), Some((5, 4)));
        assert_eq!(code(b"\0\x01a\0"), Some((5, 4)));
        assert_eq!(code(b"\0\x01a\0octet\0tsize\0"), Some((5, 4)));
        assert_eq!(code(&read(&["../a", "octet"])), Some((5, 2)));
        for stray in [&b""[..], b"\0", b"\0\x03\0\x01x", b"\0\x04\0\x01", b"\0\x05\0\0\0"] {
            assert_eq!(code(stray), None);
        }
    }

    #[test]
    fn options_out_of_range_are_as_if_never_sent() {
        let datagram = read(&[
            "a",
            "netascii",
            "blksize",
            "7",
            "timeout",
            "0",
            "windowsize",
            "0",
            "tsize",
            "x",
            "foo",
            "1",
            "",
            "",
        ]);
        let request = Request::parse(&datagram).unwrap();
        assert_eq!(request.options, Options::default());
        assert_eq!(request.mode, Mode::Netascii);
    }

    proptest! {
        #[test]
        fn junk_is_survived(body in proptest::collection::vec(any::<u8>(), 0..600), op in 0u8..7) {
            let datagram = [&[0, op], &body[..]].concat();
            if let Ok(request) = Request::parse(&datagram) {
                prop_assert!(request.filename.split('/').all(|part| !matches!(part, "" | "." | "..")));
            }
        }
    }
}
