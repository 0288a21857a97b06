//! Running another program: captured output with a limit, a deadline, and an error that says which
//! command failed, how, and its last words.
//!
//! All programs are started here, so that the reaper of process 1 (see [`crate::reap`]) can tell
//! our children, whose status somebody waits for, from orphans.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How much of standard error goes into an error message.
const LAST_LINES: usize = 6;
/// Longest error excerpt in bytes.
const LAST_BYTES: usize = 2048;
/// How long the output may stay open after the program itself has ended, before its leftover
/// children are killed.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// How long a killed program may take to be gone.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// What a program may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// It and its children are killed after this time.
    pub time: Duration,
    /// Bytes kept of each output stream: the first ones of standard output, the last ones of
    /// standard error. The rest is read and dropped.
    pub output_bytes: usize,
}

/// What a program that ended well left behind.
#[derive(Debug)]
pub struct Output {
    /// Standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// Whether standard output was longer than that.
    pub stdout_cut: bool,
    /// The end of standard error.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("starting `{command}`")]
    Start {
        /// Its command line.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("`{command}` failed, {status}{last}")]
    Failed {
        /// Its command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        last: LastWords,
    },
    /// It was killed after its time.
    #[error("`{command}` was killed after {} s{last}", limit.as_secs_f32())]
    TimedOut {
        /// Its command line.
        command: String,
        /// The time it had.
        limit: Duration,
        /// The end of its standard error.
        last: LastWords,
    },
    /// It was killed because its caller no longer wants it.
    #[error("`{command}` was stopped")]
    Stopped {
        /// Its command line.
        command: String,
    },
    /// The kernel would not say how it is.
    #[error("waiting for `{command}`")]
    Wait {
        /// Its command line.
        command: String,
        /// Why.
        source: io::Error,
    },
}

impl ChildError {
    /// The exit code, if it ended by itself with one; for programs such as e2fsck whose codes are
    /// more than good and bad.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Failed { status, .. } => status.code(),
            Self::Start { .. }
            | Self::TimedOut { .. }
            | Self::Stopped { .. }
            | Self::Wait { .. } => None,
        }
    }
}

/// The last lines of a program's standard error, shown after a colon if there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWords(pub String);

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

/// Runs `command` to its end, with `stdin` as its standard input.
pub fn run(command: Command, stdin: &[u8], limits: Limits) -> Result<Output, ChildError> {
    run_unless(command, stdin, limits, &|| false)
}

