//! Why the controller closes a connection or resets a stream: a number for programs, a text for the
//! agent's console.

use quinn::VarInt;
use std::borrow::Cow;

/// Why a connection ends. The numbers are part of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Close {
    /// 0: all is done.
    Done,
    /// 1: the controller stops; it will be back.
    Stopping,
    /// 2: the peer broke the protocol.
    Protocol(Cow<'static, str>),
    /// 3: the connection has no certificate, or one that names no node.
    NoCertificate,
    /// 4: the node has another session, or is not to have one.
    Superseded,
    /// 5: the controller failed to do its part.
    Internal(String),
    /// 6: the peer was too slow.
    TooSlow(&'static str),
}

/// Longest reason sent; a close frame has to fit one packet.
const MAX_REASON_BYTES: usize = 512;

impl Close {
    /// Its number.
    pub fn code(&self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Done => 0,
            Self::Stopping => 1,
            Self::Protocol(_) => 2,
            Self::NoCertificate => 3,
            Self::Superseded => 4,
            Self::Internal(_) => 5,
            Self::TooSlow(_) => 6,
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
