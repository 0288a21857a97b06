//! Block devices: exclusive opening, geometry, zeroing, and the kernel's view of partitions.
//!
//! Partitions are announced one by one (`BLKPG`), so that their nodes appear even where the kernel
//! has no parser for the table. Tables on the disk itself are not this module's business.

use crate::{Result, during, ioctl};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Sector of the partition ioctls and of sysfs, whatever the disk's own sector size.
pub const SECTOR_BYTES: u64 = 512;

const BLKROGET: u32 = 0x125e;
const BLKROSET: u32 = 0x125d;
const BLKRRPART: u32 = 0x125f;
const BLKFLSBUF: u32 = 0x1261;
const BLKSSZGET: u32 = 0x1268;
const BLKPG: u32 = 0x1269;
const BLKPBSZGET: u32 = 0x127b;
const BLKZEROOUT: u32 = 0x127f;
/// `_IOR(0x12, 114, size_t)` on 64-bit Linux.
const BLKGETSIZE64: u32 = 0x8008_1272;

const BLKPG_ADD: libc::c_int = 1;
const BLKPG_DEL: libc::c_int = 2;

/// struct blkpg_ioctl_arg of linux/blkpg.h.
#[repr(C)]
struct BlkpgArg {
    op: libc::c_int,
    flags: libc::c_int,
    datalen: libc::c_int,
    data: *mut BlkpgPartition,
}

/// struct blkpg_partition; start and length in bytes.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: libc::c_int,
    devname: [u8; 64],
    volname: [u8; 64],
}

/// How to open a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Reading, beside whoever uses it.
    Read,
    /// Reading, and nobody else may hold it exclusively (`O_EXCL`, see open(2)). Fails with `EBUSY`
    /// otherwise.
    ExclusiveRead,
    /// Reading and writing, and nobody else may hold it exclusively: no mount, no swap, no other
    /// agent (`O_EXCL`, see open(2)). Fails with `EBUSY` otherwise.
    ExclusiveWrite,
}

/// An open block device.
#[derive(Debug)]
pub struct BlockDevice {
    file: File,
    path: PathBuf,
}

/// A partition as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    /// Number, from 1.
    pub number: u32,
    /// First byte on the disk.
    pub start_bytes: u64,
    /// Length in bytes. An extended partition is announced with a length of 1 KiB, or of one
    /// sector where that is larger, as the kernel's own parser does: all of it would overlap its
    /// logical partitions.
    pub length_bytes: u64,
}

impl BlockDevice {
    /// Opens `path`, which must be a block device.
    pub fn open(path: &Path, access: OpenMode) -> Result<Self> {
        let open = || -> io::Result<File> {
            let mut options = OpenOptions::new();
            options.read(true);
            match access {
                OpenMode::Read => {}
                OpenMode::ExclusiveRead => {
                    options.custom_flags(libc::O_EXCL);
                }
                OpenMode::ExclusiveWrite => {
                    options.write(true).custom_flags(libc::O_EXCL);
                }
            }
            let file = options.open(path)?;
            if !file.metadata()?.file_type().is_block_device() {
                return Err(io::Error::from_raw_os_error(libc::ENOTBLK));
            }
            Ok(file)
        };
        let file = open().map_err(during(|| match access {
            OpenMode::Read => format!("opening block device {}", path.display()),
            OpenMode::ExclusiveRead | OpenMode::ExclusiveWrite => {
                format!("opening block device {} for exclusive use", path.display())
            }
        }))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for reading and writing at offsets.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> Result<u64> {
        self.get(BLKGETSIZE64, "reading the size of", 0_u64)
    }

    /// Its logical sector in bytes: the smallest unit it reads and writes.
    pub fn logical_sector_bytes(&self) -> Result<u32> {
        self.get(BLKSSZGET, "reading the logical sector of", 0_i32).map(i32::unsigned_abs)
    }

    /// Its physical sector in bytes: the smallest unit it writes without reading first.
    pub fn physical_sector_bytes(&self) -> Result<u32> {
        self.get(BLKPBSZGET, "reading the physical sector of", 0_u32)
    }

    /// Whether it refuses writes.
    pub fn is_read_only(&self) -> Result<bool> {
        self.get(BLKROGET, "reading the write protection of", 0_i32).map(|value| value != 0)
    }

    /// Has it refuse writes, of filesystems too, or take them again.
    pub fn set_read_only(&self, is_read_only: bool) -> Result<()> {
        let mut value = i32::from(is_read_only);
        // SAFETY: BLKROSET reads an int (linux/fs.h).
        let set = unsafe { ioctl::by_address(&self.file, BLKROSET, &mut value) };
        set.map_err(during(|| format!("setting the write protection of {}", self.path.display())))
            .map(drop)
    }

    /// Whether it is a partition of a disk, by sysfs.
    pub fn is_partition(&self) -> bool {
        self.sysfs_dir().is_ok_and(|dir| dir.join("partition").exists())
    }

    /// Writes out what is dirty and waits for the device's own cache (fsync(2)).
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(during(|| format!("flushing {}", self.path.display())))
    }

