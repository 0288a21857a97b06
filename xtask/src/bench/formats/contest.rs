//! Commands of a shell that do the same, one after the other.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use metalcast_tests::lab::Lab;
use metalcast_tests::loopdev::LoopDisk;
use metalcast_tests::process::run;
use metalcast_tests::rig::Rig;

use super::super::warm;
use super::super::watch::{PRINT_TIME, Watch, printed_time};

/// Ten times what an idle machine needs.
const WORK: Duration = Duration::from_secs(300);

/// What every shell is told first: a pipeline fails with any of its programs.
const STRICT: &str = "set -e -o pipefail; ";

/// Who does the same.
pub(super) struct Contest<const N: usize> {
    pub(super) name: &'static str,
    /// Variables with the paths that are read before, so that they are in the page cache.
    pub(super) sources: &'static [&'static str],
    /// Ours first.
    pub(super) commands: [&'static str; N],
}

/// One run of one command.
pub(super) struct Timed {
    pub(super) seconds: f64,
    /// Of all its programs, and of the controller if it is at work.
    pub(super) peak_megabytes: f64,
    /// Compressed data that it made.
    pub(super) made_megabytes: f64,
}

/// Where it happens: the variables that the commands find everything by.
pub(super) struct Scene<'s> {
    lab: &'s Lab,
    rig: &'s Rig,
    target: &'s LoopDisk,
    variables: Vec<(&'static str, OsString)>,
}

impl<const N: usize> Contest<N> {
    /// One run of each; who is first depends on the number.
    pub(super) fn run(&self, scene: &Scene<'_>, number: u32) -> Result<[Timed; N]> {
        let mut runs = [const { None }; N];
        for place in 0..N {
            let which = (place + number as usize) % N;
            scene.make_ready(self.sources)?;
            let run = scene.time(self.commands[which]);
            runs[which] =
                Some(run.with_context(|| format!("{}: {}", self.name, self.commands[which]))?);
        }
        Ok(runs.map(|run| run.expect("as many places as commands")))
    }
}

impl<'s> Scene<'s> {
    pub(super) fn new(lab: &'s Lab, rig: &'s Rig, target: &'s LoopDisk) -> Result<Self> {
        let mut scene = Self { lab, rig, target, variables: Vec::new() };
        let out = lab.dir().join("out");
        fs::create_dir(&out).with_context(|| format!("making {}", out.display()))?;
        scene.set("OUT", &out);
        scene.set("TARGET", target.path());
        Ok(scene)
    }

    pub(super) fn dir(&self) -> &Path {
        self.lab.dir()
    }

    /// Sets a variable.
    pub(super) fn set(&mut self, name: &'static str, value: &Path) {
        self.variables.push((name, value.as_os_str().to_owned()));
    }

    /// Runs a command that is not measured.
    pub(super) fn shell(&self, text: &str) -> Result<String> {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("{STRICT}{text}")).envs(self.variables.iter().cloned());
        run(&mut command)
    }

    /// A blank disk, no output of an earlier run, and the sources in the page cache.
    fn make_ready(&self, sources: &[&str]) -> Result<()> {
        self.target.make_blank()?;
        self.shell(r#"rm -rf "$OUT"/*; sync"#)?;
        for source in sources {
            let found = self.variables.iter().find(|(name, _)| name == source);
            let (_, path) = found.with_context(|| format!("no variable {source}"))?;
            warm(Path::new(path))?;
        }
        Ok(())
    }

    fn time(&self, text: &str) -> Result<Timed> {
        let mut command = self.lab.command("bash");
        command.arg("-c").arg(format!("{STRICT}{text}; {PRINT_TIME}"));
        let start = SystemTime::now();
        let mut shell = self.lab.spawn("contest", command.envs(self.variables.iter().cloned()))?;
        let watch = Watch::start(vec![shell.pid(), self.rig.pid()]);
        let status = shell.wait(WORK, "a command ends");
        let record = watch.end();
        let log = shell.log_tail();
        ensure!(status?.success(), "{log}");
        let is_ours = text.contains("$METALCAST");
        Ok(Timed {
            seconds: printed_time(&log)?.duration_since(start)?.as_secs_f64(),
            peak_megabytes: record.peak_megabytes(|name| match name {
                "bash" | "sync" => false,
                "metalcast" => is_ours,
                _ => true,
            }),
            made_megabytes: self.made_megabytes()?,
        })
    }

    /// Length of the packed files.
    fn made_megabytes(&self) -> Result<f64> {
        let printed = self.shell(r#"find "$OUT" -name '*.zst*' -printf '%s\n'"#)?;
        let bytes: u64 = printed.lines().flat_map(str::parse::<u64>).sum();
        Ok(bytes as f64 / 1e6)
    }
}
