//! Images to deploy, made by real tools from real systems: a Debian that boots ([`debian()`], [`debian_generic()`]), the
//! same with more in it for measurements ([`filled()`]), and file systems for tests that need no boot: of a few MiB
//! ([`tiny()`]) and of nearly 2 TB ([`sparse()`]).
//!
//! Each is made once and kept under `target/lab/image-<kind>-<hash of the recipe>`; a changed recipe makes a new one.

mod cache;
mod debian;
mod filled;
mod sparse;
mod tiny;

pub use debian::{Debian, debian, debian_generic};
pub use filled::filled;
pub use sparse::{Sparse, sparse};
pub use tiny::{Tiny, tiny};
