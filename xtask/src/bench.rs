//! `cargo xtask bench NAME`: how fast we are beside a program that people use for the same. Both are measured in turns on
//! this machine, so that what else happens on it hits both; the ratio is the median of the pairs' ratios. A table is
//! printed, and `target/bench/NAME.json` holds the same.

mod boot;
mod deploy;
mod formats;
mod netboot;
mod watch;

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use metalcast_tests::rig::Artefacts;
use metalcast_tests::{paths, process};
use serde_json::{Value, json};

use crate::{dist, initramfs, root, setup};

/// What `cargo xtask bench` takes.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// What to measure
    #[arg(value_enum)]
    name: Name,
    /// How often each side is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(5..=99))]
    runs: u32,
    #[command(flatten)]
    ram_image: initramfs::Options,
}

/// What can be measured.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Name {
    /// Boot files over TFTP and HTTP, DHCP answers; against tftpd-hpa, nginx and dnsmasq
    Netboot,
    /// An image to a disk over two links; against nc, zstd and partclone, and against bare quinn
    Deploy,
    /// From power-on to the registered agent; against an init of one line
    Boot,
    /// Images out of a disk, onto a disk and into the store; against partclone, zstd and gzip
    Formats,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Netboot => "netboot",
            Self::Deploy => "deploy",
            Self::Boot => "boot",
            Self::Formats => "formats",
        })
    }
}

/// Measures, prints and writes.
///
/// # Errors
/// When something does not build, start or answer. A goal that is not met is no error.
pub fn run(options: &Options) -> Result<()> {
    let figures = match options.name {
        Name::Netboot => netboot::measure(options.runs, &options.ram_image)?,
        Name::Deploy => deploy::measure(options.runs, &options.ram_image)?,
        Name::Boot => boot::measure(options.runs, &options.ram_image)?,
        Name::Formats => formats::measure(options.runs, &options.ram_image)?,
    };
    let dir = paths::target().join("bench");
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let path = dir.join(format!("{}.json", options.name));
    let list: Vec<Value> = figures.iter().map(Figure::json).collect();
    std::fs::write(&path, format!("{:#}\n", Value::from(list)))
        .with_context(|| format!("writing {}", path.display()))?;
    print!("{}", table(&figures));
    println!("{}", path.display());
    Ok(())
}

/// The programs as they are shipped. `prepare` builds what else is needed, before this process becomes root.
fn shipped(
    options: &initramfs::Options,
    prepare: impl FnOnce() -> Result<()>,
) -> Result<Artefacts> {
    root::artefacts(options, || {
        setup::run()?;
        prepare()?;
        dist::controller()
    })
}

/// What Clonezilla named `sda1.ext4-ptcl-img.zst`.
fn partclone_file(image: &Path) -> Result<PathBuf> {
    for entry in image.read_dir().context("listing the image")? {
        let path = entry.context("listing the image")?.path();
        if path.to_string_lossy().ends_with("-ptcl-img.zst") {
            return Ok(path);
        }
    }
    bail!("no file of partclone's in {}", image.display())
}

/// Reads all files below a path, so that they are in the page cache.
fn warm(path: &Path) -> Result<()> {
    let read = "find \"$0\" -type f -exec cat {} + >/dev/null";
    process::run(Command::new("sh").args(["-c", read]).arg(path)).map(drop)
}

/// The variable with which a program finds the libraries of an unpacked package, `NAME=VALUE`.
fn library_path(package: &Path) -> Result<String> {
    let printed = process::run(Command::new("gcc").arg("-print-multiarch"))?;
    let libraries = package.join("usr/lib").join(printed.trim());
    Ok(format!("LD_LIBRARY_PATH={}", libraries.display()))
}

/// One figure of ours beside a rival's.
#[derive(Debug)]
struct Figure {
    /// What was measured.
    name: String,
    /// In what.
    unit: &'static str,
    /// Who else was measured.
    rival: &'static str,
    /// Ours and the rival's, run by run.
    pairs: Vec<(f64, f64)>,
    /// Where the ratio, ours to the rival's, shall lie; `None` of what is only to be known.
    goal: Option<RangeInclusive<f64>>,
}

/// The goal of a figure of which more is better: not below the rival's.
const AT_LEAST_AS_MUCH: Option<RangeInclusive<f64>> = Some(1.0..=f64::INFINITY);

impl Figure {
    fn ours(&self) -> Spread {
        Spread::of(self.pairs.iter().map(|(ours, _)| *ours))
    }

    fn rivals(&self) -> Spread {
        Spread::of(self.pairs.iter().map(|(_, rival)| *rival))
    }

    fn ratio(&self) -> Spread {
        Spread::of(self.pairs.iter().map(|(ours, rival)| ours / rival))
    }

