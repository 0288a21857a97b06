//! Versions of what crosses the network and what lies in the store.

/// QUIC application protocol (ALPN, RFC 7301) of every connection between agent and controller.
pub const ALPN: &[u8] = b"metalcast/1";

/// Version of the messages in [`crate::to_agent`] and [`crate::to_controller`].
pub const PROTOCOL: u16 = 7;

/// Version of the manifest beside an image.
pub const MANIFEST: u16 = 1;

/// TLS server name that the controller's certificate carries; addresses change, this does not.
pub const SERVER_NAME: &str = "controller.metalcast";
