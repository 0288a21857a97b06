//! Boot services without I/O: DHCP server and client, TFTP read transfers, iPXE scripts and the
//! table that says what a machine boots.
//!
//! Nothing here opens a socket, reads a clock or draws a random number. Bytes, the time and seeds
//! come in as arguments; bytes, the next time-out and events go out. The controller's `boot`
//! driver and the agent's link driver own the sockets and files.
//!
//! All input is taken for hostile: lengths are checked before use, nothing panics on it, and every
//! table has a bound.
#![forbid(unsafe_code)]

mod checksum;
pub mod dhcp;
pub mod frame;
pub mod mac;
pub mod ndp;
pub mod script;
pub mod table;
pub mod tftp;
