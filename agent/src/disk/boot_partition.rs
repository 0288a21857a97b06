//! The disk's boot partition, which is ours: GRUB's menu, its environment block, and what lies in
//! which slot.

use super::{Access, Mounted, Root};
use anyhow::Context;
use metalcast_formats::{
    grub::{self, ENVIRONMENT_PATH, MENU_PATH},
    grubenv::GrubEnv,
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Label of the boot partition's filesystem: how it is known to be ours.
pub const BOOT_LABEL: &str = "metalcast";

/// The kernel's driver for it.
pub const BOOT_DRIVER: &str = "ext4";

/// Variable of GRUB's environment with the slot that is started.
const SAVED_ENTRY: &str = "saved_entry";
const NEXT_ENTRY: &str = "next_entry";

/// Value of a slot's state variable while its content is not complete.
const WRITING: &str = "writing";

/// What Metalcast put into a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// The revision, `project/name@7`.
    pub image: String,
    /// Which of its partitions.
    pub partition: String,
}

/// The boot partition, mounted. To be closed: only then is it known to be written.
#[derive(Debug)]
pub struct BootPartition {
    mounted: Mounted,
    root: Root,
}

impl BootPartition {
    /// Mounts it.
    pub fn open(node: &Path, access: Access, run_dir: &Path) -> anyhow::Result<Self> {
        let mounted = Mounted::open(node, BOOT_DRIVER, None, access, run_dir)
            .context("mounting the boot partition")?;
        let root = mounted.root()?;
        Ok(Self { mounted, root })
    }

    /// Writes everything out and unmounts it.
    pub fn close(self) -> anyhow::Result<()> {
        drop(self.root);
        self.mounted.close().context("unmounting the boot partition")
    }

    /// Whether a slot's content is marked as incomplete.
    pub fn is_writing(&self, slot: u16) -> anyhow::Result<bool> {
        Ok(self.env()?.get(&grub::state_variable(slot)).as_deref() == Some(WRITING))
    }

    /// Marks a slot's content as incomplete: the menu does not start it.
    pub fn mark_writing(&self, slot: u16) -> anyhow::Result<()> {
        let mut env = self.env()?;
        env.set(&grub::state_variable(slot), WRITING)?;
        self.save(&env)
    }

    /// Makes a slot the one that starts, and its content complete.
    pub fn activate(&self, slot: u16) -> anyhow::Result<()> {
        let mut env = self.env()?;
        env.unset(&grub::state_variable(slot));
        env.unset(NEXT_ENTRY);
        env.set(SAVED_ENTRY, &grub::slot_id(slot))?;
        self.save(&env)
    }

    /// The id of the menu entry that is started.
    pub fn active(&self) -> anyhow::Result<Option<String>> {
        Ok(self.env()?.get(SAVED_ENTRY))
    }

    /// What Metalcast put into a slot, if it did.
    pub fn record(&self, slot: u16) -> anyhow::Result<Option<SlotRecord>> {
        let Some(bytes) = self.root.read(&record_file(slot))? else { return Ok(None) };
        // A damaged record is no record: what is in the slot is then nobody's.
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Notes what is put into a slot.
    pub fn set_record(&self, slot: u16, record: &SlotRecord) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(record).context("encoding the slot's record")?;
        self.root.create(&record_file(slot), &bytes, 0o644)
    }

    /// Writes the menu if it is another one; says whether it was.
    pub fn set_menu(&self, text: &str) -> anyhow::Result<bool> {
        let same = self.root.read(MENU_PATH)?.is_some_and(|old| old == text.as_bytes());
        if !same {
            self.root.create(MENU_PATH, text.as_bytes(), 0o644)?;
        }
        if self.root.read(ENVIRONMENT_PATH)?.is_none() {
            self.save(&GrubEnv::new())?;
        }
        Ok(!same)
    }

    /// A block that cannot be read is replaced: GRUB could not read it either.
    fn env(&self) -> anyhow::Result<GrubEnv> {
        let bytes = self.root.read(ENVIRONMENT_PATH)?;
        Ok(bytes.and_then(|bytes| GrubEnv::parse(&bytes).ok()).unwrap_or_default())
    }

    fn save(&self, env: &GrubEnv) -> anyhow::Result<()> {
        if self.root.exists(ENVIRONMENT_PATH) {
            return self.root.write(ENVIRONMENT_PATH, env.as_bytes());
        }
        self.root.create(ENVIRONMENT_PATH, env.as_bytes(), 0o644)
    }
}

fn record_file(slot: u16) -> String {
    format!("metalcast/slot{slot}.json")
}
