//! Child processes that never outlive their owner.
//!
//! Two ways to start a program: [`run`] waits for its end and returns what it printed, [`Background`] owns it while it
//! runs and ends it when dropped. Both give the child a process group of its own, so that its own children end with it
//! and a Ctrl-C on the terminal reaches only the program that knows how to clean up: from the first child on, SIGINT,
//! SIGTERM and SIGHUP make every wait fail, so that owners unwind. A background child also carries a parent-death signal
//! (setpriv(1)), which covers an owner that was killed outright.
//!
//! Only processes started here are ever signalled.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// How often a wait looks again: short beside every step that is timed.
const POLL: Duration = Duration::from_millis(20);

/// How long a child and its children may take to end by themselves after SIGTERM before they are killed: longer than a
/// test runner waits for its tests (nextest: 10 s).
const GRACE: Duration = Duration::from_secs(15);

/// How much of a failed tool's output an error repeats, in bytes from the end.
const ERROR_TAIL_BYTES: usize = 4000;

/// What a shell expects of a program that was interrupted: 128 and the number of SIGINT.
pub const INTERRUPTED_STATUS: u8 = 130;

/// Set by a signal that asks this process to end; a second one ends it at once. Handlers, other than a mask, are not
/// inherited by children.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
    let interrupted = Arc::default();
    for signal in [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal)) {
        let status = INTERRUPTED_STATUS.into();
        flag::register_conditional_shutdown(signal, status, Arc::clone(&interrupted))
            .and_then(|_| flag::register(signal, Arc::clone(&interrupted)))
            .expect("these signals can be handled");
    }
    interrupted
});

/// Whether we were started with a signal ignored, as by nohup(1): then it stays so.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| (mask >> (signal - 1)) & 1 == 1)
}

/// Whether this process was asked to end since it started its first child.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails once the process was asked to end; every loop that waits calls it.
///
/// # Errors
/// "interrupted", and nothing else.
pub fn check_interrupt() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps one polling interval.
///
/// # Errors
/// When the process was asked to stop.
pub fn pause() -> Result<()> {
    check_interrupt()?;
    std::thread::sleep(POLL);
    Ok(())
}

/// The command as a person would type it, for logs and errors.
pub fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        let _ = match argument.contains([' ', '\n', '\'', '"', ';']) {
            true => write!(line, " '{}'", argument.replace('\n', " ")),
            false => write!(line, " {argument}"),
        };
    }
    line
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started, ends with another status than 0 (the error holds the end of its output), or the process
/// was interrupted meanwhile; then the child's whole group has been ended.
pub fn run(command: &mut Command) -> Result<String> {
    finish(command, wait).and_then(|finished| success(command, finished))
}

/// Like [`run`], but an interruption is heeded only when the program has ended: for what must not stop halfway (dpkg).
///
/// # Errors
/// As [`run`].
pub fn run_to_end(command: &mut Command) -> Result<String> {
    let finished = finish(command, |command| {
        check_interrupt()?;
        start(command)?.wait().context("waiting for a tool")
    })?;
    check_interrupt()?;
    success(command, finished)
}

/// Like [`run`], but another exit status is an answer: returns the code and both outputs joined, errors last.
///
/// # Errors
/// When it cannot be started, was ended by a signal, or the process was interrupted.
pub fn run_for_code(command: &mut Command) -> Result<(i32, String)> {
    let Finished { status, out, err } = finish(command, wait)?;
    let code = status.code().with_context(|| format!("`{}`: {status}", shown(command)))?;
    Ok((code, out + &err))
}

struct Finished {
    status: ExitStatus,
    out: String,
    err: String,
}

fn finish(
    command: &mut Command,
    wait: impl FnOnce(&mut Command) -> Result<ExitStatus>,
) -> Result<Finished> {
    let mut out = tempfile::tempfile().context("creating a file for a tool's output")?;
    let mut err = tempfile::tempfile().context("creating a file for a tool's errors")?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
    let status = wait(command)?;
    Ok(Finished { status, out: text(&mut out)?, err: text(&mut err)? })
}

fn success(command: &Command, finished: Finished) -> Result<String> {
    let Finished { status, out, err } = finished;
    if !status.success() {
        let both = format!("{out}{err}");
        bail!("`{}` ended with {status}:\n{}", shown(command), tail(&both));
    }
    Ok(out)
}

/// Runs a program to its end with its output going where ours goes (a compiler's, for instance).
///
/// # Errors
/// As [`run`], without the output.
pub fn run_visibly(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null());
    let status = wait(command)?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}

fn wait(command: &mut Command) -> Result<ExitStatus> {
    check_interrupt()?;
    let mut child = start(command)?;
    loop {
        if let Some(status) = child.try_wait().context("waiting for a tool")? {
            return Ok(status);
        }
        if let Err(stop) = pause() {
            end(&mut child);
            return Err(stop.context(format!("running `{}`", shown(command))));
        }
    }
}

