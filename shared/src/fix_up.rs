//! How a deployed system is adapted to its node and slot, as far as an operator has a say in it.

use crate::post_install::PostInstall;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Most words that are added to a kernel's command line; the whole line may have 2048 bytes on x86
/// (Linux, `COMMAND_LINE_SIZE`).
pub const MAX_KERNEL_ARGS: usize = 32;

/// Longest word of a kernel's command line, in bytes.
const MAX_KERNEL_ARG_BYTES: usize = 256;

/// Most keys that a root account is given at once.
pub const MAX_AUTHORIZED_KEYS: usize = 256;

/// Longest line of `authorized_keys`, in bytes: sshd(8) reads no longer ones.
const MAX_KEY_BYTES: usize = 8 << 10;

/// What an operator has a say in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Adaptation {
    /// Steps that are left out.
    pub without: Vec<FixUpStep>,
    /// Keys that may log in as root, beside those of the image.
    pub authorized_keys: Vec<AuthorizedKey>,
    /// Words added to the kernel's command line, behind those of the image.
    pub kernel_args: Vec<KernelArg>,
    /// What the image's project adds. The controller's word: an operator's is not heard.
    pub post_install: Option<PostInstall>,
}

/// Filesystems, by partclone's names, on which systems are adapted.
pub const ADAPTED_FILESYSTEMS: [&str; 6] = ["ext2", "ext3", "ext4", "extfs", "btrfs", "xfs"];

/// Steps of the adaptation, in the order in which they are taken. That the system reports is no step
/// here: `--report none` leaves it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FixUpStep {
    /// Another filesystem UUID, where the node holds the same one already.
    UniqueFsId,
    /// Root and swap in fstab.
    Fstab,
    /// Root, hibernation and what was asked for on the kernel's command line.
    BootConfig,
    /// An empty machine id, so that the system makes its own.
    MachineId,
    /// The host name.
    Hostname,
    /// New host keys of sshd.
    SshHostKeys,
    /// Keys that may log in as root.
    AuthorizedKeys,
    /// Package upgrades keep off the disk's boot code.
    GrubPc,
    /// Files of the image's project.
    ProjectFiles,
    /// A script of the image's project, which runs in the system.
    ProjectScript,
}

impl FixUpStep {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::UniqueFsId,
        Self::Fstab,
        Self::BootConfig,
        Self::MachineId,
        Self::Hostname,
        Self::SshHostKeys,
        Self::AuthorizedKeys,
        Self::GrubPc,
        Self::ProjectFiles,
        Self::ProjectScript,
    ];

    /// Its name, as operators write and read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::UniqueFsId => "unique-fs-id",
            Self::Fstab => "fstab",
            Self::BootConfig => "boot-config",
            Self::MachineId => "machine-id",
            Self::Hostname => "hostname",
            Self::SshHostKeys => "ssh-host-keys",
            Self::AuthorizedKeys => "authorized-keys",
            Self::GrubPc => "grub-pc",
            Self::ProjectFiles => "project-files",
            Self::ProjectScript => "project-script",
        }
    }
}

impl fmt::Display for FixUpStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a piece of text is not what a fix-up needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FixUpError {
    /// No step has this name.
    #[error("there is no fix-up {0:?}; there are {names}", names = FixUpStep::ALL.map(FixUpStep::name).join(", "))]
    Step(String),
    /// A shell, GRUB or the kernel would read it as something else.
    #[error(
        "{0:?} cannot be a word of the kernel's command line: write 1 to {MAX_KERNEL_ARG_BYTES} of letters, digits and =,._:/@%+-, such as console=ttyS0,115200"
    )]
    KernelArg(String),
    /// Not a public key.
    #[error(
        "{0:?} is no line of authorized_keys: it needs a kind of key, such as ssh-ed25519, and the key in base64"
    )]
    AuthorizedKey(String),
}

/// The part of hostile text that an error shows.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

impl FromStr for FixUpStep {
    type Err = FixUpError;
    fn from_str(text: &str) -> Result<Self, FixUpError> {
        let found = Self::ALL.into_iter().find(|step| step.name() == text);
        found.ok_or_else(|| FixUpError::Step(shown(text)))
    }
}