    fn is_met(&self) -> Option<bool> {
        self.goal.as_ref().map(|goal| goal.contains(&self.ratio().median))
    }

    fn shown_goal(&self) -> Option<String> {
        let goal = self.goal.as_ref()?;
        let (least, most) = (goal.start(), goal.end());
        Some(match most.is_finite() {
            true => format!("<= {most:.2}"),
            false => format!(">= {least:.2}"),
        })
    }

    fn json(&self) -> Value {
        json!({
            "figure": self.name,
            "unit": self.unit,
            "ours": self.ours().json(),
            "rival": self.rivals().json(),
            "rival_name": self.rival,
            "ratio": self.ratio().json(),
            "goal": self.shown_goal(),
            "met": self.is_met(),
        })
    }
}

/// A median and the least and the most.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
    runs: usize,
}

impl Spread {
    /// Zero without any sample.
    fn of(samples: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.collect();
        sorted.sort_by(f64::total_cmp);
        let runs = sorted.len();
        let at = |place: usize| sorted.get(place).copied().unwrap_or(0.0);
        let median = (at(runs.saturating_sub(1) / 2) + at(runs / 2)) / 2.0;
        Self { median, least: at(0), most: at(runs.saturating_sub(1)), runs }
    }

    fn json(self) -> Value {
        let Self { median, least, most, runs } = self;
        json!({ "median": median, "least": least, "most": most, "runs": runs })
    }

    /// With about three digits.
    fn shown(self) -> String {
        let Self { median, least, most, .. } = self;
        let decimals = match median {
            ..10.0 => 2,
            ..100.0 => 1,
            _ => 0,
        };
        format!("{median:.decimals$} ({least:.decimals$}-{most:.decimals$})")
    }
}

/// Measures both sides as often, after one run of each that does not count. Who is first changes.
fn in_turns<T>(
    runs: u32,
    mut ours: impl FnMut() -> Result<T>,
    mut theirs: impl FnMut() -> Result<T>,
) -> Result<Vec<(T, T)>> {
    ours()?;
    theirs()?;
    let pair = |run: u32| {
        Ok(match run % 2 {
            0 => (ours()?, theirs()?),
            _ => {
                let theirs = theirs()?;
                (ours()?, theirs)
            }
        })
    };
    (0..runs).map(pair).collect()
}

fn table(figures: &[Figure]) -> String {
    let heading = ["figure", "ours", "rival", "", "ratio", "goal", "met"].map(str::to_owned);
    let rows = figures.iter().map(|figure| {
        [
            format!("{}, {}", figure.name, figure.unit),
            figure.ours().shown(),
            figure.rivals().shown(),
            figure.rival.to_owned(),
            figure.ratio().shown(),
            figure.shown_goal().unwrap_or_default(),
            figure.is_met().map_or("", |met| if met { "yes" } else { "NO" }).to_owned(),
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(goal: Option<RangeInclusive<f64>>) -> Figure {
        let pairs = vec![(30.0, 10.0), (10.0, 20.0), (20.0, 20.0), (40.0, 20.0)];
        Figure { name: "x".into(), unit: "s", rival: "y", pairs, goal }
    }

    #[test]
    fn the_ratio_is_of_pairs_and_the_goal_of_its_median() {
        let figure = figure(AT_LEAST_AS_MUCH);
        assert_eq!(figure.ours(), Spread { median: 25.0, least: 10.0, most: 40.0, runs: 4 });
        assert_eq!(figure.ratio(), Spread { median: 1.5, least: 0.5, most: 3.0, runs: 4 });
        let json = figure.json();
        let told = (&json["figure"], &json["goal"], &json["met"], &json["ratio"]["median"]);
        assert_eq!(told, (&"x".into(), &">= 1.00".into(), &true.into(), &1.5.into()));
        let shown = table(std::slice::from_ref(&figure));
        let row = "x, s    25.0 (10.0-40.0)  20.0 (10.0-20.0)  y  1.50 (0.50-3.00)  >= 1.00  yes";
        assert_eq!(shown.lines().nth(1), Some(row), "{shown}");
    }

    #[test]
    fn less_can_be_the_goal() {
        let figure = figure(Some(0.0..=1.2));
        assert_eq!((figure.shown_goal(), figure.is_met()), (Some("<= 1.20".into()), Some(false)));
        let figure = Figure { goal: None, ..figure };
        assert_eq!((figure.shown_goal(), figure.json()["met"].is_null()), (None, true));
    }

    #[test]
    fn nothing_measured_is_nothing() {
        assert_eq!(Spread::of(std::iter::empty()).median, 0.0);
        assert_eq!(Spread::of([7.0].into_iter()).median, 7.0);
    }
}
