//! What processes cost: processor time and memory, read from `/proc` while they run.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// How often is looked: what a process does after the last look and before its end is not seen.
const INTERVAL: Duration = Duration::from_millis(10);
/// `/proc/PID/stat` counts in hundredths of a second on every Linux (`sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: f64 = 100.0;

/// At the end of a shell's work, says when that was: to wait for a process takes longer than it may.
pub const PRINT_TIME: &str = "printf '\\n%s ns\\n' $(date +%s%N)";

/// The time that a shell printed.
///
/// # Errors
/// When there is none.
pub fn printed_time(log: &str) -> Result<SystemTime> {
    let line = log.lines().find_map(|line| line.strip_suffix(" ns"));
    let nanoseconds = line.context("no time was printed")?.parse()?;
    Ok(UNIX_EPOCH + Duration::from_nanos(nanoseconds))
}

/// Looks at processes and their descendants until it is asked what it saw.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Record>,
}

/// What was seen.
#[derive(Default)]
pub struct Record {
    /// Ticks of all processes together, also of those that have ended, at each look.
    ticks: Vec<(SystemTime, u64)>,
    processes: BTreeMap<u32, Process>,
}

#[derive(Default)]
struct Process {
    name: String,
    ticks: u64,
    peak_kib: u64,
}

impl Watch {
    /// Begins to look at these processes and all that they start.
    pub fn start(roots: Vec<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut record = Record::default();
            while !stopped.load(Ordering::Relaxed) {
                record.look(&roots);
                std::thread::sleep(INTERVAL);
            }
            record
        });
        Self { stop, thread }
    }

    /// Ends it.
    pub fn end(self) -> Record {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a look does not panic")
    }
}

impl Record {
    /// Processor time of all processes between two times, in the system and outside of it.
    pub fn cpu_seconds(&self, from: SystemTime, to: SystemTime) -> f64 {
        let until = |time: SystemTime| {
            let before = self.ticks.partition_point(|(at, _)| *at <= time);
            self.ticks[..before].last().or(self.ticks.first()).map_or(0, |(_, ticks)| *ticks)
        };
        (until(to) - until(from)) as f64 / TICKS_PER_SECOND
    }

    /// The most memory (VmHWM) that each process of such a name ever had, added up; in megabytes.
    pub fn peak_megabytes(&self, counts: impl Fn(&str) -> bool) -> f64 {
        let counted = self.processes.values().filter(|process| counts(&process.name));
        counted.map(|process| process.peak_kib).sum::<u64>() as f64 * 1024.0 / 1e6
    }

    fn look(&mut self, roots: &[u32]) {
        let mut pids = roots.to_vec();
        while let Some(pid) = pids.pop() {
            pids.extend(children(pid));
            let Some((ticks, peak_kib)) = ticks(pid).zip(peak_kib(pid)) else { continue };
            // A shell becomes the program that it was asked for.
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let name = name.trim().to_owned();
            self.processes.insert(pid, Process { name, ticks, peak_kib });
        }
        let ticks = self.processes.values().map(|process| process.ticks).sum();
        self.ticks.push((SystemTime::now(), ticks));
    }
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.flatten().map(|it| fs::read_to_string(it.path().join("children")));
    lists.flatten().flat_map(|list| numbers(&list)).collect()
}

fn numbers(list: &str) -> Vec<u32> {
    list.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// utime and stime (proc(5)).
fn ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may have blanks.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<u64> =
        fields.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    let [user, system] = fields[..] else { return None };
    Some(user + system)
}

fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_counts_and_its_time_stays_when_it_is_gone() {
        let start = SystemTime::now();
        let watch = Watch::start(vec![std::process::id()]);
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(Command::new("sh").args(["-c", busy]).status().unwrap().success());
        let record = watch.end();
        let shell = record.processes.values().find(|process| process.name == "sh");
        assert!(shell.is_some_and(|shell| shell.ticks > 0 && shell.peak_kib > 0));
        assert!(record.peak_megabytes(|name| name == "sh") > 0.1);
        assert!(record.cpu_seconds(start, SystemTime::now()) > 0.0);
    }
}
