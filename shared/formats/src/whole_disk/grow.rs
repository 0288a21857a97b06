//! A table in which one partition has all that the image leaves free of a disk.
//!
//! What lies behind it on the disk moves to the end. Only swap does, which is made anew anyway, and the
//! frame of logical partitions: boot loaders know some places by their numbers.

use crate::{gpt, mbr};
use metalcast_shared::whole_disk::{DiskTable, WholeDisk};
use uuid::{Uuid, uuid};

/// Types of Windows' recovery partitions: nobody wants those to be large.
const RECOVERY: Uuid = uuid!("de94bba4-06d1-4d40-a16a-bfd50179d6ac");
const KIND_RECOVERY: u8 = 0x27;

/// Partitions begin at multiples of this many bytes from where they began before.
const ALIGN_BYTES: u64 = 1 << 20;

/// The first sector that an MBR cannot name any more: two TiB of 512 bytes.
const MBR_SECTORS: u64 = u32::MAX as u64;

/// A table in which a partition has grown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grown {
    /// The table and all else.
    pub whole: WholeDisk,
    /// How long the partition was, in bytes.
    pub was_bytes: u64,
    /// How long it is.
    pub bytes: u64,
    /// Numbers of the partitions that moved to the end.
    pub moved: Vec<u16>,
}

/// Why a partition cannot grow.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrowError {
    /// There is none of this number.
    #[error("the image's disk has no partition {number}; it has {there}")]
    NoSuch {
        /// What was asked for.
        number: u16,
        /// What there is.
        there: String,
    },
    /// It is a frame, or swap.
    #[error("partition {number} is {what}; name one with a filesystem")]
    WhatItIs {
        /// Which.
        number: u16,
        /// `swap` or `the extended one`.
        what: &'static str,
    },
    /// Something that has to stay lies behind it.
    #[error(
        "partition {number} cannot grow: partition {behind} lies behind it on the disk, and only swap \
         is moved to the end"
    )]
    Blocked {
        /// Which.
        number: u16,
        /// What is in its way.
        behind: u16,
    },
    /// There is no end to it.
    #[error("partition {number} of the image's table has a place that no disk has")]
    Place {
        /// Which.
        number: u16,
    },
}

/// A partition, of whatever table.
struct Part<'p> {
    number: u16,
    start: &'p mut u64,
    sectors: &'p mut u64,
    ebr: Option<&'p mut u64>,
    is_frame: bool,
    is_recovery: bool,
}

impl Part<'_> {
    fn end(&self) -> Result<u64, GrowError> {
        let end = self.start.checked_add(*self.sectors);
        end.ok_or(GrowError::Place { number: self.number })
    }
}

/// The last partition on the disk for which `can` holds.
pub fn last_growable(whole: &WholeDisk, can: impl Fn(u16) -> bool) -> Option<u16> {
    let mut table = whole.table.clone();
    let parts = parts(&mut table);
    let is_meant = |part: &&Part<'_>| !part.is_frame && !part.is_recovery && can(part.number);
    let last = parts.iter().filter(is_meant);
    last.max_by_key(|part| *part.start).map(|part| part.number)
}

/// Has a partition take what a disk of `disk_bytes` bytes has beyond the image's.
///
/// # Errors
/// When there is no such partition, or something behind it that stays where it is.
pub fn grown(whole: &WholeDisk, number: u16, disk_bytes: u64) -> Result<Grown, GrowError> {
    let mut whole = whole.clone();
    let unit = u64::from(whole.sector_bytes.max(1));
    let mut sectors = disk_bytes / unit;
    match &whole.table {
        DiskTable::Mbr { .. } => sectors = sectors.min(MBR_SECTORS),
        DiskTable::Gpt { slots, .. } => {
            sectors = sectors.saturating_sub(gpt::backup_sectors(*slots, whole.sector_bytes));
        }
    }
    let swaps: Vec<u16> = whole.swaps.iter().map(|swap| swap.number).collect();
    let mut parts = parts(&mut whole.table);
    let (start, end, is_logical) = one(&parts, number, &swaps)?;
    let mut last = end;
    for part in &parts {
        last = last.max(part.end()?);
    }
    let align = (ALIGN_BYTES / unit).max(1);
    let more = sectors.saturating_sub(last) / align * align;
    let mut moved = Vec::new();
    let (mut was, mut is) = (0, 0);
    for part in &mut parts {
        if part.number == number {
            (was, is) = (*part.sectors, *part.sectors + more);
            *part.sectors = is;
        } else if part.is_frame && is_logical {
            *part.sectors += more;
        } else if *part.start > start {
            if !part.is_frame && !swaps.contains(&part.number) {
                return Err(GrowError::Blocked { number, behind: part.number });
            }
            if more > 0 {
                *part.start += more;
                // That of the first logical one is the frame's first sector.
                if let Some(ebr) = part.ebr.as_deref_mut().filter(|ebr| **ebr > start) {
                    *ebr += more;
                }
                moved.push(part.number);
            }
        }
    }
    let (was_bytes, bytes) = (was.saturating_mul(unit), is.saturating_mul(unit));
    Ok(Grown { whole, was_bytes, bytes, moved })
}

/// Start and end of the one that grows, and whether it is a logical one.
fn one(parts: &[Part<'_>], number: u16, swaps: &[u16]) -> Result<(u64, u64, bool), GrowError> {
    let Some(part) = parts.iter().find(|part| part.number == number) else {
        let there: Vec<String> = parts.iter().map(|part| part.number.to_string()).collect();
        return Err(GrowError::NoSuch { number, there: there.join(", ") });
    };
    let what = match () {
        () if part.is_frame => Some("the extended one"),
        () if swaps.contains(&number) => Some("swap"),
        () => None,
    };
    match what {
        Some(what) => Err(GrowError::WhatItIs { number, what }),
        None => Ok((*part.start, part.end()?, part.ebr.is_some())),
    }
}

fn parts(table: &mut DiskTable) -> Vec<Part<'_>> {
    match table {
        DiskTable::Mbr { partitions, .. } => partitions
            .iter_mut()
            .map(|part| Part {
                number: part.number,
                is_frame: mbr::is_extended(part.kind),
                is_recovery: part.kind == KIND_RECOVERY,
                start: &mut part.start_lba,
                sectors: &mut part.sectors,
                ebr: part.ebr_lba.as_mut(),
            })
            .collect(),
        DiskTable::Gpt { partitions, .. } => partitions
            .iter_mut()
            .map(|part| Part {
                number: part.number,
                is_frame: false,
                is_recovery: part.kind == RECOVERY,
                start: &mut part.start_lba,
                sectors: &mut part.sectors,
                ebr: None,
            })
            .collect(),
    }
}
