//! Identifiers: nodes, jobs, boots, MAC addresses and image names.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// A node, for as long as the controller knows it. Names may change, this does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub Uuid);

/// One netboot of one machine, named by the controller when it hands out the boot script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub Uuid);

/// A job, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

/// One node's share of a job. The generation rises with every hand-out to a fresh agent, so that
/// reports of an agent that was rebooted away are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId {
    /// The job.
    pub job: JobId,
    /// The node that carries it out.
    pub node: NodeId,
    /// Hand-out number, from 1.
    pub generation: u32,
}

macro_rules! display_inner {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_inner!(NodeId, BootId, JobId);

/// Why a piece of text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not six hexadecimal pairs.
    #[error("{0:?} is not a MAC address such as 52:54:00:12:34:56")]
    Mac(String),
    /// Not `project/name`.
    #[error(
        "{0:?} is not an image name: write project/name, each 1 to 64 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit"
    )]
    Image(String),
    /// Not `project/name@7`.
    #[error("{0:?} is not an image revision: write project/name or project/name@7")]
    Revision(String),
}

/// An Ethernet address. Text form `52:54:00:12:34:56`; `-` or nothing between the pairs is read too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The form used in file names and URLs: `52-54-00-12-34-56`.
    pub fn dashed(&self) -> String {
        self.to_string().replace(':', "-")
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError::Mac(text.chars().take(64).collect());
        let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-')).collect();
        if digits.len() != 12 || text.len() > 17 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut mac = [0; 6];
        for (byte, pair) in mac.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(mac))
    }
}

/// `project/name`: what an operator calls an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    project: String,
    name: String,
}

impl ImageName {
    /// The owning project.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The name within the project.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// One immutable state of an image, `project/name@7`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision {
    /// The image.
    pub image: ImageName,
    /// Its number, from 1.
    pub number: u32,
}

/// What an operator writes for an image: a revision, or a name that stands for its newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// The image.
    pub image: ImageName,
    /// The revision, if one was named.
    pub number: Option<u32>,
}

fn is_component(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}

impl FromStr for ImageName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.split_once('/') {
            Some((project, name)) if is_component(project) && is_component(name) => {
                Ok(Self { project: project.to_owned(), name: name.to_owned() })
            }
            _ => Err(IdError::Image(text.chars().take(160).collect())),
        }
    }
}

impl FromStr for ImageRef {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let Some((image, number)) = text.split_once('@') else {
            return Ok(Self { image: text.parse()?, number: None });
        };
        let number = number
            .parse()
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| IdError::Revision(text.chars().take(160).collect()))?;
        Ok(Self { image: image.parse()?, number: Some(number) })
    }
}

impl FromStr for Revision {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let ImageRef { image, number } = text.parse()?;
        let number = number.ok_or_else(|| IdError::Revision(text.chars().take(160).collect()))?;
        Ok(Self { image, number })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.name)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.image, self.number)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "{}@{number}", self.image),
            None => self.image.fmt(f),
        }
    }
}

/// Identifiers with a text form travel as that text, in JSON and on the wire.
macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Mac, ImageName, Revision, ImageRef);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mac_reads_the_usual_spellings() {
        for text in ["52:54:00:ab:cd:ef", "52-54-00-AB-CD-EF", "525400abcdef"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), "52:54:00:ab:cd:ef");
        }
        for text in
            ["", "52:54:00:ab:cd", "52:54:00:ab:cd:eg", "é2:54:00:ab:cd:ef", "+2:54:00:ab:cd:ef"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn image_names_never_leave_their_directory() {
        for text in ["a", "a/", "/b", "../b", "a/..", "a/b/c", "a/.b", "A/b", "a/b@0", "a/b@x"] {
            assert!(text.parse::<ImageRef>().is_err(), "{text}");
        }
        assert_eq!("lab/debian-12@7".parse::<Revision>().unwrap().to_string(), "lab/debian-12@7");
        assert!("lab/debian".parse::<Revision>().is_err());
    }

    proptest! {
        #[test]
        fn text_forms_round_trip(bytes: [u8; 6], number in 1u32.., p in "[a-z0-9][a-z0-9._-]{0,20}") {
            let mac = Mac(bytes);
            prop_assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
            prop_assert_eq!(mac.dashed().parse::<Mac>().unwrap(), mac);
            let text = format!("{p}/{p}@{number}");
            prop_assert_eq!(text.parse::<Revision>().unwrap().to_string(), text);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".*") {
            let _ = (text.parse::<Mac>(), text.parse::<ImageRef>(), text.parse::<Revision>());
        }
    }
}
