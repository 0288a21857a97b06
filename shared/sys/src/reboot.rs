//! Ending the machine: sync(2) and reboot(2).

use crate::{Error, during};
use nix::sys::reboot::RebootMode;

/// Writes out everything, then restarts the machine. Returns only if the kernel refuses.
pub fn restart() -> Error {
    end(RebootMode::RB_AUTOBOOT, "restarting the machine")
}

/// Writes out everything, then switches the machine off. Returns only if the kernel refuses.
pub fn power_off() -> Error {
    end(RebootMode::RB_POWER_OFF, "switching the machine off")
}

/// Writes out all dirty pages of all filesystems and waits for it (sync(2)).
pub fn sync() {
    nix::unistd::sync();
}

fn end(mode: RebootMode, operation: &'static str) -> Error {
    sync();
    match nix::sys::reboot::reboot(mode) {
        Err(errno) => during(|| operation)(errno),
    }
}
