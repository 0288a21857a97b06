//! How a boot file is told: in which header fields and options, and what must stand beside it.
//!
//! It is told twice, in the header and in options 66/67: U-Boot reads only the header, some UEFI
//! firmware only the options.

use super::{BootFile, BootSettings};
use crate::dhcp::{
    packet::{Program, Request},
    wire::{Header, Writer, code},
};

/// PXE 2.1 section 2.2.3: sub-option 6, discovery control, with bit 3 "use the boot file named
/// here, no menu, no discovery"; then the end mark.
const PXE_DISCOVERY_CONTROL: [u8; 4] = [6, 1, 8, 255];
/// iPXE's 176 `no-pxedhcp`: do not wait for a proxyDHCP server. Saves seconds at every boot.
const IPXE_NO_PXEDHCP: [u8; 3] = [176, 1, 1];

/// Who tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dhcp) enum Teller {
    /// The server that also gives the address.
    Server,
    /// A proxy beside that server. iPXE takes its offers for those of a PXE server only if they
    /// say `PXEClient`, as firmware does.
    Proxy,
}

/// Fills the header's `siaddr`, `sname` and `file`.
pub(in crate::dhcp) fn fill(header: &mut Header, settings: &BootSettings, boot: &BootFile) {
    match boot {
        BootFile::None(_) => {}
        BootFile::Tftp { file } => {
            header.siaddr = settings.tftp_server;
            header.sname = settings.tftp_server.to_string().into_bytes();
            header.file = file.clone().into_bytes();
        }
        // `next-server` is of use in iPXE scripts; UEFI HTTP boot ignores it.
        BootFile::Script { url } | BootFile::Http { url } => {
            header.siaddr = settings.tftp_server;
            header.file = url.clone().into_bytes();
        }
    }
}

/// Puts the options.
pub(in crate::dhcp) fn put(
    out: &mut Writer,
    settings: &BootSettings,
    request: &Request,
    boot: &BootFile,
    teller: Teller,
) {
    let file = match boot {
        BootFile::None(_) => return,
        BootFile::Tftp { file } => {
            let server = settings.tftp_server.to_string();
            out.put(code::TFTP_SERVER_NAME, server.as_bytes());
            file
        }
        BootFile::Script { url } | BootFile::Http { url } => url,
    };
    out.put(code::BOOT_FILE_NAME, file.as_bytes());
    match (request.program(), teller) {
        // PXE firmware reads option 43 only beside its own class.
        (Program::Pxe, _) | (Program::Ipxe | Program::IpxeWithoutHttp, Teller::Proxy) => {
            out.put(code::VENDOR_CLASS, b"PXEClient");
            out.put(code::VENDOR_SPECIFIC, &PXE_DISCOVERY_CONTROL);
        }
        // UEFI 2.10 section 24.7.2: without this echo the offer is not taken for HTTP boot.
        (Program::UefiHttp, _) => {
            out.put(code::VENDOR_CLASS, b"HTTPClient");
        }
        (Program::Ipxe | Program::IpxeWithoutHttp, Teller::Server) => {
            out.put(code::IPXE, &IPXE_NO_PXEDHCP);
        }
        (Program::Plain, _) => {}
    }
    if let Some(uuid) = &request.machine_uuid_raw {
        out.put(code::MACHINE_UUID, uuid);
    }
}
