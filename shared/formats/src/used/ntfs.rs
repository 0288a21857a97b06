//! NTFS: the clusters that `$Bitmap` has, and the backup of the boot sector behind the last one.
//!
//! partclone leaves the backup out; it is in the partition's last sector and would be missing on a
//! blank disk. Of page files and of a hibernation file that wakes nothing only the beginning is counted:
//! Windows makes their content anew.

mod boot;
mod record;
mod root;
mod runs;
mod stream;

use super::{Disk, KEPT_OF_LEFT_OUT_BYTES, LeftOut, UsedError, UsedMap, marks::Marks};
use crate::bytes::le_u16;
use boot::Boot;
use record::Body;
use runs::Extent;
use std::io::{Read, Seek};
use stream::Stream;

/// Records with a fixed number and purpose.
const MFT: u64 = 0;
const VOLUME: u64 = 3;
const ROOT: u64 = 5;
const BITMAP: u64 = 6;

const VOLUME_INFORMATION: u32 = 0x70;
const DATA: u32 = 0x80;

const VOLUME_IS_DIRTY: u16 = 0x1;

/// Files whose content every start of Windows makes anew.
const LEFT_OUT: [&str; 3] = ["pagefile.sys", "swapfile.sys", "hiberfil.sys"];
const HIBERNATION: &str = "hiberfil.sys";

/// The volume and its master file table.
struct Volume<'v, 'd, D> {
    disk: &'v mut Disk<'d, D>,
    boot: Boot,
    table: Vec<Extent>,
}

pub(super) fn read<D: Read + Seek>(disk: &mut Disk<'_, D>) -> Result<UsedMap, UsedError> {
    let mut sector = [0; 512];
    disk.read(0, &mut sector, "the boot sector")?;
    let boot = Boot::read(&sector, disk)?;
    let mut volume = Volume::open(disk, boot)?;
    let (clusters, cluster_bytes) = (volume.boot.clusters, volume.boot.cluster_bytes);
    // The backup's cluster is one more block, where the partition has room for all of it.
    let backup = volume.boot.backup_offset();
    let has_backup = (clusters + 1) * cluster_bytes <= volume.disk.bytes();
    let blocks = clusters + u64::from(has_backup);
    let mut marks = volume.bitmap(blocks)?;
    if has_backup {
        marks.set(clusters, 1);
    }
    let mut unclean = Vec::new();
    if volume.flags()? & VOLUME_IS_DIRTY != 0 {
        unclean
            .push("it is marked as dirty: Windows did not unmount it, or chkdsk is due".to_owned());
    }
    let mut left_out = Vec::new();
    for path in LEFT_OUT {
        match volume.leave_out(path, &mut marks) {
            Ok(Kept::Absent) => (),
            Ok(Kept::Beginning(bytes)) => left_out.push(LeftOut { path, bytes }),
            Ok(Kept::Hibernation) => unclean.push(
                "Windows is hibernated on it (\"fast startup\" counts): shut it down with \
                 `shutdown /s /t 0`"
                    .to_owned(),
            ),
            Err(error @ UsedError::Read { .. }) => return Err(error),
            Err(error) => {
                unclean.push(format!("its root directory cannot be searched: {error}"));
                break;
            }
        }
    }
    Ok(UsedMap {
        filesystem: "NTFS",
        program: "ntfs",
        block_bytes: cluster_bytes as u32,
        device_bytes: (backup + volume.boot.sector_bytes)
            .min(volume.disk.bytes())
            .max(blocks * cluster_bytes),
        used: marks.into_bitmap(),
        left_out,
        unclean,
    })
}

/// What was found of a file that may be left out.
enum Kept {
    Absent,
    /// All but so many bytes is kept.
    Beginning(u64),
    /// All of it: a system wakes up from it.
    Hibernation,
}

impl<'v, 'd, D: Read + Seek> Volume<'v, 'd, D> {
    fn open(disk: &'v mut Disk<'d, D>, boot: Boot) -> Result<Self, UsedError> {
        // The table's own record says where the rest of the table is.
        let first = Extent { vcn: 0, lcn: Some(boot.table), clusters: boot.record_clusters() };
        let mut volume = Self { disk, boot, table: vec![first] };
        volume.table = volume.table_extents()?;
        Ok(volume)
    }

    /// The bitmap, for at least as many blocks as there are clusters.
    fn bitmap(&mut self, blocks: u64) -> Result<Marks, UsedError> {
        let stream = self.stream_of(BITMAP, DATA, "")?;
        let needed = self.boot.clusters.div_ceil(8);
        let mut bits = vec![0; blocks.div_ceil(8) as usize];
        self.read_stream(&stream, &mut bits[..needed as usize], "$Bitmap")?;
        // Bits behind the last cluster are set, as if in use.
        if let (Some(last), rest @ 1..) =
            (bits.get_mut(needed as usize - 1), self.boot.clusters % 8)
        {
            *last &= (1 << rest) - 1;
        }
        Ok(Marks::from_bits(blocks, bits).expect("made as long as the blocks need"))
    }

    fn flags(&mut self) -> Result<u16, UsedError> {
        let record = self.record(VOLUME)?;
        let attribute = record.attributes().find(|attribute| attribute.kind == VOLUME_INFORMATION);
        match attribute.map(|attribute| attribute.body) {
            Some(Body::Resident(value)) if value.len() >= 12 => Ok(le_u16(value, 10)),
            _ => Err(self.disk.damaged("$Volume does not say in what state it is")),
        }
    }

    fn leave_out(&mut self, name: &str, marks: &mut Marks) -> Result<Kept, UsedError> {
        let Some(number) = self.in_root(name)? else { return Ok(Kept::Absent) };
        let Ok(stream) = self.stream_of(number, DATA, "") else { return Ok(Kept::Absent) };
        let clusters: u64 = stream
            .extents
            .iter()
            .filter(|extent| extent.lcn.is_some())
            .map(|extent| extent.clusters)
            .sum();
        // More than there are: damage that is kept as it is.
        if !stream.is_plain || clusters > self.boot.clusters {
            return Ok(Kept::Absent);
        }
        if name == HIBERNATION && stream.bytes >= 4 && !stream.extents.is_empty() {
            let mut magic = [0; 4];
            self.read_stream(&stream, &mut magic, HIBERNATION)?;
            if magic.eq_ignore_ascii_case(b"hibr") {
                return Ok(Kept::Hibernation);
            }
        }
        let kept = KEPT_OF_LEFT_OUT_BYTES.div_ceil(self.boot.cluster_bytes);
        let mut clusters = 0;
        for extent in &stream.extents {
            let skip = kept.saturating_sub(extent.vcn).min(extent.clusters);
            let Some(lcn) = extent.lcn else { continue };
            marks.clear(lcn + skip, extent.clusters - skip);
            clusters += extent.clusters - skip;
        }
        match clusters {
            0 => Ok(Kept::Absent),
            _ => Ok(Kept::Beginning(clusters * self.boot.cluster_bytes)),
        }
    }

    /// The beginning of a stream, as much as fits into the buffer.
    fn read_stream(
        &mut self,
        stream: &Stream,
        buffer: &mut [u8],
        what: &'static str,
    ) -> Result<(), UsedError> {
        if stream.bytes < buffer.len() as u64 {
            return Err(self.disk.damaged(format!("{what} is too short")));
        }
        self.read_extents(&stream.extents, 0, buffer, what)
    }
}
