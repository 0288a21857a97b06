//! Images to deploy, made by real tools from real systems: a Debian that boots ([`debian()`], [`debian_generic()`]), the same with more in
//! it for measurements ([`filled()`]), and a file system of a few MiB for tests that need no boot ([`tiny()`]).
//!
//! Each is made once and kept under `target/lab/image-<kind>-<hash of the recipe>`; a changed recipe makes a new one.

mod cache;
mod debian;
mod filled;
mod tiny;

pub use debian::{Debian, debian, debian_generic};
pub use filled::filled;
pub use tiny::{Tiny, tiny};
