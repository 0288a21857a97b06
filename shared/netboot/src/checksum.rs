//! The check sum of the Internet's headers (RFC 1071), in two parts: what is summed differs.

/// The sum of the 16-bit words, an odd last byte as the high half of one.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let words: u64 = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
    words + rest.first().map_or(0, |byte| u64::from(*byte) << 8)
}

/// The sum with its carries added in: `ffff` over something whole. Its complement is what to put into
/// a field that was 0.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
