//! The disk path: plain blocking reads and writes that cannot leave the range they were given.
//!
//! A [`Device`] is a whole disk, opened so that nobody else uses it, or a plain file when the agent
//! runs by hand. A [`Window`] is a part of one, in its own offsets; there is no way to write outside
//! of it. Partition tables, filesystems and boot code are not this module's business.

mod aligned;
mod boot_partition;
mod busy;
mod device;
mod direct;
mod hash;
mod look;
mod mounted;
mod root;
mod tree;
mod window;

pub use boot_partition::{BOOT_DRIVER, BOOT_LABEL, BootPartition, SlotRecord};
pub use busy::while_busy;
pub use device::{Device, Operation, Tap};
pub use look::{look_at, uuid_of};
pub use mounted::{Access, Mounted};
pub use root::Root;
pub use tree::Tree;
pub(crate) use tree::shown;
pub use window::Window;

/// A MiB in bytes: what is cleared first and written last of a slot.
pub const MIB: u64 = 1 << 20;
