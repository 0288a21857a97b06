//! The signatures, one function per family. Offsets are from libblkid's and the formats' own headers.

use super::{Found, Kind};
use crate::ext::{self, Generation, Superblock};
use uuid::Uuid;

/// The start and the end of what is probed; they overlap or are equal where it is small.
pub(super) struct Windows<'a> {
    pub head: &'a [u8],
    pub tail: &'a [u8],
    /// Size of the whole.
    pub bytes: u64,
}

impl Windows<'_> {
    /// Bytes at an offset from the start of the whole, where a window has them.
    fn at(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let tail_start = self.bytes - self.tail.len() as u64;
        let slice = |window: &'_ [u8], from: u64| -> Option<std::ops::Range<usize>> {
            let from = usize::try_from(from).ok()?;
            let end = from.checked_add(length)?;
            (end <= window.len()).then_some(from..end)
        };
        if let Some(range) = slice(self.head, offset) {
            return Some(&self.head[range]);
        }
        Some(&self.tail[slice(self.tail, offset.checked_sub(tail_start)?)?])
    }

    fn has(&self, offset: u64, magic: &[u8]) -> bool {
        self.at(offset, magic.len()) == Some(magic)
    }

    fn u16_le(&self, offset: u64) -> Option<u16> {
        Some(u16::from_le_bytes(self.at(offset, 2)?.try_into().ok()?))
    }

    fn u32_le(&self, offset: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.at(offset, 4)?.try_into().ok()?))
    }

    fn uuid(&self, offset: u64) -> Option<String> {
        Some(Uuid::from_bytes(self.at(offset, 16)?.try_into().ok()?).to_string())
    }

    /// Text up to a NUL, blanks at the end removed; none if nothing is left.
    fn text(&self, offset: u64, length: usize) -> Option<String> {
        let bytes = self.at(offset, length)?.split(|&byte| byte == 0).next()?;
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

/// Everything that is recognised.
pub(super) fn all(windows: &Windows<'_>) -> Vec<Found> {
    let checks: [fn(&Windows<'_>) -> Option<Found>; 18] = [
        gpt,
        mbr,
        md_1,
        md_0_90,
        zfs,
        lvm2,
        luks,
        bitlocker,
        extended_family,
        xfs,
        btrfs,
        f2fs,
        ntfs,
        vfat,
        exfat,
        swap,
        iso9660,
        squashfs,
    ];
    checks.iter().filter_map(|check| check(windows)).collect()
}

fn found(kind: Kind, uuid: Option<String>, label: Option<String>) -> Option<Found> {
    Some(Found { kind, uuid, label })
}

fn gpt(windows: &Windows<'_>) -> Option<Found> {
    let last_sector = |bytes: u64| windows.bytes.checked_sub(bytes);
    let places = [Some(512), Some(4096), last_sector(512), last_sector(4096)];
    let at = places.into_iter().flatten().find(|&at| windows.has(at, b"EFI PART"))?;
    let disk_guid: [u8; 16] = windows.at(at + 56, 16)?.try_into().ok()?;
    found(Kind::Gpt, Some(Uuid::from_bytes_le(disk_guid).to_string()), None)
}

/// An MBR table: not the boot sector of a FAT or NTFS, which ends in 55AA as well.
fn mbr(windows: &Windows<'_>) -> Option<Found> {
    if !windows.has(0x1fe, &[0x55, 0xaa]) || vfat(windows).is_some() || ntfs(windows).is_some() {
        return None;
    }
    let entries = windows.at(0x1be, 64)?;
    let flags_are_flags = entries.chunks_exact(16).all(|entry| entry[0] & 0x7f == 0);
    let is_used = |entry: &[u8]| entry[4] != 0 && entry[12..16] != [0; 4];
    if !flags_are_flags || !entries.chunks_exact(16).any(is_used) {
        return None;
    }
    let signature = windows.u32_le(0x1b8)?;
    found(Kind::Mbr, (signature != 0).then(|| format!("{signature:08x}")), None)
}

const MD_MAGIC: [u8; 4] = 0xa92b_4efcu32.to_le_bytes();

/// Version 1.1 at the start, 1.2 at 4 KiB, 1.0 near the end.
fn md_1(windows: &Windows<'_>) -> Option<Found> {
    let sectors = windows.bytes / 512;
    let at_end = sectors.checked_sub(16).map(|sector| (sector & !7) * 512);
    let is_superblock = |&at: &u64| {
        windows.has(at, &MD_MAGIC)
            && windows.u32_le(at + 4) == Some(1)
            && windows.at(at + 144, 8) == Some(&(at / 512).to_le_bytes()[..])
    };
    let at = [Some(0), Some(4096), at_end].into_iter().flatten().find(is_superblock)?;
    found(Kind::MdRaid, windows.uuid(at + 16), windows.text(at + 32, 32))
}

/// Version 0.90: in the last whole 64 KiB but one, in the byte order of the machine, here little endian.
fn md_0_90(windows: &Windows<'_>) -> Option<Found> {
    let at = (windows.bytes & !0xffff).checked_sub(0x1_0000)?;
    if !windows.has(at, &MD_MAGIC) || windows.u32_le(at + 4) != Some(0) {
        return None;
    }
    let mut uuid = [0; 16];
    uuid[..4].copy_from_slice(windows.at(at + 20, 4)?);
    uuid[4..].copy_from_slice(windows.at(at + 52, 12)?);
    // blkid swaps each word; so does mdadm.
    uuid.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    found(Kind::MdRaid, Some(Uuid::from_bytes(uuid).to_string()), None)
}

/// Four labels of 256 KiB, two at each end; the second half of each is a ring of uberblocks.
fn zfs(windows: &Windows<'_>) -> Option<Found> {
    const LABEL_BYTES: u64 = 256 << 10;
    let aligned_end = windows.bytes & !(LABEL_BYTES - 1);
    let labels = [
        Some(0),
        Some(LABEL_BYTES),
        aligned_end.checked_sub(2 * LABEL_BYTES),
        aligned_end.checked_sub(LABEL_BYTES),
    ];
    let is_uberblock = |at: u64| {
        windows.has(at, &0x00ba_b10cu64.to_le_bytes())
            || windows.has(at, &0x00ba_b10cu64.to_be_bytes())
    };
    let ring = |label: u64| (label + LABEL_BYTES / 2..label + LABEL_BYTES).step_by(1024);
    let any = labels.into_iter().flatten().flat_map(ring).any(is_uberblock);
    any.then_some(Found { kind: Kind::Zfs, uuid: None, label: None })
}

fn lvm2(windows: &Windows<'_>) -> Option<Found> {
    let is_label = |&at: &u64| windows.has(at, b"LABELONE") && windows.has(at + 24, b"LVM2 001");
    let at = [0, 512, 1024, 1536].into_iter().find(is_label)?;
    let header = u64::from(windows.u32_le(at + 20)?);
    let id = windows.at(at.checked_add(header)?, 32)?;
    if !id.iter().all(u8::is_ascii_alphanumeric) {
        return found(Kind::Lvm2, None, None);
    }
    let id = String::from_utf8_lossy(id);
    let parts = [0..6, 6..10, 10..14, 14..18, 18..22, 22..26, 26..32];
    found(Kind::Lvm2, Some(parts.map(|part| &id[part]).join("-")), None)
}

fn luks(windows: &Windows<'_>) -> Option<Found> {
    if !windows.has(0, b"LUKS\xba\xbe") {
        return None;
    }
    let is_2 = windows.has(6, &[0, 2]);
    let label = if is_2 { windows.text(24, 48) } else { None };
    found(Kind::Luks, windows.text(168, 40), label)
}

fn bitlocker(windows: &Windows<'_>) -> Option<Found> {
    if !windows.has(3, b"-FVE-FS-") {
        return None;
    }
    found(Kind::BitLocker, None, None)
}

fn extended_family(windows: &Windows<'_>) -> Option<Found> {
    let bytes = windows.at(ext::OFFSET_BYTES, ext::SUPERBLOCK_BYTES)?;
    let superblock = Superblock::parse(bytes).ok()?;
    let kind = match superblock.generation {
        Generation::Ext2 => Kind::Ext2,
        Generation::Ext3 => Kind::Ext3,
        Generation::Ext4 => Kind::Ext4,
        Generation::JournalDevice => Kind::ExtJournal,
    };
    let label = Some(superblock.label).filter(|label| !label.is_empty());
    found(kind, Some(superblock.uuid.to_string()), label)
}

fn xfs(windows: &Windows<'_>) -> Option<Found> {
    if !windows.has(0, b"XFSB") {
        return None;
    }
    found(Kind::Xfs, windows.uuid(32), windows.text(108, 12))
}

fn btrfs(windows: &Windows<'_>) -> Option<Found> {
    const SUPERBLOCK: u64 = 0x1_0000;
    if !windows.has(SUPERBLOCK + 0x40, b"_BHRfS_M") {
        return None;
    }
    found(Kind::Btrfs, windows.uuid(SUPERBLOCK + 0x20), windows.text(SUPERBLOCK + 0x12b, 256))
}

fn f2fs(windows: &Windows<'_>) -> Option<Found> {
    if windows.u32_le(1024) != Some(0xf2f5_2010) {
        return None;
    }
    let name = windows.at(1024 + 124, 1024)?;
    let units = name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
    let label = Some(String::from_utf16_lossy(&units)).filter(|label| !label.is_empty());
    found(Kind::F2fs, windows.uuid(1024 + 108), label)
}

/// The label is in the master file table and is not looked for.
fn ntfs(windows: &Windows<'_>) -> Option<Found> {
    if !windows.has(3, b"NTFS    ") {
        return None;
    }
    let serial = u64::from_le_bytes(windows.at(0x48, 8)?.try_into().ok()?);
    found(Kind::Ntfs, Some(format!("{serial:016X}")), None)
}

fn vfat(windows: &Windows<'_>) -> Option<Found> {
    // Serial number, label and type follow each other; FAT32 has them further back.
    let at = if windows.has(0x52, b"FAT32   ") {
        0x43
    } else if windows.has(0x36, b"FAT16   ") || windows.has(0x36, b"FAT12   ") {
        0x27
    } else {
        return None;
    };
    let sector_bytes = windows.u16_le(0x0b)?;
    if !windows.has(0x1fe, &[0x55, 0xaa]) || !matches!(sector_bytes, 512 | 1024 | 2048 | 4096) {
        return None;
    }
    let serial = windows.u32_le(at)?;
    let label = windows.text(at + 4, 11).filter(|label| label != "NO NAME");
    found(Kind::Vfat, Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)), label)
}

