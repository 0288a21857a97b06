//! The one form of `Range` that boot programs use (RFC 9110 section 14): a single range of bytes.

use std::ops::Range;

/// What part of a file is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: there is no range, or one that a server may ignore.
    Whole,
    /// These bytes, never none.
    Part(Range<u64>),
    /// Nothing that the file has: 416.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `len` bytes. What is malformed or has several ranges is
/// ignored, as the standard allows.
pub fn parse(header: &str, len: u64) -> Wanted {
    let Some((first, last)) =
        header.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Wanted::Whole;
    };
    let number = |text: &str| -> Result<Option<u64>, ()> {
        match text {
            "" => Ok(None),
            text if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                // More digits than fit mean "to the end" or "beyond it".
                Ok(Some(text.parse().unwrap_or(u64::MAX)))
            }
            _ => Err(()),
        }
    };
    match (number(first), number(last)) {
        (Ok(Some(first)), Ok(Some(last))) if first > last => Wanted::Whole,
        (Ok(Some(first)), Ok(_)) if first >= len => Wanted::Unsatisfiable,
        (Ok(Some(first)), Ok(last)) => {
            Wanted::Part(first..last.map_or(len, |last| last.saturating_add(1).min(len)))
        }
        (Ok(None), Ok(Some(0))) => Wanted::Unsatisfiable,
        (Ok(None), Ok(Some(_))) if len == 0 => Wanted::Unsatisfiable,
        (Ok(None), Ok(Some(suffix))) => Wanted::Part(len.saturating_sub(suffix)..len),
        (Ok(None), Ok(None)) | (Err(()), _) | (_, Err(())) => Wanted::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read() {
        for (header, expected) in [
            ("bytes=0-99", Wanted::Part(0..100)),
            ("bytes=500-", Wanted::Part(500..1000)),
            ("bytes=-200", Wanted::Part(800..1000)),
            ("bytes=-2000", Wanted::Part(0..1000)),
            ("bytes=999-5000", Wanted::Part(999..1000)),
            ("bytes=0-99999999999999999999999", Wanted::Part(0..1000)),
            ("bytes=1000-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
        ] {
            assert_eq!(parse(header, 1000), expected, "{header}");
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Unsatisfiable);
        assert_eq!(parse("bytes=-5", 0), Wanted::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(header in "bytes=[0-9]{0,22}-[0-9]{0,22}|.{0,40}", len: u64) {
            if let Wanted::Part(part) = parse(&header, len) {
                prop_assert!(part.start < part.end && part.end <= len);
            }
        }
    }
}
