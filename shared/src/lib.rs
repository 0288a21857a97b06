//! What the controller and the agent both say: identifiers, wire messages, the image manifest and
//! the pure logic on them.
//!
//! No I/O, no clock, no async. Within a version of the protocol, wire enums are append-only: a new variant
//! goes to the end, and what a variant or struct holds never changes; `tests/golden.rs` holds the bytes of
//! the version.

pub mod as_left;
pub mod boot;
pub mod close;
pub mod codec;
pub mod disk;
pub mod event;
pub mod fix_up;
pub mod fresh;
pub mod fresh_ids;
pub mod hash;
pub mod id;
pub mod inventory;
pub mod layout;
pub mod manifest;
pub mod node_set;
pub mod post_install;
pub mod table;
pub mod to_agent;
pub mod to_controller;
pub mod transfer;
pub mod upload;
pub mod version;
pub mod whole_disk;
