//! What the boot sectors of NTFS and FAT have in common: the size of a sector, and where on its disk the
//! volume is. Windows' boot code reads the volume by that.

use crate::{bytes::le_u16, bytes::le_u32, fat, mbr, ntfs};

/// A boot sector.
pub(crate) type Sector = [u8; 512];

const UNIT_AT: usize = 0x0b;
const TRACK_AT: usize = 0x18;
const HEADS_AT: usize = 0x1a;
const HIDDEN_AT: usize = 0x1c;

/// How many bytes the volume takes a sector for; `None` if it is neither NTFS nor FAT.
pub fn sector_bytes(sector: &Sector) -> Option<u32> {
    let is_known = ntfs::fitted(sector, 0).is_some() || fat::Labelled::of(sector).is_some();
    is_known.then(|| u32::from(le_u16(sector, UNIT_AT)))
}

/// Tells a volume that it begins at `start_bytes` of its disk, in a geometry as firmware makes one up for
/// every disk today. A place that 32 bits cannot say is left as it was: no boot code reads it there. The
/// first sector that it had and that it has.
pub(crate) fn set_place(sector: &mut Sector, start_bytes: u64) -> [u32; 2] {
    let unit = u64::from(le_u16(sector, UNIT_AT).max(1));
    let was = le_u32(sector, HIDDEN_AT);
    let is = u32::try_from(start_bytes / unit).unwrap_or(was);
    sector[TRACK_AT..HEADS_AT].copy_from_slice(&mbr::SECTORS_PER_TRACK.to_le_bytes());
    sector[HEADS_AT..HIDDEN_AT].copy_from_slice(&mbr::HEADS.to_le_bytes());
    sector[HIDDEN_AT..HIDDEN_AT + 4].copy_from_slice(&is.to_le_bytes());
    [was, is]
}