    /// Writes out what is dirty and forgets what is cached, so that the next read is the device's.
    pub fn flush_buffers(&self) -> Result<()> {
        self.sync()?;
        // SAFETY: BLKFLSBUF has no argument.
        let done = unsafe { ioctl::by_value(&self.file, BLKFLSBUF, 0) };
        done.map_err(during(|| format!("dropping the cache of {}", self.path.display())))?;
        Ok(())
    }

    /// Fills a range with zeros, by the device's own command where it has one. Offsets are bytes and
    /// must be multiples of the logical sector.
    pub fn zero(&self, start_bytes: u64, length_bytes: u64) -> Result<()> {
        let mut range = [start_bytes, length_bytes];
        // SAFETY: BLKZEROOUT reads two u64, start and length in bytes.
        let done = unsafe { ioctl::by_address(&self.file, BLKZEROOUT, &mut range) };
        done.map_err(during(|| {
            format!("zeroing {length_bytes} bytes at {start_bytes} of {}", self.path.display())
        }))?;
        Ok(())
    }

    /// Has the kernel read the partition table with its own parsers; `EBUSY` while a partition is
    /// in use. See [`Self::set_partitions`] for kernels without the parser.
    pub fn reread_partitions(&self) -> Result<()> {
        // SAFETY: BLKRRPART has no argument.
        let done = unsafe { ioctl::by_value(&self.file, BLKRRPART, 0) };
        done.map_err(during(|| format!("re-reading the partitions of {}", self.path.display())))?;
        Ok(())
    }

    /// Announces a partition; its node appears where `/dev` is a devtmpfs.
    pub fn add_partition(&self, partition: Partition) -> Result<()> {
        self.blkpg(BLKPG_ADD, "adding", partition)
    }

    /// Takes a partition away from the kernel; `EBUSY` while it is in use.
    pub fn remove_partition(&self, number: u32) -> Result<()> {
        self.blkpg(BLKPG_DEL, "removing", Partition { number, start_bytes: 0, length_bytes: 0 })
    }

    /// The partitions the kernel knows, by number, from sysfs.
    pub fn partitions(&self) -> Result<Vec<Partition>> {
        let list = || -> io::Result<Vec<Partition>> {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(self.sysfs_dir()?)? {
                let dir = entry?.path();
                if dir.join("partition").exists() {
                    found.push(Partition {
                        number: number_in(&dir, "partition")?,
                        start_bytes: number_in::<u64>(&dir, "start")? * SECTOR_BYTES,
                        length_bytes: number_in::<u64>(&dir, "size")? * SECTOR_BYTES,
                    });
                }
            }
            found.sort_unstable();
            Ok(found)
        };
        list().map_err(during(|| format!("listing the partitions of {}", self.path.display())))
    }

