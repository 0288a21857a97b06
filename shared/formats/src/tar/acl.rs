//! POSIX access control lists: the text in archives, and what the kernel keeps in the extended
//! attributes `system.posix_acl_access` and `system.posix_acl_default`.
//!
//! ```text
//! user::rwx,user:1000:r-x,group::r-x,mask::r-x,other::---      with numbers, or names
//! user:anna:r-x:1000                                           star's, with both
//! version 2 | tag, permissions, id: 16, 16, 32 bits each       little-endian, by tag and id
//! ```

/// Most entries: an extended attribute has at most 64 KiB.
const MAX_ENTRIES: usize = 8000;

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;
const ENTRY_BYTES: usize = 8;

/// Numbers of users and groups that a list names.
pub trait Names {
    /// The number of a user.
    fn user(&self, name: &str) -> Option<u32>;
    /// The number of a group.
    fn group(&self, name: &str) -> Option<u32>;
}

/// Why a list is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    /// It cannot be understood.
    #[error("entry {0:?} of its access control list cannot be understood")]
    Entry(String),
    /// It names somebody whom the system does not know.
    #[error(
        "its access control list is about {0:?}, whom the system in the archive does not know; add the \
         name to its /etc/passwd or /etc/group, or make the archive without --acls"
    )]
    Unknown(String),
    /// More than any filesystem takes.
    #[error("its access control list has too many entries")]
    TooLong,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
enum Tag {
    UserObject = 1,
    User = 2,
    GroupObject = 4,
    Group = 8,
    Mask = 16,
    Other = 32,
}

/// The value of the extended attribute for a list; `None` for an empty one.
pub fn posix_acl(text: &[u8], names: &dyn Names) -> Result<Option<Vec<u8>>, AclError> {
    let text = String::from_utf8_lossy(text);
    let mut entries = Vec::new();
    for line in text.split([',', '\n']) {
        // Comments say what the rights come to.
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if entries.len() == MAX_ENTRIES {
            return Err(AclError::TooLong);
        }
        entries.push(entry(line, names)?);
    }
    if entries.is_empty() {
        return Ok(None);
    }
    entries.sort_unstable();
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend((tag as u16).to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Ok(Some(value))
}

/// The text, with numbers only, of what the kernel keeps; `None` for what it cannot have made.
pub fn acl_text(value: &[u8]) -> Option<Vec<u8>> {
    let entries = value.strip_prefix(&VERSION.to_le_bytes())?.chunks_exact(ENTRY_BYTES);
    if !entries.remainder().is_empty() || entries.len() > MAX_ENTRIES {
        return None;
    }
    let mut lines = Vec::new();
    for entry in entries {
        let half = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let (kind, who) = match half(0) {
            tag if tag == Tag::UserObject as u16 => ("user", String::new()),
            tag if tag == Tag::User as u16 => ("user", id.to_string()),
            tag if tag == Tag::GroupObject as u16 => ("group", String::new()),
            tag if tag == Tag::Group as u16 => ("group", id.to_string()),
            tag if tag == Tag::Mask as u16 => ("mask", String::new()),
            tag if tag == Tag::Other as u16 => ("other", String::new()),
            _ => return None,
        };
        let bit = |bit: u16, letter| if half(2) & bit == 0 { '-' } else { letter };
        lines.push(format!("{kind}:{who}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x')));
    }
    Some(lines.join(",").into_bytes())
}

fn entry(line: &str, names: &dyn Names) -> Result<(Tag, u32, u16), AclError> {
    let bad = || AclError::Entry(line.chars().take(100).collect());
    let mut fields = line.split(':').map(str::trim);
    let (kind, first, second) =
        (fields.next().unwrap_or_default(), fields.next().ok_or_else(bad)?, fields.next());
    // `mask:r-x` is short for `mask::r-x`.
    let (who, permissions) = match second {
        Some(permissions) => (first, permissions),
        None => ("", first),
    };
    let number = fields.next().and_then(|number| number.parse().ok());
    let id = |of: fn(&dyn Names, &str) -> Option<u32>| {
        let id = number.or_else(|| who.parse().ok()).or_else(|| of(names, who));
        id.ok_or_else(|| AclError::Unknown(who.chars().take(100).collect()))
    };
    let (tag, id) = match (kind, who.is_empty()) {
        ("user" | "u", true) => (Tag::UserObject, NO_ID),
        ("user" | "u", false) => (Tag::User, id(|names, name| names.user(name))?),
        ("group" | "g", true) => (Tag::GroupObject, NO_ID),
        ("group" | "g", false) => (Tag::Group, id(|names, name| names.group(name))?),
        ("mask" | "m", true) => (Tag::Mask, NO_ID),
        ("other" | "o", true) => (Tag::Other, NO_ID),
        _ => return Err(bad()),
    };
    let mut bits = 0;
    for permission in permissions.bytes() {
        bits |= match permission {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return Err(bad()),
        };
    }
    Ok((tag, id, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Anna;

    impl Names for Anna {
        fn user(&self, name: &str) -> Option<u32> {
            (name == "anna").then_some(1000)
        }
        fn group(&self, _: &str) -> Option<u32> {
            None
        }
    }

    #[test]
    fn lists_with_numbers_and_names_become_what_the_kernel_keeps() {
        let text = b"user::rwx,user:anna:r-x,group::r-x,group:7:rw-,mask::rwx,other::---";
        let value = posix_acl(text, &Anna).unwrap().unwrap();
        let mut expected = vec![2, 0, 0, 0];
        for (tag, permissions, id) in [
            (1_u16, 7_u16, NO_ID),
            (2, 5, 1000),
            (4, 5, NO_ID),
            (8, 6, 7),
            (16, 7, NO_ID),
            (32, 0, NO_ID),
        ] {
            expected.extend(tag.to_le_bytes());
            expected.extend(permissions.to_le_bytes());
            expected.extend(id.to_le_bytes());
        }
        assert_eq!(value, expected);
        let numbers = b"user::rwx,user:1000:r-x,group::r-x,group:7:rw-,mask::rwx,other::---";
        assert_eq!(acl_text(&value).unwrap(), numbers);
        assert_eq!(acl_text(&value[..value.len() - 1]), None);
        let star =
            b"user::rwx\nuser:unknown:r-x:1000\ngroup::r-x\ngroup:x:rw-:7\nmask:rwx\nother:---\n";
        assert_eq!(posix_acl(star, &Anna).unwrap().unwrap(), expected);
        assert_eq!(posix_acl(b"", &Anna).unwrap(), None);
        assert_eq!(posix_acl(b"group:wheel:r--", &Anna), Err(AclError::Unknown("wheel".into())));
        assert!(matches!(posix_acl(b"everyone:rwx", &Anna), Err(AclError::Entry(_))));
    }
}