/// A word of a kernel's command line that needs no quoting anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelArg(String);

impl KernelArg {
    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KernelArg {
    type Err = FixUpError;
    fn from_str(text: &str) -> Result<Self, FixUpError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "=,._:/@%+-".contains(c);
        match (1..=MAX_KERNEL_ARG_BYTES).contains(&text.len()) && text.chars().all(plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(FixUpError::KernelArg(shown(text))),
        }
    }
}

/// A line of sshd's `authorized_keys` with a public key in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AuthorizedKey(String);

impl AuthorizedKey {
    /// The line, without its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The keys in a file of them: comments and empty lines are none.
    ///
    /// # Errors
    /// When a line is something else.
    pub fn all_of(text: &str) -> Result<Vec<Self>, FixUpError> {
        let lines = text.lines().map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::parse).collect()
    }
}

impl FromStr for AuthorizedKey {
    type Err = FixUpError;
    fn from_str(text: &str) -> Result<Self, FixUpError> {
        let text = text.trim();
        let words: Vec<&str> = text.split(' ').collect();
        let is_kind = |word: &str| {
            ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"].iter().any(|k| word.starts_with(k))
        };
        let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
        // Options may stand before it. The length of the kind's name is what a key begins with, so
        // that its base64 begins with AAAA.
        let has_key = words.windows(2).any(|pair| {
            is_kind(pair[0]) && pair[1].starts_with("AAAA") && pair[1].chars().all(is_base64)
        });
        match has_key && text.len() <= MAX_KEY_BYTES && !text.chars().any(char::is_control) {
            true => Ok(Self(text.to_owned())),
            false => Err(FixUpError::AuthorizedKey(shown(text))),
        }
    }
}

macro_rules! text_form {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = FixUpError;
            fn try_from(text: String) -> Result<Self, FixUpError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from($name(text): $name) -> Self {
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
text_form!(KernelArg, AuthorizedKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_named_once_and_read_back() {
        for (place, step) in FixUpStep::ALL.into_iter().enumerate() {
            assert_eq!(step.name().parse(), Ok(step));
            assert_eq!(serde_json::to_string(&step).unwrap(), format!("{:?}", step.name()));
            assert_eq!(FixUpStep::ALL.iter().position(|other| *other == step), Some(place));
        }
        let error = "fstap".parse::<FixUpStep>().unwrap_err().to_string();
        assert!(error.contains("\"fstap\"") && error.contains("unique-fs-id, fstab"), "{error}");
    }

    #[test]
    fn words_of_the_command_line_need_no_quotes() {
        for word in ["console=ttyS0,115200n8", "quiet", "root=/dev/vda5", "a.b=c:d@e%f+g-h_i"] {
            assert_eq!(word.parse::<KernelArg>().unwrap().as_str(), word);
        }
        for word in ["", "a b", "x=$y", "a;b", "a'b", "a\"b", "a\\b", "a\nb", "{a}", "ä", "#a"] {
            assert!(word.parse::<KernelArg>().is_err(), "{word:?}");
        }
        assert!("a".repeat(MAX_KERNEL_ARG_BYTES + 1).parse::<KernelArg>().is_err());
        assert!(serde_json::from_str::<KernelArg>("\"a b\"").is_err(), "also as it comes by wire");
    }

    #[test]
    fn keys_are_public_keys() {
        let file =
            "# mine\n\nssh-ed25519 AAAAC3Nz me@here\nno-pty,from=\"10.0.0.1\" ssh-rsa AAAAB3\n";
        let keys = AuthorizedKey::all_of(file).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[0].as_str(), "ssh-ed25519 AAAAC3Nz me@here");
        for line in ["ssh-ed25519", "ssh-ed25519 %%", "AAAAC3Nz", "ssh-rsa AAAA\0", "-----BEGIN"] {
            assert!(line.parse::<AuthorizedKey>().is_err(), "{line:?}");
        }
    }
}
