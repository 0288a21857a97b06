//! Step `format`: the boot partition's filesystem and the swap signature, where they are not there.

use super::{
    StepLog,
    plan::{BootState, Target, window},
    tools,
};
use crate::disk::BOOT_LABEL;
use metalcast_formats::{
    layout::{Role, SECTOR_BYTES},
    swap,
};
use std::path::Path;
use uuid::Uuid;

/// Features named one by one: GRUB 2.06 reads no filesystem with `metadata_csum_seed` or
/// `orphan_file`, which newer tools choose by themselves.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,\
                        sparse_super,large_file,huge_file,dir_nlink,extra_isize";

pub(super) fn run(target: &Target, log: &StepLog<'_>) -> anyhow::Result<()> {
    match target.boot {
        BootState::Ours => log.note("boot partition kept"),
        BootState::ToBeFormatted => {
            make_boot(&target.node(target.plan.boot().number))?;
            log.note(format!("boot partition {} formatted", target.plan.boot().number));
        }
    }
    let swap = target.plan.partitions.iter().find(|partition| partition.role == Role::Swap);
    if let Some(swap) = swap.filter(|_| target.make_swap) {
        let device = target.open(log)?;
        let id = Uuid::new_v4();
        let header = swap::header(swap.sectors * SECTOR_BYTES, id, "")?;
        window(&device, swap)?.write_at(&header, 0)?;
        device.flush()?;
        device.drop_caches()?;
        log.note(format!("swap partition {} formatted, UUID {id}", swap.number));
    }
    Ok(())
}

fn make_boot(node: &Path) -> anyhow::Result<()> {
    let lazy = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
    let arguments = ["-q", "-F", "-t", "ext4", "-L", BOOT_LABEL, "-O", FEATURES, "-E", lazy];
    Ok(tools::run("mke2fs", &arguments, node)?)
}