fn exfat(windows: &Windows<'_>) -> Option<Found> {
    if !windows.has(3, b"EXFAT   ") {
        return None;
    }
    let serial = windows.u32_le(0x64)?;
    found(Kind::Exfat, Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)), None)
}

fn swap(windows: &Windows<'_>) -> Option<Found> {
    // The magic ends the first page, whatever the page size of the machine that made it.
    let magic = [4096u64, 8192, 16384, 65536]
        .into_iter()
        .find_map(|page| windows.at(page - 10, 10).filter(|magic| is_swap_magic(magic)))?;
    if magic == b"SWAP-SPACE" {
        return found(Kind::Swap, None, None);
    }
    let kind = if magic == b"SWAPSPACE2" { Kind::Swap } else { Kind::Hibernated };
    found(kind, windows.uuid(1036), windows.text(1052, 16))
}

fn is_swap_magic(magic: &[u8]) -> bool {
    matches!(magic, b"SWAPSPACE2" | b"SWAP-SPACE")
        || [&b"S1SUSPEND"[..], b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"]
            .iter()
            .any(|name| magic.starts_with(name))
}

fn iso9660(windows: &Windows<'_>) -> Option<Found> {
    if !windows.has(0x8001, b"CD001") {
        return None;
    }
    found(Kind::Iso9660, None, windows.text(0x8028, 32))
}

fn squashfs(windows: &Windows<'_>) -> Option<Found> {
    if !windows.has(0, b"hsqs") {
        return None;
    }
    found(Kind::Squashfs, None, None)
}
