//! A mounted system as a tar archive: every member of its filesystem with owner, mode, times, attributes,
//! rights, holes and links.
//!
//! ```text
//! Tree ──Walk──> paths ──Entry──> headers, content ──Stream──> the archive, piece by piece
//! ```
//!
//! Paths are opened beneath the root, through no link and onto no other mount. Left out are sockets, what
//! is mounted beneath, and what swap files hold. A file that cannot be read, or changes meanwhile, ends it:
//! nothing is put in place of its content.

mod entry;
mod links;
mod stream;
mod walk;

pub use stream::{Count, LeftOut, Stream};
