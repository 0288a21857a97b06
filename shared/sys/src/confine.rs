//! Running a program of a system that is not running: with that system's root directory as its own, and without a way
//! to the machine around it.
//!
//! It has namespaces of its own (mount, process, network, IPC, host name; namespaces(7)), no network, none of the
//! machine's devices but `null`, `zero`, `full` and the random ones, and only those capabilities (capabilities(7)) that
//! change files and become another user. What it has started ends with it.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, chroot, fork, symlinkat};
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Numbers of the capabilities that stay (linux/capability.h): CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID,
/// SETUID, SETFCAP.
const KEPT: [i32; 8] = [0, 1, 3, 4, 5, 6, 7, 31];

/// One more than the highest capability that there could be: they are bits of a 64-bit number.
const CAPABILITIES: i32 = 64;

/// Devices that the program finds, with their minor numbers; the major one is 1 (memory devices).
const DEVICES: [(&CStr, u64); 5] = [
    (c"/dev/null", 3),
    (c"/dev/zero", 5),
    (c"/dev/full", 7),
    (c"/dev/random", 8),
    (c"/dev/urandom", 9),
];

const LINKS: [(&CStr, &CStr); 4] = [
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
];

/// Status of a program that could not be waited for, as shells have it for one that cannot be run.
const LOST: i32 = 126;

/// Makes `command` start below `root`, a directory with a system in it; the program's path is one inside. The system
/// needs the directories `dev` and `proc`.
///
/// # Errors
/// When the path has a NUL in it. What the kernel refuses is an error when the command is started.
pub fn confine(command: &mut Command, root: &Path) -> io::Result<()> {
    let root = CString::new(root.as_os_str().as_bytes())?;
    // SAFETY: between fork and exec only system calls are made and nothing is allocated.
    unsafe { command.pre_exec(move || enter(&root)) };
    Ok(())
}

fn enter(root: &CStr) -> io::Result<()> {
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )?;
    // The first process of the new namespace is the program: with it all others end.
    // SAFETY: this process has one thread; the child goes on to exec, the parent only waits.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => wait_for(child),
        ForkResult::Child => prepare(root),
    }
}

/// Ends as the child does.
fn wait_for(child: Pid) -> ! {
    // The pipe among them over which the standard library hears whether the program could be started.
    // SAFETY: nothing in this process uses a descriptor from here on.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    let status = loop {
        if closed != 0 {
            break LOST;
        }
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => break code,
            Ok(WaitStatus::Signaled(_, signal, _)) => break 128 + signal as i32,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => break LOST,
        }
    };
    // SAFETY: no handlers of the process that this is a copy of may run.
    unsafe { libc::_exit(status) }
}

