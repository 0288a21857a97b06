//! The Metalcast agent: `/init` of the RAM image, and a tool that takes single steps by hand.
//!
//! ```text
//! main -> init (as process 1) -> session (async, one controller) -> task (blocking steps) -> disk
//! ```
//!
//! Invariant: only `session` knows quinn, only `disk` writes to disks, and nothing of `task` or `disk`
//! is async.

pub mod capture;
pub mod cli;
pub mod console;
pub mod disk;
pub mod init;
pub mod inventory;
pub mod memory;
pub mod pack;
pub mod report;
pub mod session;
pub mod task;
