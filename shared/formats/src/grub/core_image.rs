//! The second stage: `diskboot.img`, the decompressor and the compressed kernel with its modules.

use lzma_rust2::{EncodeMode, LzmaOptions, LzmaReader, LzmaWriter, MfType};
use std::io::{Read, Write};

const SECTOR: usize = 512;
/// The one block list entry in use: u64 LBA, u16 sectors, u16 load segment. Lists grow downwards.
const BLOCK_LIST: usize = 0x1f4;
/// Segment of core sector 1: sector 0 is loaded to 0x8000.
const LOAD_SEGMENT: u16 = 0x0820;
const COMPRESSED_BYTES: usize = 0x208;
const UNCOMPRESSED_BYTES: usize = 0x20c;
/// Bytes of Reed-Solomon parity behind the core; none is fine.
const REDUNDANCY_BYTES: usize = 0x210;
/// Where `grub-mkimage` puts the compressed part: behind diskboot and the 2848-byte decompressor.
const PAYLOAD: usize = 0xd20;
/// What `grub-mkimage` allows: without its first sector, at 0x9000 upwards, the core must end below
/// 0x78000. It is loaded through a buffer at 0x70000 in steps of 127 sectors, which is safe up to there.
pub(super) const MAX_CORE_BYTES: usize = 0x78000 - 0x9000 + SECTOR;
/// Real ones have less than 2 MiB; bounds what a damaged size field can make us allocate.
const MAX_UNCOMPRESSED_BYTES: usize = 16 << 20;

/// LZMA parameters that `grub-mkimage` uses and the decompressor has built in.
const LC: u32 = 3;
const LP: u32 = 0;
const PB: u32 = 2;
const DICTIONARY_BYTES: u32 = 1 << 16;

/// Head of the module area: magic, u32 offset of the first object, u32 size of the whole.
const MODULES_MAGIC: &[u8; 4] = b"mimg";
const MODULES_HEAD: usize = 12;
/// Type of the object that holds the prefix.
const OBJECT_PREFIX: u32 = 3;
/// Objects: u32 type, u32 size with this header.
const OBJECT_HEAD: usize = 8;

