//! When each phase of one node's deployment was reached: what the controller noted, and what the machine's console said.

use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use metalcast_tests::serial::Serial;
use serde_json::Value;

/// What the console says first in each phase before the deployment, and after it.
const NETBOOT: [(&str, &str); 3] = [
    ("SeaBIOS", "firmware"),
    ("iPXE", "boot loader in the network card's ROM"),
    ("Linux version", "kernel of the RAM image"),
];
const RESTART: [(&str, &str); 5] = [
    ("SeaBIOS", "firmware again"),
    ("GRUB", "GRUB of the disk"),
    ("Linux version", "kernel of the deployed system"),
    ("Welcome to Debian", "systemd of the deployed system"),
    ("login:", "login prompt"),
];

/// Phases with the milliseconds since the machine's power-on at which they were reached.
#[derive(Debug)]
pub struct Timeline {
    node: String,
    power_on: Instant,
    power_on_unix_ms: i64,
    marks: Vec<(i64, String)>,
}

impl Timeline {
    /// An empty timeline that counts from the machine's power-on.
    ///
    /// # Errors
    /// When the clock is set to before 1970.
    pub fn new(node: &str, power_on: Instant) -> Result<Self> {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).context("reading the clock")?;
        let power_on_unix_ms = i64::try_from((unix.saturating_sub(power_on.elapsed())).as_millis())
            .context("reading the clock")?;
        Ok(Self { node: node.to_owned(), power_on, power_on_unix_ms, marks: Vec::new() })
    }

    /// Notes what a console said: the netboot from the start, the deployed system's start after `restart`.
    pub fn read_console(&mut self, console: &Serial, restart: Instant) {
        let netboot = NETBOOT.map(|phase| (phase, self.power_on));
        for ((marker, phase), since) in netboot.into_iter().chain(RESTART.map(|p| (p, restart))) {
            if let Some(line) = console.first(marker, since) {
                let after = line.at.saturating_duration_since(self.power_on).as_millis();
                let after = i64::try_from(after).unwrap_or(i64::MAX);
                self.marks.push((after, format!("console: {phase}")));
            }
        }
    }

    /// Notes the controller's own timeline of a task, from `metalcast job show -o json`.
    ///
    /// # Errors
    /// When the task has none.
    pub fn read_task(&mut self, task: &Value) -> Result<()> {
        let moments = task["timeline"].as_array().context("the task has no timeline")?;
        for moment in moments {
            let at = moment["at_unix_ms"].as_i64().context("a moment without a time")?;
            let what = moment["what"].as_str().unwrap_or_default();
            let detail = moment["detail"].as_str().unwrap_or_default();
            let line = format!("{what} {detail}");
            self.marks.push((at - self.power_on_unix_ms, line.trim_end().to_owned()));
        }
        Ok(())
    }

    /// When the controller first noted something of this kind.
    pub fn first(&self, what: &str) -> Option<Instant> {
        let marks = self.marks.iter().filter(|(_, line)| line.starts_with(what));
        let after = marks.map(|(after, _)| *after).min()?;
        Some(self.power_on + std::time::Duration::from_millis(u64::try_from(after).ok()?))
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut marks = self.marks.clone();
        marks.sort();
        writeln!(f, "{}\n   at s  took s  reached", self.node)?;
        let mut before = 0;
        for (at, line) in &marks {
            writeln!(f, "{:7.2} {:7.2}  {line}", seconds(*at), seconds(at - before))?;
            before = *at;
        }
        Ok(())
    }
}

/// Exact for the hours that a run may take.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of a run are far below 2^52")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}
