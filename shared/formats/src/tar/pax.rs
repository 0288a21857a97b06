//! Extended headers of pax: records `<length> <key>=<value>\n`.

use super::member::{Time, Xattr};

/// Longest name of an extended attribute, and largest value, that Linux takes.
const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_BYTES: usize = 64 << 10;

const SCHILY: &[u8] = b"SCHILY.xattr.";
const LIBARCHIVE: &[u8] = b"LIBARCHIVE.xattr.";
const SELINUX: &[u8] = b"RHT.security.selinux";

/// A record.
pub(super) type Record = (Vec<u8>, Vec<u8>);

/// All records of an extended header.
pub(super) fn records(mut header: &[u8]) -> Result<Vec<Record>, &'static str> {
    const BAD: &str = "its extended header cannot be understood";
    let mut records = Vec::new();
    while !header.is_empty() {
        let space = header.iter().take(20).position(|byte| *byte == b' ').ok_or(BAD)?;
        let length = decimal(&header[..space]).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length > space + 1).ok_or(BAD)?;
        let record = header.get(space + 1..length).ok_or(BAD)?;
        let record = record.strip_suffix(b"\n").ok_or(BAD)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        header = &header[length..];
    }
    Ok(records)
}

/// Digits, and nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

/// Seconds since 1970 with a fraction of any length.
pub(super) fn time(text: &[u8]) -> Option<Time> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| u32::from(fraction.get(at).map_or(0, |digit| digit - b'0'));
    let nanos = (0..9).fold(0, |nanos, at| nanos * 10 + digit(at));
    match (is_negative, nanos) {
        (false, nanos) => Some(Time { seconds, nanos }),
        (true, 0) => Some(Time { seconds: -seconds, nanos }),
        (true, nanos) => Some(Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos }),
    }
}

/// The extended attribute that a record is, if it is one.
pub(super) fn xattr((key, value): &Record) -> Result<Option<Xattr>, &'static str> {
    let found = if let Some(name) = key.strip_prefix(SCHILY) {
        Xattr { name: key_decoded(name), value: value.clone() }
    } else if let Some(name) = key.strip_prefix(LIBARCHIVE) {
        let bad = "an extended attribute of it cannot be decoded";
        Xattr { name: url_decoded(name).ok_or(bad)?, value: base64(value).ok_or(bad)? }
    } else if key == SELINUX {
        Xattr { name: b"security.selinux".to_vec(), value: value.clone() }
    } else {
        return Ok(None);
    };
    let is_name = (1..=MAX_XATTR_NAME).contains(&found.name.len()) && !found.name.contains(&0);
    match is_name && found.value.len() <= MAX_XATTR_BYTES {
        true => Ok(Some(found)),
        false => Err("it has an extended attribute that no filesystem takes"),
    }
}

/// What GNU tar writes in a key instead of the two bytes that it cannot have there.
const ESCAPES: [(&[u8], u8); 2] = [(b"%3D", b'='), (b"%25", b'%')];

fn key_decoded(mut key: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(key.len());
    while let Some((first, behind)) = key.split_first() {
        let escape = ESCAPES.iter().find(|(escape, _)| key.starts_with(escape));
        let (byte, rest) = match escape {
            Some((escape, byte)) => (*byte, &key[escape.len()..]),
            None => (*first, behind),
        };
        decoded.push(byte);
        key = rest;
    }
    decoded
}

/// The key of an extended attribute's record.
pub(super) fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = SCHILY.to_vec();
    for byte in name {
        match ESCAPES.iter().find(|(_, escaped)| escaped == byte) {
            Some((escape, _)) => key.extend_from_slice(escape),
            None => key.push(*byte),
        }
    }
    key
}

/// Appends a record, whose length counts its own digits.
pub(super) fn push(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + b" =\n".len();
    let digits = |length: usize| length.to_string().len();
    let mut length = rest + digits(rest);
    length = rest + digits(length);
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The text of a time, which [`time`] reads.
pub(super) fn time_text(Time { seconds, nanos }: Time) -> String {
    match (seconds < 0, nanos) {
        (_, 0) => seconds.to_string(),
        (false, nanos) => format!("{seconds}.{nanos:09}"),
        (true, nanos) => {
            format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos)
        }
    }
}

fn url_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        if *first == b'%' {
            let digit = |at: usize| char::from(*behind.get(at)?).to_digit(16);
            decoded.push((digit(0)? * 16 + digit(1)?) as u8);
            rest = &behind[2..];
        } else {
            decoded.push(*first);
            rest = behind;
        }
    }
    Some(decoded)
}

/// RFC 4648, with or without padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.iter().filter(|byte| !matches!(byte, b'=' | b'\n' | b'\r')) {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_nanoseconds_on_either_side_of_1970() {
        for (text, expected) in [
            ("1700000000.123456789", Some((1_700_000_000, 123_456_789))),
            ("1700000000.5", Some((1_700_000_000, 500_000_000))),
            ("17.1234567899", Some((17, 123_456_789))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-3", Some((-3, 0))),
            ("3.", Some((3, 0))),
            (".5", None),
            ("1e3", None),
            ("99999999999999999999", None),
        ] {
            let expected = expected.map(|(seconds, nanos)| Time { seconds, nanos });
            assert_eq!(time(text.as_bytes()), expected, "{text}");
            let again = expected.map(|expected| time(time_text(expected).as_bytes()).unwrap());
            assert_eq!(again, expected, "{text}");
        }
    }

    #[test]
    fn what_libarchive_encodes_is_decoded() {
        let record = (b"LIBARCHIVE.xattr.user.a%3Db".to_vec(), b"aGVsbG8".to_vec());
        let xattr = xattr(&record).unwrap().unwrap();
        assert_eq!((&xattr.name[..], &xattr.value[..]), (&b"user.a=b"[..], &b"hello"[..]));
    }
}
