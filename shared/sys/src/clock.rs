//! The clocks of the kernel: wall time, which can be set, and time since the machine started.

use crate::{Result, during};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since the kernel started, suspension included (`CLOCK_BOOTTIME`).
pub fn since_boot() -> Result<Duration> {
    let time =
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(during(|| "reading the boot clock"))?;
    Ok(time.into())
}

/// Sets the wall clock. Times before 1970 are refused.
pub fn set_wall_clock(time: SystemTime) -> Result<()> {
    let since_epoch = time
        .duration_since(UNIX_EPOCH)
        .map_err(|_| std::io::Error::from_raw_os_error(libc::EINVAL))
        .map_err(during(|| "setting the clock to a time before 1970"))?;
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from(since_epoch))
        .map_err(during(|| format!("setting the clock to {} s", since_epoch.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_runs_and_agrees_with_proc() {
        let first = since_boot().unwrap();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let second = since_boot().unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!(second >= first);
        assert!(uptime > first.as_secs_f64() - 0.1 && uptime < second.as_secs_f64() + 0.1);
    }

    #[test]
    fn a_time_before_1970_is_refused_before_the_kernel_is_asked() {
        let error = set_wall_clock(UNIX_EPOCH - Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("before 1970"));
    }
}
