//! Files that are disks to someone.

use crate::{Result, during};
use std::{io, path::Path};

/// The name of the loop device that has this file in it, if one has.
pub fn device_of(file: &Path) -> Result<Option<String>> {
    let find = || -> io::Result<Option<String>> {
        let path = file.canonicalize()?;
        let holds = |disk: &std::fs::DirEntry| {
            let backing = std::fs::read_to_string(disk.path().join("loop/backing_file"));
            backing.is_ok_and(|backing| Path::new(backing.trim_end_matches('\n')) == path)
        };
        let found = std::fs::read_dir("/sys/block")?.flatten().find(holds);
        Ok(found.map(|disk| disk.file_name().to_string_lossy().into_owned()))
    };
    find().map_err(during(|| format!("looking for loop devices of {}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopdev::LoopDevice;

    #[test]
    fn a_file_in_a_loop_device_is_known_as_such() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        assert_eq!(device_of(file.path()).unwrap(), None);
        let device = LoopDevice::attach(file.path(), Default::default()).unwrap();
        let name = device.path().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(device_of(file.path()).unwrap(), Some(name));
        device.close().unwrap();
    }
}
