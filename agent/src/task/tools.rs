//! Programs that a step starts. On a whole system they are simply there; in the RAM image they come
//! from [`bundles`] when they are needed first.

use super::{StepLog, bundles};
use anyhow::Context;
use metalcast_sys::child::{self, ChildError, Limits};
use std::{path::Path, process::Command, time::Duration};

/// A forced check reads all metadata; slots have some ten GB on disks that may be slow.
const LIMITS: Limits = Limits { time: Duration::from_secs(1800), output_bytes: 64 << 10 };

/// Process 1 is given no search path.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a program on a device. A task that is to stop kills it: what it was to mend or make is not
/// startable, and made anew the next time.
pub(super) fn run(
    program: &str,
    arguments: &[&str],
    device: &Path,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    bundles::provide(Path::new("/"), program, log)?;
    start(program, arguments, device, log).map(drop).or_else(|error| failed(error, log))
}

/// Repairs an ext2/3/4, also where that costs files. An image of a running system needs it as well.
pub(super) fn repair_ext(node: &Path, log: &StepLog<'_>) -> anyhow::Result<()> {
    bundles::provide(Path::new("/"), "e2fsck", log)?;
    match start("e2fsck", &["-f", "-y"], node, log) {
        // e2fsck(8): 1 says that errors were corrected.
        Err(error @ ChildError::Failed { .. }) if error.code() == Some(1) => Ok(()),
        other => other.map(drop).or_else(|error| failed(error, log)),
    }
}

fn start(
    program: &str,
    arguments: &[&str],
    device: &Path,
    log: &StepLog<'_>,
) -> Result<child::Output, ChildError> {
    let mut command = Command::new(program);
    // libblkid's memory of devices: btrfstune would find a UUID that an earlier attempt gave.
    command.env("BLKID_FILE", "/dev/null");
    command.env("PATH", SEARCH_PATH).env("LC_ALL", "C").args(arguments).arg(device);
    child::run_unless(command, &[], LIMITS, &|| log.check_cancel().is_err())
}

/// Why the task stops is more to the point than what it stopped.
fn failed(error: ChildError, log: &StepLog<'_>) -> anyhow::Result<()> {
    match (log.check_cancel(), error) {
        (Err(cancelled), ChildError::Stopped { command }) => {
            Err(cancelled).with_context(|| format!("`{command}` was stopped"))
        }
        (_, error) => Err(error.into()),
    }
}
