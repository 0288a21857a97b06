//! The kernel's command line: the interface that netbooted, and our own options.

use anyhow::{Context, Result};
use metalcast_shared::id::Mac;
use std::collections::BTreeMap;
use std::path::Path;

/// What the command line says to us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// Address of the interface the machine booted through: `BOOTIF=01-52-54-00-12-34-56`, where 01
    /// is Ethernet (PXELINUX, IPAPPEND 2).
    pub bootif: Option<Mac>,
    /// `metalcast.NAME=VALUE` by name; without `=` the value is empty. The last one wins.
    pub options: BTreeMap<String, String>,
}

impl Cmdline {
    /// Reads it from `path`, which is `/proc/cmdline`.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self::parse(&text))
    }

    /// Understands what it can; all else is for the kernel. Values with blanks are quoted with `"`.
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for word in words(text) {
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            if name == "BOOTIF" {
                found.bootif = value.strip_prefix("01-").and_then(|mac| mac.parse().ok());
            } else if let Some(name) = name.strip_prefix("metalcast.") {
                found.options.insert(name.to_owned(), value.to_owned());
            }
        }
        found
    }
}

fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            blank if blank.is_whitespace() && !quoted => words.push(String::new()),
            other => words.last_mut().expect("it begins with one word").push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_found_among_the_rest() {
        let line = Cmdline::parse(
            "console=ttyS0,115200 BOOTIF=01-52-54-00-AB-cd-56 metalcast.note=\"two words\" \
             metalcast.quiet ro initrd=x\n",
        );
        assert_eq!(line.bootif, Some(Mac([0x52, 0x54, 0, 0xab, 0xcd, 0x56])));
        assert_eq!(line.options["note"], "two words");
        assert_eq!(line.options["quiet"], "");
        assert_eq!(line.options.len(), 2);
    }

    #[test]
    fn other_hardware_types_and_damage_are_no_address() {
        for text in [
            "",
            "BOOTIF=20-52-54-00-12-34-56",
            "BOOTIF=01-52",
            "BOOTIF",
            "bootif=01-52-54-00-12-34-56",
        ] {
            assert_eq!(Cmdline::parse(text).bootif, None, "{text}");
        }
    }
}
