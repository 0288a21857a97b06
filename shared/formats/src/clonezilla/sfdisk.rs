//! The output of `sfdisk --dump`, of any version: settings, then a row for each partition.
//!
//! ```text
//! label: gpt
//! first-lba: 34
//! /dev/sda2 : start=       36864, size=      163840, type=..., uuid=..., name="a \x22b\x22", attrs="GUID:60"
//! ```

use std::collections::BTreeMap;

/// Attribute bits of a GPT that sfdisk has words for.
const ATTRIBUTES: [(&str, u64); 3] =
    [("RequiredPartition", 1), ("NoBlockIOProtocol", 1 << 1), ("LegacyBIOSBootable", 1 << 2)];

/// What precedes the numbers of other bits.
const BITS: &str = "GUID:";

/// A partition of a dump.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row<'t> {
    pub(super) number: u16,
    /// Values as they stand there, without quotes; a word without a value has an empty one.
    fields: BTreeMap<&'t str, &'t str>,
}

/// The value of a setting before the rows.
pub(super) fn setting<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// The rows that are partitions. Clonezilla's renaming may leave other disks' names in them, but keeps
/// the numbers.
pub(super) fn rows(text: &str) -> impl Iterator<Item = Row<'_>> {
    text.lines().filter_map(|line| {
        let (device, fields) = line.strip_prefix("/dev/")?.split_once(':')?;
        let number = device.trim().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        let row = Row { number, fields: split(fields) };
        // Before 2.26 there are rows of partitions that are none.
        let is_empty = row.field("size").is_some_and(|size| size == "0");
        (!is_empty && row.kind().is_some()).then_some(row)
    })
}

/// Splits at commas outside of quotes.
fn split(text: &str) -> BTreeMap<&str, &str> {
    let mut is_quoted = false;
    let fields = text.split(move |c: char| {
        is_quoted ^= c == '"';
        c == ',' && !is_quoted
    });
    let parts = fields.map(|field| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        (name.trim(), value.trim())
    });
    parts.collect()
}

impl<'t> Row<'t> {
    /// A value.
    pub(super) fn field(&self, name: &str) -> Option<&'t str> {
        self.fields.get(name).copied()
    }

    /// The type: a byte in hexadecimal, or a GUID.
    pub(super) fn kind(&self) -> Option<&'t str> {
        self.field("type").or_else(|| self.field("Id"))
    }

    /// A number in decimal.
    pub(super) fn sectors(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    /// Whether it has the boot flag of an MBR.
    pub(super) fn is_bootable(&self) -> bool {
        self.field("bootable").is_some()
    }

    /// Its name; `None` if that is no text.
    pub(super) fn name(&self) -> Option<String> {
        unquoted(self.field("name").unwrap_or_default())
    }

    /// Its attribute bits; `None` if a word among them is not known.
    pub(super) fn attributes(&self) -> Option<u64> {
        let text = self.field("attrs").unwrap_or_default().trim_matches('"');
        text.split_whitespace().try_fold(0, |bits, word| {
            if let Some((_, bit)) = ATTRIBUTES.iter().find(|(name, _)| *name == word) {
                return Some(bits | bit);
            }
            word.trim_start_matches(BITS).split(',').try_fold(bits, |bits, number| {
                let number: u32 = number.parse().ok().filter(|number| *number < 64)?;
                Some(bits | 1 << number)
            })
        })
    }
}

/// What stands within the quotes; `\xHH` is a byte.
fn unquoted(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        let escaped = (*first == b'\\').then(|| rest.strip_prefix(b"x")?.split_at_checked(2));
        match escaped.flatten() {
            Some((digits, behind)) => {
                let digits = std::str::from_utf8(digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = behind;
            }
            None => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_old_and_new_dumps_are_read() {
        let text = "label: dos\nunit: sectors\n\n\
             /dev/loop7p1 : start=        2048, size=     8192, type=83, bootable\n\
             /dev/sda2 : start=     63, size=   100, Id= 5\n\
             /dev/sda3 : start=      0, size=     0, Id= 0\n";
        assert_eq!(setting(text, "label"), Some("dos"));
        let rows: Vec<Row<'_>> = rows(text).collect();
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (row.number, row.sectors("start"), row.kind(), row.is_bootable()))
            .collect();
        assert_eq!(seen, [(1, Some(2048), Some("83"), true), (2, Some(63), Some("5"), false)]);
    }

    #[test]
    fn names_may_hold_what_separates_and_attributes_are_bits() {
        let text = r#"/dev/sda1 : start=64, size=9, type=X, name="a, \x22b\x22=\xc3\xa4", attrs="RequiredPartition GUID:60,63""#;
        let row = rows(text).next().unwrap();
        assert_eq!(row.name().unwrap(), "a, \"b\"=ä");
        assert_eq!(row.attributes(), Some(1 | 1 << 60 | 1 << 63));
        for attributes in ["GUID:64", "GUID:", "Unheard"] {
            let text = format!("/dev/sda1 : type=X, attrs=\"{attributes}\"");
            assert_eq!(rows(&text).next().unwrap().attributes(), None, "{attributes}");
        }
        assert_eq!(rows("/dev/sda1 : type=X").next().unwrap().attributes(), Some(0));
    }
}
