//! Step `partition`: writes the table, unless the disk has it, and has the kernel know it.

use super::{
    StepLog,
    plan::{TableState, Target, announce_plan, window},
};
use crate::disk::{Device, MIB};
use metalcast_formats::layout::{Role, SECTOR_BYTES};

pub(super) fn run(target: &Target, log: &StepLog<'_>) -> anyhow::Result<()> {
    let device = target.open(log)?;
    match target.table {
        TableState::AsPlanned(signature) => {
            log.note(format!("table kept, disk signature {signature:08x}"));
        }
        TableState::ToBeWritten => {
            let signature = new_signature();
            write(target, &device, signature)?;
            let slots = target.plan.slots().count();
            log.note(format!("table written: {slots} slots, disk signature {signature:08x}"));
        }
    }
    announce_plan(&device, &target.plan)
}

fn write(target: &Target, device: &Device<'_>, signature: u32) -> anyhow::Result<()> {
    // What was on the disk must not shine through: another table, a GPT and its copy at the end,
    // filesystems that happen to start where partitions will.
    let whole = device.whole();
    whole.zero_at(0, MIB)?;
    let last = device.bytes() / SECTOR_BYTES * SECTOR_BYTES;
    whole.zero_at(last - MIB, MIB)?;
    for partition in target.plan.partitions.iter().filter(|p| p.role != Role::Extended) {
        let window = window(device, partition)?;
        window.zero_at(0, window.bytes().min(MIB))?;
        if let Some(ebr) = partition.ebr_lba {
            whole.zero_at(ebr * SECTOR_BYTES, MIB)?;
        }
    }
    device.flush()?;
    let writes = target.plan.writes(signature)?;
    let (table, records) = writes.split_last().expect("a plan has at least the MBR's table");
    for record in records {
        whole.write_at(&record.bytes, record.byte_offset)?;
    }
    device.flush()?;
    whole.write_at(&table.bytes, table.byte_offset)?;
    device.flush()?;
    device.drop_caches()
}

/// Random, and not 0, which Linux takes for none.
fn new_signature() -> u32 {
    let random = uuid::Uuid::new_v4();
    let [a, b, c, d, ..] = *random.as_bytes();
    u32::from_le_bytes([a, b, c, d]).max(1)
}
