//! The RAM image's initramfs: what is in it, and bytes that are the same whenever it is built from
//! the same input.
//!
//! Packages are unpacked by the caller and only read here; no program of the target is run. The
//! same module tables serve the agent on the node: [`modules`] knows which driver a device asks for.

pub mod build;
pub mod bundle;
pub mod cpio;
pub mod elf;
pub mod manifest;
pub mod modules;
pub mod packed;
pub mod segment;

mod alias;
mod rootdir;
mod tools;

pub use build::{BuildError, Built, Input, Report, build};
pub use segment::segment;
