//! Why the controller closes a connection or resets a stream: a number for programs, a text for the
//! agent's console.

use metalcast_shared::close;
use quinn::VarInt;
use std::borrow::Cow;

/// Why a connection ends; the numbers are those of [`metalcast_shared::close`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Close {
    /// All is done.
    Done,
    /// The controller stops; it will be back.
    Stopping,
    /// The peer broke the protocol.
    Protocol(Cow<'static, str>),
    /// The connection has no certificate, or one that names no node.
    NoCertificate,
    /// The node has another session, or is not to have one.
    Superseded,
    /// The controller failed to do its part.
    Internal(String),
    /// The peer was too slow.
    TooSlow(&'static str),
}

/// Longest reason sent; a close frame has to fit one packet.
const MAX_REASON_BYTES: usize = 512;

impl Close {
    /// Its number.
    pub fn code(&self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Done => close::DONE,
            Self::Stopping => close::STOPPING,
            Self::Protocol(_) => close::PROTOCOL,
            Self::NoCertificate => close::NO_CERTIFICATE,
            Self::Superseded => close::SUPERSEDED,
            Self::Internal(_) => close::INTERNAL,
            Self::TooSlow(_) => close::TOO_SLOW,
        })
    }

    /// Its number and its text, cut to what fits a packet.
    pub fn parts(&self) -> (VarInt, Vec<u8>) {
        let mut reason = self.to_string();
        let mut end = reason.len().min(MAX_REASON_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        (self.code(), reason.into_bytes())
    }

    /// Closes a connection.
    pub fn connection(&self, connection: &quinn::Connection) {
        let (code, reason) = self.parts();
        connection.close(code, &reason);
    }
}

impl std::fmt::Display for Close {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Stopping => f.write_str("the controller is stopping"),
            Self::Protocol(what) => write!(f, "protocol error: {what}"),
            Self::NoCertificate => {
                f.write_str("this needs a node's certificate, and the connection has none")
            }
            Self::Superseded => f.write_str("the controller ended the session"),
            Self::Internal(what) => write!(f, "the controller failed: {what}"),
            Self::TooSlow(what) => write!(f, "too slow: {what}"),
        }
    }
}
