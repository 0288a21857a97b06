//! Step `format`: the boot partition's filesystem and the swap signature, where they are not there.

use super::{
    StepLog,
    plan::{BootState, Target, window},
    swap, tools,
};
use crate::disk::BOOT_LABEL;
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
            make_boot(&target.node(target.plan.boot().number, log)?, log)?;
            log.note(format!("boot partition {} formatted", target.plan.boot().number));
        }
    }
    if let Some(partition) = swap::of(&target.plan).filter(|_| target.make_swap) {
        let id = Uuid::new_v4();
        let device = target.open(log)?;
        swap::make(&device, &window(&device, partition)?, id, "")?;
        log.note(format!("swap partition {} formatted, UUID {id}", partition.number));
    }
    Ok(())
}

fn make_boot(node: &Path, log: &StepLog<'_>) -> anyhow::Result<()> {
    let lazy = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
    tools::run("mke2fs", &["-q", "-F", "-t", "ext4", "-O", FEATURES, "-E", lazy], node, log)?;
    // The label says that it is ours and whole, so it comes last.
    tools::run("tune2fs", &["-L", BOOT_LABEL], node, log)
}