fn start(command: &mut Command) -> Result<Child> {
    command
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting `{}` (cargo xtask setup installs it)", shown(command)))
}

/// Ends a child and everything in its process group: SIGTERM, a grace period, SIGKILL.
fn end(child: &mut Child) {
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a process id fits an i32"));
    let deadline = Instant::now() + GRACE;
    // An error here means that the group is gone already, which is what is wanted.
    let _ = killpg(group, Signal::SIGTERM);
    while Instant::now() < deadline {
        // The child is in the group until it was waited for.
        if matches!(child.try_wait(), Ok(Some(_))) && killpg(group, None).is_err() {
            return;
        }
        std::thread::sleep(POLL);
    }
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait();
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind().context("reading a tool's output")?;
    file.read_to_end(&mut bytes).context("reading a tool's output")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The end of a long text, cut at a character border.
pub fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(ERROR_TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// A command that the kernel kills when the thread that starts it ends (PR_SET_PDEATHSIG by setpriv(1)).
pub fn bound(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A running child with a log file. Dropping it ends it and its process group.
#[derive(Debug)]
pub struct Background {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts `command` (made by [`bound`] or by a lab) with both outputs going to `log`.
    ///
    /// Start it from a thread that lives as long as the child should: the parent-death signal follows that thread.
    ///
    /// # Errors
    /// When the log cannot be made or the program not be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        check_interrupt()?;
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("sharing a log file")?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}: `{}`", shown(command)))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The child's process id; setpriv and nsenter replace themselves, so it is the program's own.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it printed so far, the last few kilobytes.
    pub fn log_tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        tail(&String::from_utf8_lossy(&bytes)).to_owned()
    }

    /// Fails with the end of its log when the child has ended.
    ///
    /// # Errors
    /// When it has ended, for whatever reason.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait().context("asking for a child's state")? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log_tail()),
        }
    }

    /// Waits for the child to end by itself and returns its status.
    ///
    /// # Errors
    /// When the deadline passes first (`reason` says what was waited for) or the process is interrupted.
    pub fn wait(&mut self, timeout: Duration, reason: &str) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().context("waiting for a child")? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{}: no end within {timeout:?} ({reason})\n{}", self.name, self.log_tail());
            }
            pause()?;
        }
    }

    /// Ends it as a service manager would: SIGTERM, a grace period, SIGKILL.
    pub fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            end(&mut self.child);
        }
    }

    /// Kills it at once, as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tool_is_named_with_its_output() {
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("sh -c") && message.contains("why"), "{message}");
        assert!(message.contains('3'), "{message}");
    }

    #[test]
    fn another_exit_code_can_be_an_answer() {
        let answer = run_for_code(Command::new("sh").args(["-c", "echo out; exit 3"])).unwrap();
        assert_eq!(answer, (3, "out\n".to_owned()));
    }

    #[test]
    #[ignore = "a process of its own, which the next test starts and interrupts"]
    fn a_long_wait() {
        let error = run(Command::new("sh").args(["-c", "sleep 600 & wait"]));
        assert_eq!(error.unwrap_err().root_cause().to_string(), "interrupted");
    }

    #[test]
    fn an_interrupted_wait_ends_the_child_and_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = bound(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "process::tests::a_long_wait"]);
        let mut waiter =
            Background::spawn("waiter", &mut command, &dir.path().join("log")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let started = loop {
            let shell = children(waiter.pid());
            let started: Vec<u32> = shell.iter().flat_map(|shell| children(*shell)).collect();
            if !started.is_empty() {
                break [shell, started].concat();
            }
            assert!(Instant::now() < deadline, "no child yet: {}", waiter.log_tail());
            pause().unwrap();
        };
        let pid = Pid::from_raw(i32::try_from(waiter.pid()).unwrap());
        nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
        let status =
            waiter.wait(Duration::from_secs(20), "the end of an interrupted wait").unwrap();
        assert!(status.success(), "{}", waiter.log_tail());
        for pid in started {
            assert!(!is_running(pid), "process {pid} is left");
        }
    }

    fn children(pid: u32) -> Vec<u32> {
        let mut children = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let list = std::fs::read_to_string(task.unwrap().path().join("children"));
            children.extend(list.unwrap_or_default().split(' ').flat_map(str::parse::<u32>));
        }
        children
    }

    fn is_running(pid: u32) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    }

    #[test]
    fn dropping_ends_the_child_and_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = bound("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]);
        let child = Background::spawn("sleeper", &mut command, &dir.path().join("log")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let grandchild = loop {
            let log = std::fs::read_to_string(child.log_path()).unwrap();
            if let Ok(pid) = log.trim().parse::<u32>() {
                break pid;
            }
            assert!(Instant::now() < deadline, "the shell never said its child's id");
            pause().unwrap();
        };
        drop(child);
        assert!(!is_running(grandchild), "process {grandchild} is left");
    }
}
