//! Programs of the RAM image that a step starts.

use metalcast_sys::child::{self, ChildError, Limits};
use std::{path::Path, process::Command, time::Duration};

/// A forced check reads all metadata; slots have some ten GB on disks that may be slow.
const LIMITS: Limits = Limits { time: Duration::from_secs(1800), output_bytes: 64 << 10 };

/// Process 1 is given no search path.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a program on a device.
pub(super) fn run(program: &str, arguments: &[&str], device: &Path) -> Result<(), ChildError> {
    let mut command = Command::new(program);
    command.env("PATH", SEARCH_PATH).env("LC_ALL", "C").args(arguments).arg(device);
    child::run(command, &[], LIMITS).map(drop)
}

/// Repairs an ext2/3/4, also where that costs files.
pub(super) fn repair_ext(node: &Path) -> Result<(), ChildError> {
    match run("e2fsck", &["-f", "-y"], node) {
        // e2fsck(8): 1 says that errors were corrected.
        Err(error @ ChildError::Failed { .. }) if error.code() == Some(1) => Ok(()),
        other => other,
    }
}
