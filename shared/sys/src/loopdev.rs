//! Loop devices: a file as a block device (loop(4)).

mod backing;

pub use backing::device_of;

use crate::block::{BlockDevice, OpenMode};
use crate::{Error, Result, during, ioctl};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const LOOP_CLR_FD: u32 = 0x4c01;
const LOOP_CONFIGURE: u32 = 0x4c0a;
const LOOP_CTL_GET_FREE: u32 = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
/// How often another process may snatch the free device we were told of.
const ATTEMPTS: u32 = 32;

/// struct loop_info64 of linux/loop.h.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// struct loop_config of linux/loop.h, since Linux 5.8.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// Which part of the file, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Refuse writes.
    pub read_only: bool,
    /// First byte of the file that is shown.
    pub offset_bytes: u64,
    /// Bytes that are shown; 0 means up to the end of the file.
    pub limit_bytes: u64,
    /// Logical sector in bytes, 512 to 4096; 0 means 512.
    pub sector_bytes: u32,
}

/// An attached loop device. [`LoopDevice::close`] reports a failure; dropping detaches silently.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    device: Option<File>,
}

impl LoopDevice {
    /// Attaches `file` to a free loop device.
    pub fn attach(file: &Path, options: Options) -> Result<Self> {
        let failed = || format!("attaching {} to a loop device", file.display());
        let backing = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .open(file)
            .map_err(during(failed))?;
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")
            .map_err(during(failed))?;
        for _ in 0..ATTEMPTS {
            match attach_free(&control, &backing, options) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => continue,
                other => return other.map_err(during(failed)),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY)).map_err(during(failed))
    }

    /// Its node, such as `/dev/loop3`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes its partitions and detaches the file.
    pub fn close(mut self) -> Result<()> {
        self.detach()
    }

    fn detach(&mut self) -> Result<()> {
        let Some(device) = self.device.take() else { return Ok(()) };
        // Partitions announced by BLKPG would outlive the file and greet the next user.
        let partitions = BlockDevice::open(&self.path, OpenMode::Read)
            .and_then(|block| block.set_partitions(&[]));
        // SAFETY: LOOP_CLR_FD has no argument.
        let cleared: std::result::Result<_, Error> =
            unsafe { ioctl::by_value(&device, LOOP_CLR_FD, 0) }
                .map_err(during(|| format!("detaching {}", self.path.display())));
        partitions.and(cleared.map(|_| ()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Nobody is left to report to; close() is the way to hear of a failure.
        let _ = self.detach();
    }
}

fn attach_free(control: &File, backing: &File, options: Options) -> io::Result<LoopDevice> {
    // SAFETY: LOOP_CTL_GET_FREE has no argument.
    let number = unsafe { ioctl::by_value(control, LOOP_CTL_GET_FREE, 0) }?;
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let device = OpenOptions::new().read(true).write(!options.read_only).open(&path)?;
    let mut config = LoopConfig {
        fd: backing.as_raw_fd().cast_unsigned(),
        block_size: options.sector_bytes,
        info: LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: options.offset_bytes,
            size_limit: options.limit_bytes,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: if options.read_only { LO_FLAGS_READ_ONLY } else { 0 },
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE takes a struct loop_config; the kernel takes its own reference to the
    // backing file, which is open here.
    unsafe { ioctl::by_address(&device, LOOP_CONFIGURE, &mut config) }?;
    Ok(LoopDevice { path, device: Some(device) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Partition;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_window_of_a_file_is_shown_and_freed_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        file.as_file().write_all_at(b"window", 8192).unwrap();
        let options =
            Options { read_only: true, offset_bytes: 8192, limit_bytes: 16384, sector_bytes: 4096 };
        let device = LoopDevice::attach(file.path(), options).unwrap();
        let path = device.path().to_owned();
        let block = BlockDevice::open(&path, OpenMode::Read).unwrap();
        assert_eq!(block.size_bytes().unwrap(), 16384);
        assert_eq!(block.logical_sector_bytes().unwrap(), 4096);
        assert!(block.is_read_only().unwrap());
        let mut start = [0; 6];
        block.file().read_exact_at(&mut start, 0).unwrap();
        assert_eq!(&start, b"window");
        drop(block);
        device.close().unwrap();
        assert!(!backing_file(&path).is_some_and(|name| name.contains(&name_of(&file))));
    }

    #[test]
    fn partitions_do_not_outlive_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        let device = LoopDevice::attach(file.path(), Options::default()).unwrap();
        let path = device.path().to_owned();
        BlockDevice::open(&path, OpenMode::Read)
            .unwrap()
            .add_partition(Partition { number: 3, start_bytes: 1 << 20, length_bytes: 1 << 20 })
            .unwrap();
        let node = crate::block::partition_path(&path, 3);
        assert!(node.exists());
        drop(device);
        assert!(!node.exists());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error =
            LoopDevice::attach(Path::new("/nonexistent/x"), Options::default()).unwrap_err();
        assert_eq!(error.to_string(), "attaching /nonexistent/x to a loop device");
    }

    fn name_of(file: &tempfile::NamedTempFile) -> String {
        file.path().file_name().unwrap().to_string_lossy().into_owned()
    }

    fn backing_file(device: &Path) -> Option<String> {
        let name = device.file_name()?.to_str()?;
        std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()
    }
}
