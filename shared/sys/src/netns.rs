//! Network namespaces, of the calling thread only. Run this in a thread of its own: a thread
//! that serves several tasks would take them all along.

use crate::{Result, during};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::path::Path;

/// Where ip-netns(8) keeps its named namespaces.
const NAMED: &str = "/run/netns";

/// Moves the calling thread into the namespace that `ip netns add NAME` made.
pub fn enter(name: &str) -> Result<()> {
    let path = Path::new(NAMED).join(name);
    let namespace =
        File::open(&path).map_err(during(|| format!("opening network namespace {name}")))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .map_err(during(|| format!("entering network namespace {name}")))
}

/// Moves the calling thread into a new, empty namespace, which ends with its last thread or
/// socket; processes started by the thread are in it too.
pub fn enter_new() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(during(|| "making a network namespace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> std::path::PathBuf {
        std::fs::read_link("/proc/thread-self/ns/net").unwrap()
    }

    #[test]
    fn only_the_thread_that_asks_moves() {
        let before = id();
        std::thread::spawn(|| enter_new().map(|()| assert_ne!(before_of_process(), id())))
            .join()
            .unwrap()
            .unwrap();
        assert_eq!(id(), before);
    }

    fn before_of_process() -> std::path::PathBuf {
        std::fs::read_link("/proc/self/ns/net").unwrap()
    }

    #[test]
    fn a_named_namespace_is_entered_and_a_missing_one_named() {
        let name = format!("mcsys{}", std::process::id());
        let ip = |args: &[&str]| {
            assert!(std::process::Command::new("ip").args(args).status().unwrap().success());
        };
        ip(&["netns", "add", &name]);
        let inside = std::thread::spawn({
            let name = name.clone();
            move || enter(&name).map(|()| id())
        })
        .join()
        .unwrap();
        ip(&["netns", "del", &name]);
        assert_ne!(inside.unwrap(), id());
        let error = enter("no-such-namespace").unwrap_err();
        assert!(error.to_string().contains("no-such-namespace"));
    }
}
