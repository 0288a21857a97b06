//! exFAT: everything before the clusters, and the clusters that the allocation bitmap has.
//!
//! The bitmap is a file that an entry of the root directory names; both are followed through the
//! allocation table. As in FAT, a block is the largest unit that all parts are multiples of.

use super::{Disk, UsedError, UsedMap, fat::common_block, marks::Marks};
use crate::bytes::{le_u16, le_u32, le_u64};
use std::io::{Read, Seek};

const FLAG_SECOND_FAT: u16 = 0x1;
const FLAG_DIRTY: u16 = 0x2;
const FLAG_FAILURE: u16 = 0x4;

const ENTRY_BYTES: usize = 32;
const ENTRY_END: u8 = 0x00;
const ENTRY_BITMAP: u8 = 0x81;
/// Largest root directory that is looked through: the bitmap's entry is among its first.
const MAX_ROOT_BYTES: u64 = 16 << 20;
/// Read at once.
const PIECE_BYTES: u64 = 64 << 10;

struct Volume {
    sector_bytes: u64,
    cluster_bytes: u64,
    fat: u64,
    heap: u64,
    clusters: u32,
    bytes: u64,
}

pub(super) fn read<D: Read + Seek>(disk: &mut Disk<'_, D>) -> Result<UsedMap, UsedError> {
    let mut boot = [0; 512];
    disk.read(0, &mut boot, "the boot sector")?;
    let volume = Volume::read(&boot, disk)?;
    let block_bytes = common_block(&[volume.heap, volume.cluster_bytes, volume.bytes]);
    let blocks = disk.checked_blocks(volume.bytes / block_bytes, block_bytes)?;
    let mut marks = Marks::none(blocks);
    marks.set(0, volume.heap / block_bytes);
    let flags = le_u16(&boot, 0x6a);
    let second = usize::from(flags & FLAG_SECOND_FAT != 0);
    let (mut cluster, bytes) = volume.bitmap(second, le_u32(&boot, 0x60), disk)?;
    let mut left = u64::from(volume.clusters).div_ceil(8);
    if bytes < left {
        return Err(disk.damaged("its allocation bitmap is too short"));
    }
    let cluster_blocks = volume.cluster_bytes / block_bytes;
    let (mut number, mut piece) = (0u32, vec![0; PIECE_BYTES as usize]);
    loop {
        let in_cluster = left.min(volume.cluster_bytes);
        let mut done = 0;
        while done < in_cluster {
            let step = (in_cluster - done).min(PIECE_BYTES);
            let at = volume.offset(cluster, disk)? + done;
            disk.read(at, &mut piece[..step as usize], "the allocation bitmap")?;
            let bits = (step as u32 * 8).min(volume.clusters - number);
            let first = volume.heap / block_bytes + u64::from(number) * cluster_blocks;
            marks.set_by_bits(first, &piece, bits, cluster_blocks);
            number += bits;
            done += step;
        }
        left -= in_cluster;
        if left == 0 {
            break;
        }
        cluster = volume.next(cluster, disk)?;
    }
    let mut unclean = Vec::new();
    if flags & FLAG_DIRTY != 0 {
        unclean.push("it is mounted, or was not unmounted".to_owned());
    }
    if flags & FLAG_FAILURE != 0 {
        unclean.push("its medium has failed before".to_owned());
    }
    Ok(UsedMap {
        filesystem: "EXFAT",
        program: "exfat",
        block_bytes: block_bytes as u32,
        device_bytes: volume.bytes,
        used: marks.into_bitmap(),
        left_out: Vec::new(),
        unclean,
    })
}

impl Volume {
    fn read<D: Read + Seek>(boot: &[u8; 512], disk: &Disk<'_, D>) -> Result<Self, UsedError> {
        let (sector_shift, cluster_shift) = (u32::from(boot[0x6c]), u32::from(boot[0x6d]));
        // The specification: sectors of 512 to 4096 bytes, clusters of up to 32 MiB.
        if !(9..=12).contains(&sector_shift) || sector_shift + cluster_shift > 25 {
            return Err(disk.damaged("the boot sector's sizes cannot be"));
        }
        let sector_bytes = 1u64 << sector_shift;
        let sectors = disk.checked_blocks(le_u64(boot, 0x48), sector_bytes)?;
        let volume = Self {
            sector_bytes,
            cluster_bytes: sector_bytes << cluster_shift,
            fat: u64::from(le_u32(boot, 0x50)) * sector_bytes,
            heap: u64::from(le_u32(boot, 0x58)) * sector_bytes,
            clusters: le_u32(boot, 0x5c),
            bytes: sectors * sector_bytes,
        };
        let end = volume.heap + u64::from(volume.clusters) * volume.cluster_bytes;
        if volume.clusters == 0 || end > volume.bytes {
            return Err(disk.damaged("its clusters go on beyond its end"));
        }
        Ok(volume)
    }

    /// Where a cluster is.
    fn offset<D: Read + Seek>(&self, cluster: u32, disk: &Disk<'_, D>) -> Result<u64, UsedError> {
        match cluster.checked_sub(2).filter(|index| *index < self.clusters) {
            Some(index) => Ok(self.heap + u64::from(index) * self.cluster_bytes),
            None => Err(disk.damaged(format!("there is no cluster {cluster}"))),
        }
    }

    /// The cluster behind one, from the first allocation table.
    fn next<D: Read + Seek>(&self, cluster: u32, disk: &mut Disk<'_, D>) -> Result<u32, UsedError> {
        let mut entry = [0; 4];
        disk.read(self.fat + u64::from(cluster) * 4, &mut entry, "the allocation table")?;
        Ok(u32::from_le_bytes(entry))
    }

    /// First cluster and length of the allocation bitmap that belongs to a table.
    fn bitmap<D: Read + Seek>(
        &self,
        second: usize,
        root: u32,
        disk: &mut Disk<'_, D>,
    ) -> Result<(u32, u64), UsedError> {
        let (mut cluster, mut seen) = (root, 0);
        let mut sector = vec![0; self.sector_bytes as usize];
        while seen < MAX_ROOT_BYTES {
            let start = self.offset(cluster, disk)?;
            for at in (0..self.cluster_bytes).step_by(self.sector_bytes as usize) {
                disk.read(start + at, &mut sector, "the root directory")?;
                for entry in sector.chunks_exact(ENTRY_BYTES) {
                    if entry[0] == ENTRY_END {
                        return Err(disk.damaged("the root directory names no allocation bitmap"));
                    }
                    if entry[0] == ENTRY_BITMAP && usize::from(entry[1] & 1) == second {
                        return Ok((le_u32(entry, 20), le_u64(entry, 24)));
                    }
                }
            }
            seen += self.cluster_bytes;
            cluster = self.next(cluster, disk)?;
        }
        Err(disk.damaged("the root directory names no allocation bitmap"))
    }
}
