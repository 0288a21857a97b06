//! Images to deploy, made by real tools from real systems: a Debian that boots ([`debian()`]) and a file system of a few
//! MiB for tests that need no boot ([`tiny()`]).
//!
//! Each is made once and kept under `target/lab/image-<kind>-<hash of the recipe>`; a changed recipe makes a new one.

mod cache;
mod debian;
mod tiny;

pub use debian::{Debian, debian};
pub use tiny::{Tiny, tiny};
