//! Child processes that never outlive their owner.
//!
//! Two ways to start a program: [`run`] waits for its end and returns what it printed, [`Background`] owns it while it
//! runs and ends it when dropped. Both give the child a process group of its own, so that its own children end with it
//! and a Ctrl-C on the terminal reaches only the program that knows how to clean up. A background child also carries a
//! parent-death signal (setpriv(1)), which covers an owner that was killed outright.
//!
//! Only processes started here are ever signalled.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How often a wait looks again: short beside every step that is timed.
const POLL: Duration = Duration::from_millis(20);

/// How long a child may take to end by itself after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How much of a failed tool's output an error repeats, in bytes from the end.
const ERROR_TAIL_BYTES: usize = 4000;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Asks every wait of this process to stop with an error, so that owners unwind and clean up.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails once [`interrupt`] was called; every loop that waits calls it.
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
    let (status, out, err) = finish(command)?;
    if !status.success() {
        let both = format!("{out}{err}");
        bail!("`{}` ended with {status}:\n{}", shown(command), tail(&both));
    }
    Ok(out)
}

/// Like [`run`], but another exit status is an answer: returns the code and both outputs joined, errors last.
///
/// # Errors
/// When it cannot be started, was ended by a signal, or the process was interrupted.
pub fn run_for_code(command: &mut Command) -> Result<(i32, String)> {
    let (status, out, err) = finish(command)?;
    let code = status.code().with_context(|| format!("`{}`: {status}", shown(command)))?;
    Ok((code, out + &err))
}

fn finish(command: &mut Command) -> Result<(ExitStatus, String, String)> {
    let mut out = tempfile::tempfile().context("creating a file for a tool's output")?;
    let mut err = tempfile::tempfile().context("creating a file for a tool's errors")?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
    let status = wait(command)?;
    Ok((status, text(&mut out)?, text(&mut err)?))
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
    let mut child = command.process_group(0).spawn().with_context(|| {
        format!("starting `{}` (cargo xtask setup installs it)", shown(command))
    })?;
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

/// Ends a child and everything in its process group: SIGTERM, a grace period, SIGKILL.
fn end(child: &mut Child) {
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a process id fits an i32"));
    let deadline = Instant::now() + GRACE;
    // An error here means that the group is gone already, which is what is wanted.
    let _ = killpg(group, Signal::SIGTERM);
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            break;
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
        let state = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "still there: {state}");
    }
}
