//! A deployment by the controller and the agent as they are shipped.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use metalcast_tests::host::{Host, Shipped};
use metalcast_tests::lab::Lab;
use metalcast_tests::process::pause;
use metalcast_tests::rig::{Artefacts, Rig};
use serde_json::Value;

use super::super::warm;
use super::super::watch::Watch;
use super::WORK;

/// The slot that is filled.
const SLOT: &str = "5";
/// The name that the image is imported under.
const IMAGE: &str = "bench/filled";
/// The agent's name in `/proc`.
const AGENT: &str = "metalcast-agent";

/// A controller with the image, and a node that it knows.
pub struct Ours {
    rig: Rig,
    shipped: Shipped,
    node: String,
}

/// One deployment.
pub struct Deployed {
    /// The step `transfer`: chunks asked for, received, checked, unpacked, written and flushed.
    pub transfer_seconds: f64,
    /// All steps.
    pub job_seconds: f64,
    /// Bytes of frames that came over the network.
    pub wire_bytes: f64,
    /// Of agent and controller during the transfer.
    pub cpu_seconds: f64,
    /// Of the agent, up to its end.
    pub peak_megabytes: f64,
}

impl Ours {
    /// Starts the controller, imports the image and gets the host approved.
    pub fn new(lab: &Lab, host: &Host, artefacts: &Artefacts, image: &Path) -> Result<Self> {
        let mut rig = Rig::start(lab, artefacts)?;
        let image = image.to_str().context("the image's path is no text")?;
        rig.cli(&["image", "import", image, IMAGE])?;
        let shipped = Shipped::of(artefacts, lab.dir())?;
        let agent = host.join(lab, &shipped)?;
        let node = rig.wait_for_nodes(&mut [], 1, "new", WORK)?.remove(0);
        drop(agent);
        rig.cli(&["node", "approve", &node])?;
        Ok(Self { rig, shipped, node })
    }

    /// Deploys the image once, to a blank disk.
    pub fn deploy(&self, lab: &Lab, host: &Host) -> Result<Deployed> {
        host.disk().make_blank()?;
        warm(&lab.dir().join("state"))?;
        let order = ["deploy", IMAGE, "--slot", SLOT, "--nodes", &self.node, "--yes"];
        let job = self.rig.order(&[&order[..], &["--report", "none"]].concat())?.to_string();
        let mut agent = host.join(lab, &self.shipped)?;
        let watch = Watch::start(vec![agent.pid(), self.rig.pid()]);
        let status = agent.wait(WORK, "the agent ends for the restart")?;
        let record = watch.end();
        ensure!(status.success(), "{}", agent.log_tail());
        host.boot_script(lab)?;
        let task = loop {
            let task = self.rig.ask(&["job", "show", &job])?["tasks"][0].take();
            if task["ended"] == true {
                break task;
            }
            pause()?;
        };
        ensure!(task["state"] == "done (unconfirmed)", "{task:#}");
        let (start, end) =
            (moment(&task, "step-started", "transfer")?, moment(&task, "step-done", "transfer")?);
        let job_start = moment(&task, "step-started", "check-disk")?;
        let job_end = moment(&task, "work-done", "")?;
        Ok(Deployed {
            transfer_seconds: end.duration_since(start)?.as_secs_f64(),
            job_seconds: job_end.duration_since(job_start)?.as_secs_f64(),
            wire_bytes: wire_bytes(&task)?,
            cpu_seconds: record.cpu_seconds(start, end),
            peak_megabytes: record.peak_megabytes(|name| name == AGENT),
        })
    }
}

/// When the controller noted something of a task.
fn moment(task: &Value, what: &str, detail: &str) -> Result<SystemTime> {
    let moments = task["timeline"].as_array().context("the task has no timeline")?;
    let is_it = |moment: &&Value| {
        moment["what"] == what && moment["detail"].as_str().is_some_and(|it| it.starts_with(detail))
    };
    let moment = moments.iter().find(is_it).with_context(|| format!("no {what} {detail}"))?;
    let at = moment["at_unix_ms"].as_u64().context("a moment without a time")?;
    Ok(UNIX_EPOCH + Duration::from_millis(at))
}

/// As the transfer's note says.
fn wire_bytes(task: &Value) -> Result<f64> {
    let steps = task["steps"].as_array().context("the task has no steps")?;
    let transfer = steps.iter().find(|step| step["step"] == "transfer").context("no transfer")?;
    let notes = transfer["notes"].to_string();
    let (_, rest) = notes.split_once(" bytes fetched (").context("no note of the transfer")?;
    rest.split(' ').next().context("no number")?.parse().context("reading the note")
}