/// Why a core image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// Too short for its own headers, or its payload is longer than the file.
    #[error("core image of {bytes} bytes is cut short")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// The block list is not one that `grub-mkimage` left.
    #[error("core image has no block list; it is not a BIOS core of GRUB 2")]
    NotCore,
    /// Does not fit into the sectors it is to be put in.
    #[error("core image needs {needed_sectors} sectors, there are {had_sectors}")]
    NoRoom {
        /// Its length.
        needed_sectors: u64,
        /// The room.
        had_sectors: u64,
    },
    /// Would overwrite GRUB's disk buffer while it is being loaded.
    #[error("core image of {bytes} bytes is larger than the {MAX_CORE_BYTES} a BIOS can load")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The payload does not unpack.
    #[error("core image's payload does not unpack")]
    Unpack(#[source] std::io::Error),
    /// The payload cannot be packed again.
    #[error("core image's payload cannot be packed")]
    Pack(#[source] std::io::Error),
    /// Unpacked, it has no module area with a prefix.
    #[error("core image has no prefix to replace; build it with a placeholder")]
    NoPrefix,
    /// The placeholder is shorter than the prefix.
    #[error("prefix {prefix} needs {} bytes, the core image has {room_bytes}", prefix.len() + 1)]
    PrefixTooLong {
        /// What was to be set.
        prefix: String,
        /// What there is, its final NUL included.
        room_bytes: usize,
    },
}

/// Makes a core image ready for the contiguous sectors from `start_lba` (absolute) on, of which there
/// are `room_sectors`. The result is whole sectors.
pub fn place_core(core: &[u8], start_lba: u64, room_sectors: u64) -> Result<Vec<u8>, CoreError> {
    check_core(core)?;
    let mut placed = core.to_vec();
    placed.resize(core.len().next_multiple_of(SECTOR), 0);
    let sectors = placed.len() / SECTOR;
    if sectors as u64 > room_sectors {
        return Err(CoreError::NoRoom {
            needed_sectors: sectors as u64,
            had_sectors: room_sectors,
        });
    }
    let too_large = CoreError::TooLarge { bytes: core.len() };
    let rest = u16::try_from(sectors - 1).map_err(|_| too_large)?;
    placed[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(start_lba + 1).to_le_bytes());
    placed[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&rest.to_le_bytes());
    placed[BLOCK_LIST + 10..BLOCK_LIST + 12].copy_from_slice(&LOAD_SEGMENT.to_le_bytes());
    placed[REDUNDANCY_BYTES..REDUNDANCY_BYTES + 4].fill(0);
    Ok(placed)
}

/// The same core with another prefix: the directory that becomes `$prefix` and the device that
/// becomes `$root`. `(,msdos5)/boot/grub` stands for partition 5 of the disk it was started from.
pub fn reprefix(core: &[u8], prefix: &str) -> Result<Vec<u8>, CoreError> {
    check_core(core)?;
    let mut payload = unpack(core)?;
    let room = find_prefix(&payload).ok_or(CoreError::NoPrefix)?;
    if prefix.len() >= room.len() {
        return Err(CoreError::PrefixTooLong { prefix: prefix.to_owned(), room_bytes: room.len() });
    }
    let area = &mut payload[room];
    area.fill(0);
    area[..prefix.len()].copy_from_slice(prefix.as_bytes());
    let packed = pack(&payload)?;
    let mut changed = core[..PAYLOAD].to_vec();
    let compressed = u32::try_from(packed.len()).unwrap_or(u32::MAX);
    changed[COMPRESSED_BYTES..COMPRESSED_BYTES + 4].copy_from_slice(&compressed.to_le_bytes());
    changed.extend_from_slice(&packed);
    check_core(&changed)?;
    Ok(changed)
}

fn check_core(core: &[u8]) -> Result<(), CoreError> {
    if core.len() <= PAYLOAD {
        return Err(CoreError::Short { bytes: core.len() });
    }
    if core.len() > MAX_CORE_BYTES {
        return Err(CoreError::TooLarge { bytes: core.len() });
    }
    let segment = u16::from_le_bytes([core[BLOCK_LIST + 10], core[BLOCK_LIST + 11]]);
    if segment != LOAD_SEGMENT || core[0x218..0x21b] != [0xff; 3] {
        return Err(CoreError::NotCore);
    }
    if core.len() - PAYLOAD < u32_at(core, COMPRESSED_BYTES) as usize {
        return Err(CoreError::Short { bytes: core.len() });
    }
    Ok(())
}

/// Caller has checked the bounds.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn unpack(core: &[u8]) -> Result<Vec<u8>, CoreError> {
    let compressed = u32_at(core, COMPRESSED_BYTES) as usize;
    let uncompressed = u32_at(core, UNCOMPRESSED_BYTES) as usize;
    if uncompressed > MAX_UNCOMPRESSED_BYTES {
        return Err(CoreError::NotCore);
    }
    let packed = &core[PAYLOAD..PAYLOAD + compressed];
    let mut payload = vec![0; uncompressed];
    LzmaReader::new(packed, uncompressed as u64, LC, LP, PB, DICTIONARY_BYTES, None)
        .and_then(|mut reader| reader.read_exact(&mut payload))
        .map_err(CoreError::Unpack)?;
    Ok(payload)
}

fn pack(payload: &[u8]) -> Result<Vec<u8>, CoreError> {
    let options = LzmaOptions {
        dict_size: DICTIONARY_BYTES,
        lc: LC,
        lp: LP,
        pb: PB,
        mode: EncodeMode::Normal,
        nice_len: LzmaOptions::NICE_LEN_MAX,
        mf: MfType::Bt4,
        depth_limit: 0,
        preset_dict: None,
    };
    let mut writer =
        LzmaWriter::new_no_header(Vec::new(), &options, false).map_err(CoreError::Pack)?;
    writer.write_all(payload).map_err(CoreError::Pack)?;
    writer.finish().map_err(CoreError::Pack)
}

/// The bytes of the prefix string with all its padding.
pub(super) fn find_prefix(payload: &[u8]) -> Option<std::ops::Range<usize>> {
    // The magic also occurs in the kernel's code; the real one spans the rest of the payload.
    let area = (0..payload.len().saturating_sub(MODULES_HEAD)).rev().find(|&at| {
        payload[at..].starts_with(MODULES_MAGIC)
            && u32_at(payload, at + 4) as usize == MODULES_HEAD
            && u32_at(payload, at + 8) as usize == payload.len() - at
    })?;
    let mut at = area + MODULES_HEAD;
    while at + OBJECT_HEAD <= payload.len() {
        let size = u32_at(payload, at + 4) as usize;
        if size < OBJECT_HEAD || size > payload.len() - at {
            return None;
        }
        if u32_at(payload, at) == OBJECT_PREFIX {
            return Some(at + OBJECT_HEAD..at + size);
        }
        at += size;
    }
    None
}
