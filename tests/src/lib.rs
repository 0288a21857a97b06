//! The lab: what tests, and `cargo xtask lab`, put bare machines into.
//!
//! [`lab::Lab`] is a network of its own (a namespace with a bridge), [`qemu::Machine`] a blank PC on it,
//! [`process::Background`] a program in it, and [`image`] makes real operating-system images with real Clonezilla.
//! Everything is owned: when the value goes, so do the process, the namespace and the loop device. Nothing here touches
//! the host's network or disks, and all files lie under `target/lab`.

pub mod by_hand;
pub mod cargo;
pub mod clonezilla;
pub mod dnsmasq;
pub mod host;
pub mod image;
pub mod kernel;
pub mod lab;
pub mod loopdev;
pub mod namespace;
pub mod paths;
pub mod process;
pub mod progress;
pub mod qemu;
pub mod rig;
pub mod scene;
pub mod seed;
pub mod serial;
pub mod slot;
pub mod tmpfs;
