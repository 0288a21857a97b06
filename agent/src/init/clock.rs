//! The wall clock, from the controller's time in the boot configuration.

use anyhow::Result;
use metalcast_sys::clock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A clock that is less than this beside the controller's stays as it is.
const TOLERANCE: Duration = Duration::from_secs(60);

/// Sets the clock if it is wrong. `controller_unix` is the controller's time when it answered the
/// firmware, seconds since 1970; since then the kernel was loaded and has run.
pub(super) fn correct(controller_unix: i64) -> Result<()> {
    let now = SystemTime::now();
    if let Some(time) = corrected(now, controller_unix, clock::since_boot()?) {
        clock::set_wall_clock(time)?;
        tracing::warn!("{}", told(now, time));
    }
    Ok(())
}

/// The time to set, if the clock is before the controller's time or too far from what it must be by
/// now.
fn corrected(now: SystemTime, controller_unix: i64, since_boot: Duration) -> Option<SystemTime> {
    let told = UNIX_EPOCH + Duration::from_secs(u64::try_from(controller_unix).ok()?);
    let expected = told.checked_add(since_boot)?;
    let ahead = now.duration_since(expected).unwrap_or_default();
    (now < told || ahead > TOLERANCE).then_some(expected)
}

/// For an operator: an empty battery is worth replacing.
fn told(was: SystemTime, is: SystemTime) -> String {
    let (off, side) = match is.duration_since(was) {
        Ok(behind) => (behind, "behind"),
        Err(ahead) => (ahead.duration(), "ahead"),
    };
    let (days, seconds) = (off.as_secs() / 86_400, off.as_secs() % 86_400);
    format!("the clock was {days} days and {seconds} s {side} and is set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wrong_clock_is_set() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let boot = Duration::from_secs(10);
        let check = |now, expected| assert_eq!(corrected(at(now), 1000, boot), expected, "{now}");
        check(0, Some(at(1010)));
        check(999, Some(at(1010)));
        check(1000, None);
        check(1070, None);
        check(1071, Some(at(1010)));
        assert_eq!(corrected(at(5), -1, boot), None, "a time that cannot be is not followed");
        assert_eq!(corrected(at(5), i64::MAX, boot), None);
        assert_eq!(told(at(5), at(86_410)), "the clock was 1 days and 5 s behind and is set");
        assert_eq!(told(at(9), at(5)), "the clock was 0 days and 4 s ahead and is set");
    }
}
