//! Images to deploy, made by real tools from real systems: a Debian that boots ([`debian()`], [`debian_generic()`]) and a file system of a few
//! MiB for tests that need no boot ([`tiny()`]).
//!
//! Each is made once and kept under `target/lab/image-<kind>-<hash of the recipe>`; a changed recipe makes a new one.

mod cache;
mod debian;
mod tiny;

pub use debian::{Debian, debian, debian_generic};
pub use tiny::{Tiny, tiny};
