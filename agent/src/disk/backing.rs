//! Files that are disks to someone.

use anyhow::Context;
use std::path::Path;

/// The name of the loop device that has this file in it, if one has.
pub fn loop_device_of(file: &Path) -> anyhow::Result<Option<String>> {
    let path = file.canonicalize().with_context(|| format!("looking at {}", file.display()))?;
    let disks = std::fs::read_dir("/sys/block").context("listing loop devices")?;
    let holds = |disk: &std::fs::DirEntry| {
        let backing = std::fs::read_to_string(disk.path().join("loop/backing_file"));
        backing.is_ok_and(|backing| Path::new(backing.trim_end_matches('\n')) == path)
    };
    let found = disks.flatten().find(holds);
    Ok(found.map(|disk| disk.file_name().to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use metalcast_sys::loopdev::LoopDevice;

    #[test]
    fn a_file_in_a_loop_device_is_known_as_such() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        assert_eq!(loop_device_of(file.path()).unwrap(), None);
        let device = LoopDevice::attach(file.path(), Default::default()).unwrap();
        let name = device.path().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(loop_device_of(file.path()).unwrap(), Some(name));
        device.close().unwrap();
    }
}
