//! The duty of process 1: orphans become its children, and their ends must be collected.
//!
//! Children started by [`crate::child`] are left alone, since somebody waits for their status.
//! Process 1 needs no signal handlers: the kernel gives it no signal it did not ask for.

use crate::{Result, child, during};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::io;

/// Most zombies collected in one call; the rest waits for the next.
const BATCH: usize = 1024;

/// Whether this is process 1.
pub fn is_process_1() -> bool {
    std::process::id() == 1
}

/// Collects children that have ended and were not started by [`crate::child`]; returns how many.
/// `/proc` must be mounted. All programs must be started through [`crate::child`], or this takes
/// their status away.
pub fn orphans() -> Result<usize> {
    let list = || -> io::Result<Vec<i32>> {
        let own = std::process::id();
        let mut zombies = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // A process may be gone by the time it is looked at.
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
            if state_and_parent(&stat) == Some(('Z', own)) && zombies.len() < BATCH {
                zombies.push(id);
            }
        }
        Ok(zombies)
    };
    // Held from the look to the wait: no child can be started and end in between unseen.
    let ours = child::ours();
    let zombies = list().map_err(during(|| "looking for ended orphans in /proc"))?;
    let orphans = zombies.into_iter().filter(|id| !ours.contains(&id.cast_unsigned()));
    Ok(orphans.filter(|id| waitpid(Pid::from_raw(*id), Some(WaitPidFlag::WNOHANG)).is_ok()).count())
}

/// From `/proc/PID/stat` (proc(5)): `id (name) state parent ...`; the name may hold anything, also
/// blanks and parentheses.
fn state_and_parent(stat: &str) -> Option<(char, u32)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_any_name_are_read() {
        assert_eq!(state_and_parent("7 (a) b) Z 1 7 7 0"), Some(('Z', 1)));
        assert_eq!(state_and_parent("7 (sh) S 42 7"), Some(('S', 42)));
        assert_eq!(state_and_parent("garbage"), None);
    }
}
