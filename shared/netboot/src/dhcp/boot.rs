//! Which boot file a DHCP client is told, by the program that asks and its architecture.
//!
//! ```text
//! boot ROM, UEFI PXE ---------- TFTP ---> our iPXE --\
//! UEFI HTTP boot -------------- HTTP ---> our iPXE ---> DHCP again, as iPXE with HTTP
//! iPXE without HTTP ----------- TFTP ---> our iPXE --/        |
//! iPXE with HTTP <-- script URL -----------------------------/
//! ```
//!
//! **Invariant:** an iPXE that has HTTP is only ever given its script, so a chain of boot files
//! ends after our own binary, which must be one built with HTTP.

use super::packet::{Arch, Program, Request};
use std::{fmt, net::Ipv4Addr};

pub(super) mod options;

/// The header's `file` field holds 127 bytes and a NUL.
const MAX_FILE_LEN: usize = 127;
/// Keeps every reply under the 548 bytes that any client takes.
const MAX_BASE_LEN: usize = 128;

/// Where boot files are served from, and their names. Check with [`BootSettings::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSettings {
    /// `http://10.77.0.1` or with a port, without a slash at the end.
    pub http_base: String,
    /// Address of the TFTP server.
    pub tftp_server: Ipv4Addr,
    /// iPXE for BIOS, `undionly.kpxe`.
    pub bios_file: String,
    /// iPXE for x64 UEFI, `ipxe.efi` or `snponly.efi`.
    pub x64_file: String,
    /// iPXE for 64-bit ARM UEFI, if there is one.
    pub arm64_file: Option<String>,
}

/// What is wrong with [`BootSettings`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootSettingsError {
    /// Not `http://host[:port]`, or too long.
    #[error(
        "boot base URL {0:?} must be http:// or https://, printable, without a slash at the end, and at most 128 bytes"
    )]
    HttpBase(String),
    /// Empty, too long or with blanks.
    #[error("boot file name {0:?} must be 1 to 127 printable ASCII characters without blanks")]
    FileName(String),
}

/// The answer to "what do I boot".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootFile {
    /// iPXE fetches its script here.
    Script {
        /// `{base}/boot/{mac with dashes}.ipxe`
        url: String,
    },
    /// The firmware fetches an iPXE by TFTP.
    Tftp {
        /// The file's name on the TFTP server.
        file: String,
    },
    /// The firmware fetches an iPXE by HTTP.
    Http {
        /// `{base}/boot/{file}`
        url: String,
    },
    /// An address only.
    None(NoBootFile),
}

/// Why a client gets no boot file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoBootFile {
    /// It did not ask for one.
    NotBooting,
    /// We have no file for its architecture; `None` if it did not say which.
    UnknownArch(Option<Arch>),
}

impl fmt::Display for NoBootFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBooting => f.write_str("it does not boot from the network"),
            Self::UnknownArch(None) => f.write_str("it does not say its architecture"),
            Self::UnknownArch(Some(arch)) => write!(f, "there is none for {arch:?}"),
        }
    }
}

impl BootSettings {
    /// Refuses settings that would not fit into a reply.
    pub fn check(&self) -> Result<(), BootSettingsError> {
        let base = &self.http_base;
        let has_scheme = base.starts_with("http://") || base.starts_with("https://");
        if !has_scheme
            || base.ends_with('/')
            || base.len() > MAX_BASE_LEN
            || !base.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(BootSettingsError::HttpBase(base.clone()));
        }
        for file in [&self.bios_file, &self.x64_file].into_iter().chain(&self.arm64_file) {
            let fits = (1..=MAX_FILE_LEN).contains(&file.len());
            if !fits || !file.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(BootSettingsError::FileName(file.clone()));
            }
        }
        Ok(())
    }

    /// The boot file for one request.
    pub fn choose(&self, request: &Request) -> BootFile {
        let base = &self.http_base;
        match request.program() {
            Program::Plain => BootFile::None(NoBootFile::NotBooting),
            Program::Ipxe => {
                BootFile::Script { url: format!("{base}/boot/{}.ipxe", request.mac.dashed()) }
            }
            Program::IpxeWithoutHttp | Program::Pxe => match self.ipxe_for(request.arch) {
                Some(file) => BootFile::Tftp { file: file.to_owned() },
                None => BootFile::None(NoBootFile::UnknownArch(request.arch)),
            },
            Program::UefiHttp => match self.ipxe_for(request.arch) {
                Some(file) => BootFile::Http { url: format!("{base}/boot/{file}") },
                None => BootFile::None(NoBootFile::UnknownArch(request.arch)),
            },
        }
    }

    fn ipxe_for(&self, arch: Option<Arch>) -> Option<&str> {
        match arch? {
            Arch::Bios | Arch::BiosHttp => Some(&self.bios_file),
            Arch::X64Efi | Arch::X64Http => Some(&self.x64_file),
            Arch::Arm64Efi | Arch::Arm64Http => self.arm64_file.as_deref(),
            Arch::Ia32Efi
            | Arch::Arm32Efi
            | Arch::Ia32Http
            | Arch::Arm32Http
            | Arch::Riscv(_)
            | Arch::RaspberryPi
            | Arch::Other(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::testing::{boot_settings, fixture};

    fn choose(name: &str) -> BootFile {
        boot_settings().choose(&Request::parse(&fixture(name)).unwrap())
    }

    #[test]
    fn captured_clients_get_what_they_can_boot() {
        let script =
            |mac: &str| BootFile::Script { url: format!("http://10.77.0.1:8080/boot/{mac}.ipxe") };
        assert_eq!(choose("ipxe-rom-virtio-discover"), script("52-54-00-77-00-05"));
        assert_eq!(choose("undionly-chained-request"), script("52-54-00-77-00-05"));
        assert_eq!(choose("snponly-efi-discover"), script("52-54-00-77-00-07"));
        assert_eq!(choose("ovmf-pxe-discover"), BootFile::Tftp { file: "ipxe.efi".into() });
        assert_eq!(
            choose("ovmf-http-discover"),
            BootFile::Http { url: "http://10.77.0.1:8080/boot/ipxe.efi".into() }
        );
        for plain in ["udhcpc-discover", "dhclient-request"] {
            assert_eq!(choose(plain), BootFile::None(NoBootFile::NotBooting));
        }
    }

    #[test]
    fn settings_are_checked() {
        let good = boot_settings();
        assert_eq!(good.check(), Ok(()));
        for base in ["", "10.77.0.1", "http://a/", "http://a b", &format!("http://{:0>140}", 1)] {
            let bad = BootSettings { http_base: base.to_owned(), ..good.clone() };
            assert!(matches!(bad.check(), Err(BootSettingsError::HttpBase(_))), "{base}");
        }
        for file in ["", "a b", &"x".repeat(128)] {
            let bad = BootSettings { arm64_file: Some(file.to_owned()), ..good.clone() };
            assert!(matches!(bad.check(), Err(BootSettingsError::FileName(_))), "{file}");
        }
    }
}
