//! Collecting orphans, in a test process of its own: it takes the status of every child that was not
//! started by `metalcast_sys::child`.

use metalcast_sys::{child, reap::orphans};
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn orphans_are_collected_and_our_own_children_are_not() {
    // Make this process the one that orphans come to.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let limits = child::Limits { time: Duration::from_secs(20), output_bytes: 4096 };
    let ours = std::thread::spawn(move || {
        let mut command = Command::new("sh");
        // The inner sh ends at once, so its background child is orphaned; then we go on.
        command.args(["-c", "sh -c 'sleep 0.1 <&- >&- 2>&- & '; sleep 1; exit 7"]);
        child::run(command, b"", limits).unwrap_err().code()
    });
    let deadline = Instant::now() + Duration::from_secs(15);
    let mut collected = 0;
    while collected == 0 {
        assert!(Instant::now() < deadline, "no orphan in 15 s");
        collected += orphans().unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    while !ours.is_finished() {
        orphans().unwrap();
    }
    assert_eq!(ours.join().unwrap(), Some(7), "its status was not taken away");
}
