//! Module alias patterns: `*`, `?` and `[...]` as in fnmatch(3) without flags, which is what
//! modprobe uses on `modules.alias`.

/// Whether `text` as a whole fits `pattern`. Time is bounded by the product of both lengths: only
/// the last `*` is ever tried again.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    loop {
        match step(&pattern[p..], text.get(t).copied()) {
            Step::Star => {
                p += 1;
                retry = Some((p, t));
            }
            Step::Fits(width) => {
                p += width;
                t += 1;
            }
            Step::End => return true,
            Step::Differs => match retry {
                Some((after_star, start)) if start < text.len() => {
                    p = after_star;
                    t = start + 1;
                    retry = Some((after_star, t));
                }
                _ => return false,
            },
        }
    }
}

enum Step {
    /// A `*`: anything may follow.
    Star,
    /// The next byte fits this many bytes of the pattern.
    Fits(usize),
    /// Both are at their end.
    End,
    /// No.
    Differs,
}

fn step(pattern: &[u8], byte: Option<u8>) -> Step {
    match (pattern.first(), byte) {
        (Some(b'*'), _) => Step::Star,
        (None, None) => Step::End,
        (None, Some(_)) | (Some(_), None) => Step::Differs,
        (Some(b'?'), Some(_)) => Step::Fits(1),
        (Some(b'['), Some(byte)) => match set(&pattern[1..], byte) {
            Some((true, width)) => Step::Fits(width + 1),
            Some((false, _)) => Step::Differs,
            // No closing bracket: it stands for itself.
            None if byte == b'[' => Step::Fits(1),
            None => Step::Differs,
        },
        (Some(b'\\'), Some(byte)) if pattern.len() > 1 => fits(pattern[1] == byte, 2),
        (Some(expected), Some(byte)) => fits(*expected == byte, 1),
    }
}

fn fits(equal: bool, width: usize) -> Step {
    if equal { Step::Fits(width) } else { Step::Differs }
}

/// Reads a set after its `[`; returns whether the byte is in it and the width up to and with `]`.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let first = at;
    let mut found = false;
    loop {
        let low = *pattern.get(at)?;
        if low == b']' && at > first {
            return Some((found != negated, at + 1));
        }
        let is_range = pattern.get(at + 1) == Some(&b'-')
            && pattern.get(at + 2).is_some_and(|high| *high != b']');
        let high = if is_range { pattern[at + 2] } else { low };
        found |= (low..=high).contains(&byte);
        at += if is_range { 3 } else { 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_real_modules() {
        for (pattern, text, expected) in [
            ("virtio:d00000001v*", "virtio:d00000001v00001AF4", true),
            ("virtio:d00000001v*", "virtio:d00000002v00001AF4", false),
            (
                "pci:v00001AF4d*sv*sd*bc*sc*i*",
                "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00",
                true,
            ),
            (
                "pci:v*d*sv*sd*bc01sc08i02*",
                "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02",
                true,
            ),
            (
                "pci:v*d*sv*sd*bc01sc08i02*",
                "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc06i02",
                false,
            ),
            ("usb:v0409p55AAd0[2-3]*", "usb:v0409p55AAd03dc", true),
            ("usb:v0409p55AAd0[2-3]*", "usb:v0409p55AAd04dc", false),
            ("fs-ext4", "fs-ext4", true),
            ("scsi:t-0x0[07]*", "scsi:t-0x00", true),
            ("a*b*c", "a-b-b-d-c", true),
            ("a*b*c", "a-b-b-c-d", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn sets_and_ends() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
            ("a", "", false),
            ("", "a", false),
            ("[!a]", "b", true),
            ("[!a]", "a", false),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("[a", "[a", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("**a", "xa", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
        let hostile = "*a".repeat(200);
        assert!(!matches(&hostile, &"a".repeat(150)));
    }
}
