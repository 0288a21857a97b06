//! What lies compressed in a RAM image: each module and each bundle of tools is one zstd frame, which
//! is unpacked when it is needed and not before.

use std::io;

/// What the names of such files end with.
pub const SUFFIX: &str = ".zst";
/// zstd's highest ordinary level: it unpacks as fast as any.
const LEVEL: i32 = 19;
/// Longest content that is unpacked; the largest module and the largest bundle have a tenth of it.
pub const CONTENT_LIMIT: usize = 64 << 20;

/// Why a packed file could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Not a frame, or one that does not begin with its content's length.
    #[error("not a zstd frame that says how long its content is")]
    Frame,
    /// Longer than anything that belongs into a RAM image.
    #[error("{0} bytes of content, more than the limit of {CONTENT_LIMIT}")]
    TooLong(u64),
    /// The frame breaks off, or its content is not what it was.
    #[error("unpacking")]
    Damaged(#[source] io::Error),
}

/// Packs one file. Equal contents give equal bytes.
pub fn pack(content: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(content, LEVEL)
}

/// Names how [`pack`] packs: another version of the library may give other bytes.
pub fn method() -> String {
    format!("zstd{}-{LEVEL}", zstd::zstd_safe::version_number())
}

/// The content of a packed file.
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let length = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten();
    let length = length.ok_or(UnpackError::Frame)?;
    let capacity = usize::try_from(length).ok().filter(|length| *length <= CONTENT_LIMIT);
    let capacity = capacity.ok_or(UnpackError::TooLong(length))?;
    zstd::bulk::decompress(packed, capacity).map_err(UnpackError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_and_lengths_are_believed_up_to_the_limit() {
        let content = b"the same words again and again ".repeat(1000);
        let packed = pack(&content).unwrap();
        assert!(packed.len() < 200);
        assert_eq!(unpack(&packed).unwrap(), content);
        for length in 0..packed.len() {
            assert!(unpack(&packed[..length]).is_err(), "{length}");
        }
        assert!(matches!(unpack(b"\x7fELF"), Err(UnpackError::Frame)));
        // A frame with an 8-byte content size (RFC 8878, 3.1.1.1) of 1 TiB.
        let mut bomb = b"\x28\xb5\x2f\xfd\xe0".to_vec();
        bomb.extend((1_u64 << 40).to_le_bytes());
        assert!(matches!(unpack(&bomb), Err(UnpackError::TooLong(length)) if length == 1 << 40));
    }
}