fn prepare(root: &CStr) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    umask(Mode::from_bits_truncate(0o022));
    let nothing: Option<&CStr> = None;
    mount(nothing, c"/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(Some(root), root, nothing, MsFlags::MS_BIND, nothing)?;
    // Where it is mounted for the agent nothing is executed.
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(nothing, root, nothing, flags | MsFlags::MS_NOATIME, nothing)?;
    // Before the other mounts: no link of the system leads out of it any more.
    chroot(root)?;
    chdir(c"/")?;
    let bare = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    // Read only: files there restart and change the machine.
    let read_only = bare | MsFlags::MS_NODEV | MsFlags::MS_RDONLY;
    mount(Some(c"proc"), c"/proc", Some(c"proc"), read_only, nothing)?;
    mount(Some(c"tmpfs"), c"/dev", Some(c"tmpfs"), bare, Some(c"mode=0755,size=64k"))?;
    for (path, minor) in DEVICES {
        mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, minor))?;
        // SAFETY: a path that ends in NUL.
        if unsafe { libc::chmod(path.as_ptr(), 0o666) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    for (target, path) in LINKS {
        symlinkat(target, nix::fcntl::AT_FDCWD, path)?;
    }
    for capability in (0..CAPABILITIES).filter(|capability| !KEPT.contains(capability)) {
        // SAFETY: takes numbers only. Numbers beyond the kernel's are EINVAL.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if dropped != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::{self, ChildError, Limits};
    use std::fs;
    use std::time::{Duration, Instant};

    const LIMITS: Limits = Limits { time: Duration::from_secs(20), output_bytes: 1 << 16 };

    /// A system with nothing but busybox.
    fn system() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for dir in ["bin", "dev", "proc", "etc", "tmp"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", root.path().join("bin/busybox")).unwrap();
        for applet in ["sh", "ls", "cat", "mknod", "mount", "chroot", "reboot", "sleep", "chown"] {
            std::os::unix::fs::symlink("busybox", root.path().join("bin").join(applet)).unwrap();
        }
        root
    }

    fn run(root: &Path, script: &str, limits: Limits) -> Result<String, ChildError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).env("PATH", "/bin");
        confine(&mut command, root).unwrap();
        child::run(command, b"", limits).map(|output| output.text())
    }

    #[test]
    fn files_of_the_system_are_changed_and_the_status_is_the_programs() {
        let root = system();
        let script = "echo hello >/etc/motd; chown 12:34 /etc/motd; ls /; echo $$; exit 0";
        let printed = run(root.path(), script, LIMITS).unwrap();
        assert_eq!(printed, "bin\ndev\netc\nproc\ntmp\n1\n");
        assert_eq!(fs::read_to_string(root.path().join("etc/motd")).unwrap(), "hello\n");
        let code = |script| run(root.path(), script, LIMITS).unwrap_err().code();
        assert_eq!(code("exit 7"), Some(7));
        assert_eq!(code("echo x >/dev/null && exit 3"), Some(3));
        assert_eq!(code("kill -9 $$; sleep 9 & kill -9 $!; wait $!; exit $?"), Some(137));
        let error = run(&root.path().join("absent"), "true", LIMITS).unwrap_err();
        assert!(matches!(error, ChildError::Start { .. }), "{error}");
        // Nothing was mounted where others see it.
        assert!(root.path().join("proc").read_dir().unwrap().next().is_none());
        assert!(root.path().join("dev").read_dir().unwrap().next().is_none());
    }

    #[test]
    fn there_is_no_way_out() {
        let root = system();
        for script in [
            "mknod /dev/sda b 8 0",
            "mknod /tmp/sda b 8 0",
            "mount -t tmpfs none /tmp",
            "chroot /tmp /bin/sh",
            "reboot -f",
            "echo b >/proc/sysrq-trigger",
            "echo x >/proc/sys/kernel/hostname",
            "cat /proc/1/root/../../etc/hostname",
        ] {
            let outcome = run(root.path(), script, LIMITS);
            assert!(matches!(&outcome, Err(ChildError::Failed { .. })), "{script}: {outcome:?}");
        }
        let shown = run(root.path(), "ls /dev; cat /proc/net/dev", LIMITS).unwrap();
        assert!(!shown.contains("sda") && !shown.contains("eth"), "{shown}");
        assert!(shown.contains("lo:") && shown.contains("null"), "{shown}");
    }

    #[test]
    fn what_it_started_ends_with_it_and_both_after_their_time() {
        let root = system();
        let started = Instant::now();
        let script = "sleep 71 </dev/null >/dev/null 2>&1 & echo begun";
        assert_eq!(run(root.path(), script, LIMITS).unwrap(), "begun\n");
        let limits = Limits { time: Duration::from_millis(500), ..LIMITS };
        let error = run(root.path(), "sleep 72 & sleep 73", limits).unwrap_err();
        assert!(matches!(error, ChildError::TimedOut { .. }), "{error}");
        assert!(started.elapsed() < LIMITS.time);
        let left = |seconds: &str| {
            let entries = fs::read_dir("/proc").unwrap().flatten();
            entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok()).any(|line| {
                line.split(|byte| *byte == 0).take(2).eq([&b"sleep"[..], seconds.as_bytes()])
            })
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while ["71", "72", "73"].iter().any(|seconds| left(seconds)) {
            assert!(Instant::now() < deadline, "a process is left");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
