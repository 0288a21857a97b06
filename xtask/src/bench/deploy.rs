//! An image to a disk: one agent on a loop disk, behind a cable to the controller.
//!
//! ```text
//!   controller, nc, bare QUIC ── br0 ══ cable ══ eth0 ── agent, nc | zstd | partclone, bare QUIC ── loop disks
//! ```
//!
//! All take turns on the same cable. The image is about 1 GiB of real files, saved by Clonezilla with zstd; every run begins
//! with its source in the page cache and with a blank disk, and ends when the disk is flushed. No page cache lies behind the
//! disk: what is written to it is written.

mod bare;
mod ours;
mod pipeline;

use std::time::Duration;

use anyhow::Result;
use metalcast_tests::host::Host;
use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::progress::step;

use self::bare::Bare;
use self::ours::{Deployed, Ours};
use self::pipeline::{Pipeline, Restored};
use super::{Figure, partclone_file, shipped};
use crate::initramfs;

/// Ten times what an idle machine needs.
const WORK: Duration = Duration::from_secs(300);
/// Room for the default layout; the file is sparse.
const DISK_BYTES: u64 = 500_000_000_000;

/// Where the programs are the limit.
const MOST_OF_PIPELINE: f64 = 0.8;
/// Where the cable is the limit: both send the same bytes.
const MOST_OF_PIPELINE_ON_WIRE: f64 = 1.0;
/// What checking, unpacking and writing may cost of the rate that QUIC itself has.
const LEAST_OF_QUIC: f64 = 0.9;

const PIPELINE: &str = "nc|zstd|partclone";
const BARE: &str = "bare QUIC";

/// The cable as it is, or as slow as most cables are.
#[derive(Clone, Copy)]
enum Cable {
    Veth,
    Gigabit,
}

/// All who take turns.
struct Scene {
    // In the order in which they have to go.
    ours: Ours,
    pipeline: Pipeline,
    host: Host,
    lab: Lab,
    bare: Bare,
}

/// One run of each.
struct Turn {
    ours: Deployed,
    pipeline: Restored,
    bare_megabytes_per_second: f64,
}

/// Measures all figures.
///
/// # Errors
/// When a side cannot be set up, or one does not finish.
pub fn measure(runs: u32, options: &initramfs::Options) -> Result<Vec<Figure>> {
    let artefacts = shipped(options, bare::build)?;
    let packages = step("unpacking the rivals", || initramfs::packages(&pipeline::PACKAGES))?;
    let image = step("preparing the image", image::filled)?;
    let lab = Lab::new("bench-deploy", 45)?;
    let host = Host::plug(&lab, 1, &Host::blank_disk(&lab, "MCBENCH1", DISK_BYTES)?)?;
    host.disk().bypass_cache()?;
    let ours = step("importing the image", || Ours::new(&lab, &host, &artefacts, &image))?;
    let file = partclone_file(&image)?;
    let [netcat, libraries] = pipeline::PACKAGES.map(|name| &packages[name]);
    let pipeline = Pipeline::new(&lab, &file, netcat, libraries)?;
    let scene = Scene { ours, pipeline, host, lab, bare: Bare::new(&file)? };

    let mut figures = Vec::new();
    for cable in [Cable::Veth, Cable::Gigabit] {
        let turns = step(&format!("deploying over {}", cable.name()), || {
            if let Cable::Gigabit = cable {
                scene.host.slow_down(&scene.lab, 1000)?;
            }
            // The first does not count.
            scene.turn(0)?;
            (0..runs).map(|run| scene.turn(run)).collect::<Result<Vec<_>>>()
        })?;
        figures.extend(cable.figures(&turns));
    }
    Ok(figures)
}

impl Scene {
    /// One run of each, one after the other; who is first depends on the number.
    fn turn(&self, number: u32) -> Result<Turn> {
        let (mut ours, mut pipeline, mut bare) = (None, None, None);
        for place in number..number + 3 {
            match place % 3 {
                0 => ours = Some(self.ours.deploy(&self.lab, &self.host)?),
                1 => pipeline = Some(self.pipeline.restore(&self.lab, &self.host)?),
                _ => bare = Some(self.bare.megabytes_per_second(&self.lab, &self.host)?),
            }
        }
        let all = ours.zip(pipeline).zip(bare);
        let ((ours, pipeline), bare_megabytes_per_second) =
            all.expect("three places in a row are all three");
        eprintln!(
            "    ours {:.2} s and {:.2} s for all steps, {PIPELINE} {:.2} s, {BARE} {:.0} MB/s",
            ours.transfer_seconds, ours.job_seconds, pipeline.seconds, bare_megabytes_per_second
        );
        Ok(Turn { ours, pipeline, bare_megabytes_per_second })
    }
}

impl Cable {
    fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Gigabit => "1 Gbit/s",
        }
    }

    fn figures(self, turns: &[Turn]) -> Vec<Figure> {
        let figure = |what: &str, unit, rival, pair: fn(&Turn) -> (f64, f64), goal| Figure {
            name: format!("{what}, {}", self.name()),
            unit,
            rival,
            pairs: turns.iter().map(pair).collect(),
            goal,
        };
        let most = match self {
            Self::Veth => MOST_OF_PIPELINE,
            Self::Gigabit => MOST_OF_PIPELINE_ON_WIRE,
        };
        vec![
            figure(
                "transfer, written and flushed",
                "s",
                PIPELINE,
                |turn| (turn.ours.transfer_seconds, turn.pipeline.seconds),
                Some(0.0..=most),
            ),
            figure(
                "rate on the wire, written and flushed",
                "MB/s",
                BARE,
                |turn| {
                    let rate = turn.ours.wire_bytes / 1e6 / turn.ours.transfer_seconds;
                    (rate, turn.bare_megabytes_per_second)
                },
                Some(LEAST_OF_QUIC..=f64::INFINITY),
            ),
            figure(
                "all steps, read back and made bootable",
                "s",
                PIPELINE,
                |turn| (turn.ours.job_seconds, turn.pipeline.seconds),
                None,
            ),
            figure(
                "processor time of the transfer, both ends",
                "s",
                PIPELINE,
                |turn| (turn.ours.cpu_seconds, turn.pipeline.cpu_seconds),
                None,
            ),
            figure(
                "peak memory on the node",
                "MB",
                PIPELINE,
                |turn| (turn.ours.peak_megabytes, turn.pipeline.peak_megabytes),
                None,
            ),
        ]
    }
}
