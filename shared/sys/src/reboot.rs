//! Ending the machine: sync(2), reboot(2), and the reset that needs neither.

use crate::{Error, Result, during};
use nix::sys::reboot::{RebootMode, reboot};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Writes out all dirty pages of all filesystems (sync(2)) and waits for that, but not longer than
/// `limit`: a dying disk may never be done. Whether it was done.
pub fn sync_within(limit: Duration) -> bool {
    let (done, wait) = channel();
    std::thread::spawn(move || {
        nix::unistd::sync();
        // Nobody may be waiting any more.
        let _ = done.send(());
    });
    wait.recv_timeout(limit).is_ok()
}

/// Restarts the machine as it is. The kernel shuts its devices down first, which a dying one may keep
/// from ending: see [`reset`]. Returns only if the kernel refuses.
pub fn restart() -> Error {
    match reboot(RebootMode::RB_AUTOBOOT) {
        Err(errno) => during(|| "restarting the machine")(errno),
    }
}

/// Resets the machine at once, nothing shut down (`b` of sysrq.rst). `proc` is mounted on `/proc`.
pub fn reset() -> Result<()> {
    let trigger = Path::new("/proc/sysrq-trigger");
    std::fs::write(trigger, "b").map_err(during(|| "resetting the machine by /proc/sysrq-trigger"))
}