/// Like [`run`]; the program is killed as soon as `is_stopped` says so.
pub fn run_unless(
    command: Command,
    stdin: &[u8],
    limits: Limits,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Output, ChildError> {
    let keep = Keep::First(limits.output_bytes);
    supervise(command, stdin, limits, keep, &|_| is_stopped())
}

/// Like [`run_unless`] for a program that says how far it is: the last bytes of standard output are kept,
/// and `is_stopped` is shown them every few milliseconds.
pub fn run_watched(
    command: Command,
    limits: Limits,
    is_stopped: &dyn Fn(&[u8]) -> bool,
) -> Result<Output, ChildError> {
    let keep = Keep::Last(limits.output_bytes);
    supervise(command, b"", limits, keep, &|out| is_stopped(&out.kept().0))
}

fn supervise(
    mut command: Command,
    stdin: &[u8],
    limits: Limits,
    keep_out: Keep,
    is_stopped: &dyn Fn(&Capture) -> bool,
) -> Result<Output, ChildError> {
    let line = command_line(&command);
    command.stdin(if stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = match Managed::spawn(&mut command) {
        Ok(child) => child,
        Err(source) => return Err(ChildError::Start { command: line, source }),
    };
    let process = &mut child.process;
    feed(process, stdin);
    let out = Capture::start(process.stdout.take(), keep_out);
    let err = Capture::start(process.stderr.take(), Keep::Last(limits.output_bytes));

    let ended = child.wait_until(started + limits.time, &|| is_stopped(&out));
    if !matches!(ended, Ok(Some(_))) {
        child.kill_group();
    }
    let done_by = Instant::now() + OUTPUT_GRACE;
    if !(out.wait_until(done_by) && err.wait_until(done_by)) {
        child.kill_group();
    }
    let (stdout, stdout_cut) = out.take();
    let (stderr, _) = err.take();
    let last = last_words(&stderr);
    match ended {
        Ok(Some(status)) if status.success() => {
            Ok(Output { stdout, stdout_cut, stderr, elapsed: started.elapsed() })
        }
        Ok(Some(status)) => Err(ChildError::Failed { command: line, status, last }),
        Ok(None) if started.elapsed() < limits.time => Err(ChildError::Stopped { command: line }),
        Ok(None) => Err(ChildError::TimedOut { command: line, limit: limits.time, last }),
        Err(source) => Err(ChildError::Wait { command: line, source }),
    }
}

/// Process ids whose status somebody waits for. Held while a process is started, so that a reaper
/// that holds it sees every child either registered or not yet born.
static OURS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// The registry; a panic elsewhere does not make a set of numbers wrong.
pub(crate) fn ours() -> MutexGuard<'static, BTreeSet<u32>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child process that is registered while it lives and killed when it is dropped.
struct Managed {
    process: Child,
    reaped: bool,
}

impl Managed {
    fn spawn(command: &mut Command) -> io::Result<Self> {
        // A group of its own, so that all its children can be killed with it.
        command.process_group(0);
        let mut ours = ours();
        let process = command.spawn()?;
        ours.insert(process.id());
        Ok(Self { process, reaped: false })
    }

    /// Its status, or `None` if it still runs at the deadline or when it is stopped.
    fn wait_until(
        &mut self,
        deadline: Instant,
        is_stopped: &dyn Fn() -> bool,
    ) -> io::Result<Option<ExitStatus>> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.process.try_wait()? {
                self.reaped = true;
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || is_stopped() {
                return Ok(None);
            }
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Kills the program and every descendant that did not leave its process group.
    fn kill_group(&self) {
        let group = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        // ESRCH only says that nobody is left.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill_group();
            // One that hangs in the kernel, on a dying disk for instance, is left to the reaper.
            let _ = self.wait_until(Instant::now() + KILL_GRACE, &|| false);
        }
        ours().remove(&self.process.id());
    }
}

/// Writes the input from a thread: a program may fill its output pipe before it reads.
fn feed(process: &mut Child, stdin: &[u8]) {
    if let Some(mut pipe) = process.stdin.take() {
        let input = stdin.to_vec();
        // A program that does not want all of its input closes the pipe; its status tells.
        thread::spawn(move || {
            let _ = pipe.write_all(&input);
        });
    }
}

#[derive(Clone, Copy)]
enum Keep {
    First(usize),
    Last(usize),
}

/// Reads a stream to its end in a thread, keeping a part of it.
struct Capture {
    kept: Arc<Mutex<(Vec<u8>, bool)>>,
    ended: Receiver<()>,
}

impl Capture {
    fn start(stream: Option<impl Read + Send + 'static>, keep: Keep) -> Self {
        let kept = Arc::new(Mutex::new((Vec::new(), false)));
        let (finish, ended) = channel();
        let target = Arc::clone(&kept);
        thread::spawn(move || {
            let mut block = [0; 16384];
            let mut stream = stream;
            while let Some(pipe) = &mut stream {
                match pipe.read(&mut block) {
                    Ok(0) => break,
                    Ok(len) => {
                        let mut kept = target.lock().unwrap_or_else(PoisonError::into_inner);
                        retain(&mut kept, &block[..len], keep);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            // The receiver is gone when the caller stopped waiting.
            let _ = finish.send(());
        });
        Self { kept, ended }
    }

    fn wait_until(&self, deadline: Instant) -> bool {
        self.ended.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }

    fn kept(&self) -> MutexGuard<'_, (Vec<u8>, bool)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self) -> (Vec<u8>, bool) {
        std::mem::take(&mut *self.kept())
    }
}

fn retain((bytes, cut): &mut (Vec<u8>, bool), new: &[u8], keep: Keep) {
    match keep {
        Keep::First(limit) => {
            let room = limit.saturating_sub(bytes.len());
            *cut |= new.len() > room;
            bytes.extend_from_slice(&new[..new.len().min(room)]);
        }
        Keep::Last(limit) => {
            bytes.extend_from_slice(new);
            let surplus = bytes.len().saturating_sub(limit);
            *cut |= surplus > 0;
            bytes.drain(..surplus);
        }
    }
}

fn last_words(stderr: &[u8]) -> LastWords {
    let text = String::from_utf8_lossy(&stderr[stderr.len().saturating_sub(LAST_BYTES)..]);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    LastWords(lines[lines.len().saturating_sub(LAST_LINES)..].join(" | "))
}

fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { time: Duration::from_secs(10), output_bytes: 1 << 16 };

    fn sh(script: &str, limits: Limits) -> Result<Output, ChildError> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, b"", limits)
    }

    #[test]
    fn output_and_input_pass() {
        let output = run(Command::new("cat"), &[b'x'; 300_000], LIMITS).unwrap();
        assert_eq!(output.stdout.len(), LIMITS.output_bytes);
        assert!(output.stdout_cut);
        let output = sh("echo out; echo err >&2", LIMITS).unwrap();
        assert_eq!((output.text().as_str(), &output.stderr[..]), ("out\n", &b"err\n"[..]));
        assert!(!output.stdout_cut);
    }

    #[test]
    fn an_error_names_command_status_and_last_lines() {
        let error = sh("for i in 1 2 3 4 5 6 7 8; do echo line $i >&2; done; exit 3", LIMITS);
        let error = error.unwrap_err();
        assert_eq!(error.code(), Some(3));
        let text = error.to_string();
        assert!(text.starts_with("`sh -c for i"), "{text}");
        assert!(text.contains("exit status: 3: line 3 | "), "{text}");
        assert!(text.ends_with("| line 8"), "{text}");
        let error = run(Command::new("/no/such/program"), b"", LIMITS).unwrap_err();
        assert_eq!(error.to_string(), "starting `/no/such/program`");
    }

    #[test]
    fn a_program_and_its_children_are_killed_after_their_time() {
        let limits = Limits { time: Duration::from_millis(300), ..LIMITS };
        let started = Instant::now();
        let error = sh("echo begun >&2; sleep 61 & sleep 62", limits).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(error.to_string().ends_with("was killed after 0.3 s: begun"), "{error}");
        // sh itself ends at once, but leaves a child that holds the pipe.
        let started = Instant::now();
        assert_eq!(sh("sleep 63 & echo left", LIMITS).unwrap().text(), "left\n");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_program_that_nobody_wants_any_more_is_killed() {
        let started = Instant::now();
        let is_stopped = || started.elapsed() > Duration::from_millis(200);
        let mut command = Command::new("sleep");
        command.arg("65");
        let error = run_unless(command, b"", LIMITS, &is_stopped).unwrap_err();
        assert_eq!(error.to_string(), "`sleep 65` was stopped");
        assert!(started.elapsed() < LIMITS.time);
    }

    #[test]
    fn a_program_is_watched_by_the_end_of_its_output() {
        let limits = Limits { output_bytes: 8, ..LIMITS };
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 99999 /dev/zero; echo; echo ready; exec sleep 66"]);
        let is_ready = |out: &[u8]| out.ends_with(b"\nready\n");
        let error = run_watched(command, limits, &is_ready).unwrap_err();
        assert!(matches!(error, ChildError::Stopped { .. }), "{error}");
    }

    #[test]
    fn nothing_stays_registered() {
        let id = {
            let child = Managed::spawn(Command::new("sleep").arg("64")).unwrap();
            assert!(ours().contains(&child.process.id()));
            child.process.id()
        };
        assert!(!ours().contains(&id));
    }
}
