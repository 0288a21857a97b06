//! How a machine that cannot go on ends: the cause on the console, a countdown, a restart, after
//! which it netboots again.

use super::console;
use metalcast_sys::reboot;
use std::time::Duration;

/// Long enough to read the cause, short enough for a machine nobody looks at.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// A panic is our own mistake: more time to read it.
const AFTER_PANIC: Duration = Duration::from_secs(60);
/// Distance of countdown lines.
const STEP: Duration = Duration::from_secs(5);

/// Says why on the console and restarts the machine after 30 s.
pub fn fail(error: &anyhow::Error) -> ! {
    console::line(&format!("FAILED {error:#}"));
    restart_after(AFTER_FAILURE)
}

/// A panic in any thread is printed and restarts the machine after 60 s; until then other threads go
/// on, so that a write to a disk is not cut, and the thread itself unwinds, so that whoever waits for
/// it can tell the controller. The main thread stays: process 1 would end with it.
pub(super) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        // Its place and its message are on lines of their own.
        console::line(&format!("PANIC {}", info.to_string().replace('\n', " ")));
        let is_main = std::thread::current().name() == Some("main");
        if is_main || std::thread::Builder::new().spawn(after_panic).is_err() {
            after_panic();
        }
    }));
}

fn after_panic() {
    restart_after(AFTER_PANIC)
}

fn restart_after(time: Duration) -> ! {
    let mut left = time;
    while !left.is_zero() {
        console::line(&format!("restarting in {} s", left.as_secs()));
        std::thread::sleep(STEP.min(left));
        left = left.saturating_sub(STEP);
    }
    let refused = reboot::restart();
    console::line(&format!("the kernel refuses to restart: {:#}", anyhow::Error::new(refused)));
    // Process 1 that ends makes the kernel panic, and that restarts the machine.
    std::process::abort()
}