    /// Makes the kernel know exactly `wanted`: what is equal stays untouched, even in use; all else
    /// is removed or added.
    pub fn set_partitions(&self, wanted: &[Partition]) -> Result<()> {
        let known = self.partitions()?;
        for old in known.iter().filter(|old| !wanted.contains(old)) {
            self.remove_partition(old.number)?;
        }
        for new in wanted.iter().filter(|new| !known.contains(new)) {
            self.add_partition(*new)?;
        }
        Ok(())
    }

    /// Waits for the node of a partition, at most `limit`, and names it.
    pub fn wait_for_partition(&self, number: u32, limit: Duration) -> Result<PathBuf> {
        let node = partition_path(&self.path, number);
        let deadline = Instant::now() + limit;
        while !node.exists() {
            if Instant::now() >= deadline {
                return Err(io::Error::from(io::ErrorKind::TimedOut))
                    .map_err(during(|| format!("waiting for {} to appear", node.display())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(node)
    }

    fn sysfs_dir(&self) -> io::Result<PathBuf> {
        use std::os::unix::fs::MetadataExt;
        let device = self.file.metadata()?.rdev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        Ok(PathBuf::from(format!("/sys/dev/block/{major}:{minor}")))
    }

    fn get<T>(&self, request: u32, doing: &str, mut value: T) -> Result<T> {
        // SAFETY: each caller passes the integer type its request writes: u64 for BLKGETSIZE64,
        // i32 for BLKSSZGET and BLKROGET, u32 for BLKPBSZGET (linux/fs.h, block/ioctl.c).
        let done = unsafe { ioctl::by_address(&self.file, request, &mut value) };
        done.map_err(during(|| format!("{doing} {}", self.path.display())))?;
        Ok(value)
    }

    fn blkpg(&self, op: libc::c_int, doing: &str, partition: Partition) -> Result<()> {
        let failed = || {
            let Partition { number, start_bytes, length_bytes } = partition;
            let path = self.path.display();
            format!("{doing} partition {number} ({length_bytes} bytes at {start_bytes}) of {path}")
        };
        let run = || -> io::Result<()> {
            let overflow = |_| io::Error::from_raw_os_error(libc::EOVERFLOW);
            let mut data = BlkpgPartition {
                start: i64::try_from(partition.start_bytes).map_err(overflow)?,
                length: i64::try_from(partition.length_bytes).map_err(overflow)?,
                number: i32::try_from(partition.number).map_err(overflow)?,
                devname: [0; 64],
                volname: [0; 64],
            };
            let datalen = size_of::<BlkpgPartition>() as libc::c_int;
            let mut arg = BlkpgArg { op, flags: 0, datalen, data: &raw mut data };
            // SAFETY: BLKPG takes a blkpg_ioctl_arg whose data points to a blkpg_partition of
            // `datalen` bytes; `data` outlives the call.
            unsafe { ioctl::by_address(&self.file, BLKPG, &mut arg) }?;
            Ok(())
        };
        run().map_err(during(failed))
    }
}

/// The node of a partition: `/dev/vda5`, but `/dev/nvme0n1p5` and `/dev/loop0p5`: the kernel puts
/// a `p` between where the disk's name ends in a digit.
pub fn partition_path(disk: &Path, number: u32) -> PathBuf {
    let name = disk.to_string_lossy();
    let infix = if name.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    PathBuf::from(format!("{name}{infix}{number}"))
}

fn number_in<N: std::str::FromStr>(dir: &Path, file: &str) -> io::Result<N> {
    let text = std::fs::read_to_string(dir.join(file))?;
    text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopdev::{LoopDevice, Options};
    use crate::mount::{Mount, MsFlags};
    use std::os::unix::fs::FileExt;

    const MIB: u64 = 1 << 20;

    fn disk(size: u64) -> (tempfile::NamedTempFile, LoopDevice) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let device = LoopDevice::attach(file.path(), Options::default()).unwrap();
        (file, device)
    }

    #[test]
    fn geometry_and_zeroing_of_a_loop_device() {
        let (file, device) = disk(8 * MIB);
        file.as_file().write_all_at(&[7; 4096], 2 * MIB).unwrap();
        let block = BlockDevice::open(device.path(), OpenMode::ExclusiveWrite).unwrap();
        assert_eq!(block.size_bytes().unwrap(), 8 * MIB);
        assert_eq!(block.logical_sector_bytes().unwrap(), 512);
        assert!(block.physical_sector_bytes().unwrap() >= 512);
        assert!(!block.is_read_only().unwrap());
        let mut sector = [1; 512];
        block.file().read_exact_at(&mut sector, 2 * MIB).unwrap();
        assert_eq!(sector, [7; 512]);
        block.zero(2 * MIB, 512).unwrap();
        block.flush_buffers().unwrap();
        file.as_file().read_exact_at(&mut sector, 2 * MIB).unwrap();
        assert_eq!(sector, [0; 512]);
        file.as_file().read_exact_at(&mut sector, 2 * MIB + 512).unwrap();
        assert_eq!(sector, [7; 512], "not a byte more than asked for");
        assert_eq!(block.zero(1, 512).unwrap_err().errno(), Some(libc::EINVAL));
        drop(block);
        device.close().unwrap();
    }

    #[test]
    fn partitions_appear_without_a_parser_and_follow_what_is_wanted() {
        let (_file, device) = disk(16 * MIB);
        let block = BlockDevice::open(device.path(), OpenMode::ExclusiveWrite).unwrap();
        let part = |number, start: u64, length: u64| Partition {
            number,
            start_bytes: start * MIB,
            length_bytes: length * MIB,
        };
        block.set_partitions(&[part(1, 1, 2), part(5, 4, 8)]).unwrap();
        let node = block.wait_for_partition(5, Duration::from_secs(5)).unwrap();
        let slot = BlockDevice::open(&node, OpenMode::Read).unwrap();
        assert_eq!(slot.size_bytes().unwrap(), 8 * MIB);
        assert!(slot.is_partition() && !block.is_partition());

        // Partition 5 is open and stays; 1 goes, 6 comes.
        block.set_partitions(&[part(5, 4, 8), part(6, 13, 2)]).unwrap();
        assert_eq!(block.partitions().unwrap(), [part(5, 4, 8), part(6, 13, 2)]);
        assert_eq!(block.add_partition(part(7, 5, 1)).unwrap_err().errno(), Some(libc::EBUSY));
        let busy = block.set_partitions(&[]).unwrap_err();
        assert_eq!(busy.errno(), Some(libc::EBUSY), "{busy}");
        drop(slot);
        block.set_partitions(&[]).unwrap();
        assert!(!node.exists());
        block.reread_partitions().ok();
        drop(block);
        device.close().unwrap();
    }

    #[test]
    fn a_mounted_device_cannot_be_opened_for_exclusive_writing() {
        let (file, device) = disk(8 * MIB);
        let made =
            std::process::Command::new("mke2fs").args(["-q", "-F"]).arg(file.path()).status();
        assert!(made.unwrap().success());
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            Mount::new(device.path(), dir.path(), "ext4", MsFlags::MS_RDONLY, None).unwrap();
        for mode in [OpenMode::ExclusiveWrite, OpenMode::ExclusiveRead] {
            let error = BlockDevice::open(device.path(), mode).unwrap_err();
            assert_eq!(error.errno(), Some(libc::EBUSY));
        }
        BlockDevice::open(device.path(), OpenMode::Read).unwrap();
        mounted.close().unwrap();
        BlockDevice::open(device.path(), OpenMode::ExclusiveWrite).unwrap();
        let regular = BlockDevice::open(file.path(), OpenMode::Read).unwrap_err();
        assert_eq!(regular.errno(), Some(libc::ENOTBLK));
        device.close().unwrap();
    }

    #[test]
    fn nodes_are_named_as_the_kernel_names_them() {
        for (disk, node) in [
            ("/dev/vda", "/dev/vda5"),
            ("/dev/nvme0n1", "/dev/nvme0n1p5"),
            ("/dev/loop3", "/dev/loop3p5"),
        ] {
            assert_eq!(partition_path(Path::new(disk), 5), Path::new(node));
        }
    }
}
