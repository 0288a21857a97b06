//! Numbers with which a controller closes a QUIC connection (application error codes, RFC 9000,
//! section 20.2). A text for people goes with each.

/// All is done.
pub const DONE: u32 = 0;
/// The controller stops; it will be back.
pub const STOPPING: u32 = 1;
/// The peer broke the protocol.
pub const PROTOCOL: u32 = 2;
/// The connection has no certificate, or one that names no node.
pub const NO_CERTIFICATE: u32 = 3;
/// The node has another session, or is not to have one.
pub const SUPERSEDED: u32 = 4;
/// The controller failed to do its part.
pub const INTERNAL: u32 = 5;
/// The peer was too slow.
pub const TOO_SLOW: u32 = 6;
