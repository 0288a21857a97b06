//! The partition scheme of a node's disk, as data. Sectors are computed elsewhere.

use serde::{Deserialize, Serialize};

/// CentMesh's MBR scheme: a boot partition (1), swap (2), a reserve (3) and an extended partition
/// (4) with one logical partition per slot. All sizes in MiB. CentMesh itself is 21 slots of 20 GB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// What operators call it.
    pub name: String,
    /// Size of the boot partition, which holds the disk's own GRUB menu.
    pub boot_mib: u32,
    /// Size of the swap partition that all slots share.
    pub swap_mib: u32,
    /// Size of the partition kept free for the site's own use; 0 leaves it out.
    pub reserve_mib: u32,
    /// How many slots there are.
    pub slots: u16,
    /// Size of each slot.
    pub slot_mib: u32,
}

impl Layout {
    /// Number of the first slot: the first logical partition of an MBR.
    pub const FIRST_SLOT: u16 = 5;

    /// Whether the layout has a slot of this number.
    pub fn has_slot(&self, slot: u16) -> bool {
        (Self::FIRST_SLOT..Self::FIRST_SLOT.saturating_add(self.slots)).contains(&slot)
    }
}
