//! A mounted system as a tar archive: every member of its filesystem with owner, mode, times, attributes,
//! rights, holes and links.
//!
//! ```text
//! Tree ──Walk──> paths ──Entry──> headers, content ──Stream──> the archive, piece by piece
//! ```
//!
//! Paths are opened beneath the root, through no link and onto no other mount. Left out are sockets, what
//! is mounted beneath, and what swap files hold. A file that cannot be read ends it: nothing is put in place
//! of its content. So does one that changes meanwhile, unless the system is one that runs ([`Live`]): then
//! its size stays that of its header, what is missing is zeros, and it is named.

mod entry;
mod links;
mod live;
mod open;
mod roots;
mod stream;
#[cfg(test)]
mod tests;
mod walk;

pub use live::{Live, Unsteady};
pub use stream::{Count, LeftOut, Stream};
