//! Messages as bytes: postcard behind a 32-bit big-endian length, with a limit that the reader
//! sets. A peer cannot make us allocate more than that limit.

use serde::{Serialize, de::DeserializeOwned};

/// Most bytes in one message of a session: an inventory of a machine with hundreds of disks fits.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Bytes of the length that precedes every message.
pub const LENGTH_BYTES: usize = 4;

/// Why bytes are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Longer than the reader allows.
    #[error("message of {bytes} bytes, but at most {limit} are allowed")]
    TooLong {
        /// Announced or real length.
        bytes: usize,
        /// The reader's limit.
        limit: usize,
    },
    /// Not a message of this kind and version.
    #[error("message cannot be decoded: {0}")]
    Malformed(String),
    /// A message followed by something else.
    #[error("{0} bytes too many after the message")]
    TrailingBytes(usize),
}

/// The bytes of a message, without length.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("our messages hold nothing that postcard cannot encode")
}

/// The bytes of a message behind its length.
pub fn encode_framed<T: Serialize>(message: &T) -> Vec<u8> {
    let body = encode(message);
    let length = u32::try_from(body.len()).expect("messages are bounded far below 4 GiB");
    let mut framed = Vec::with_capacity(LENGTH_BYTES + body.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&body);
    framed
}

/// Reads the length that precedes a message.
pub fn decode_length(length: [u8; LENGTH_BYTES], limit: usize) -> Result<usize, CodecError> {
    let bytes = u32::from_be_bytes(length) as usize;
    if bytes > limit { Err(CodecError::TooLong { bytes, limit }) } else { Ok(bytes) }
}

/// Reads a message that fills `bytes` exactly.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLong { bytes: bytes.len(), limit });
    }
    let (message, rest) = postcard::take_from_bytes(bytes)
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    if rest.is_empty() { Ok(message) } else { Err(CodecError::TrailingBytes(rest.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_framed_is_read_back() {
        let framed = encode_framed(&("node", 7u32));
        let (length, body) = framed.split_at(LENGTH_BYTES);
        let bytes = decode_length(length.try_into().unwrap(), 100).unwrap();
        assert_eq!(bytes, body.len());
        assert_eq!(decode::<(String, u32)>(body, 100).unwrap(), ("node".to_owned(), 7));
    }

    #[test]
    fn limits_and_leftovers_are_refused() {
        assert!(decode_length(100u32.to_be_bytes(), 99).is_err());
        assert_eq!(decode::<u8>(&[1, 2], 10), Err(CodecError::TrailingBytes(1)));
        assert!(matches!(decode::<u8>(&[0; 11], 10), Err(CodecError::TooLong { .. })));
        assert!(matches!(decode::<String>(&[200, 1], 10), Err(CodecError::Malformed(_))));
    }
}
