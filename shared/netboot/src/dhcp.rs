//! DHCP for IPv4 (RFC 2131, 2132) with the PXE, iPXE and UEFI HTTP boot conventions on top.
//!
//! [`packet`] reads requests, [`server`] answers them, [`lease`] remembers; [`proxy`] answers beside
//! another server; [`client`] is the agent's side. [`wire`] is the codec under all of them.

pub mod boot;
pub mod client;
pub mod lease;
pub mod packet;
pub mod proxy;
pub mod server;
pub mod wire;

#[cfg(test)]
pub(crate) mod testing;
