//! A controller, a host that joined it and its disk: what a test breaks something in. The shipped agent, the real command
//! line; nothing is emulated.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::host::{Host, Shipped};
use crate::lab::Lab;
use crate::process::{Background, pause, run};
use crate::rig::{Artefacts, Rig, Setup};

/// Ten times what an idle machine needs.
pub const WORK: Duration = Duration::from_secs(300);

/// Room for the default layout; the file is sparse.
pub const DISK_BYTES: u64 = 500_000_000_000;

/// What an agent may have in memory at most while it deploys, in MiB.
pub const AGENT_MIB: u64 = 64;

/// The same while it captures, in MiB.
pub const CAPTURING_AGENT_MIB: u64 = 96;

/// The same on a machine of 256 MB.
pub const SMALL_AGENT_MIB: u64 = 48;

/// Where the partition begins on the disks that images were saved from, in bytes.
const SOURCE_OFFSET: u64 = 1 << 20;

/// Files that the fix-ups change, and nothing else does.
const ADAPTED: [&str; 8] = [
    "fstab",
    "grub.cfg",
    "default/grub",
    "hostname",
    "hosts",
    "machine-id",
    "conf.d/resume",
    "resume",
];

/// All of it. What is dropped first stands first.
#[derive(Debug)]
pub struct Scene {
    /// The host's agent.
    pub agent: Background,
    /// The host.
    pub host: Host,
    /// The controller.
    pub rig: Rig,
    /// The node's name.
    pub node: String,
    /// The agent's program.
    pub shipped: Shipped,
    /// The network, and the directory of all files.
    pub lab: Lab,
    /// The most that an agent was seen to have in memory, in bytes.
    peak_bytes: u64,
}

impl Scene {
    /// A host with a blank disk that has joined and is approved.
    ///
    /// # Errors
    /// When something of it cannot be had.
    pub fn new(name: &str, subnet: u8) -> Result<Self> {
        let disk = |lab: &Lab| Host::blank_disk(lab, &serial(1), DISK_BYTES);
        Self::with(name, subnet, &Setup::default(), disk)
    }

    /// The same with a disk of the test's making, made before the controller starts.
    ///
    /// # Errors
    /// As [`Scene::new`].
    pub fn with(
        name: &str,
        subnet: u8,
        setup: &Setup,
        disk: impl FnOnce(&Lab) -> Result<PathBuf>,
    ) -> Result<Self> {
        let artefacts = Artefacts::given_or_built()?;
        let lab = Lab::new(name, subnet)?;
        let disk = disk(&lab)?;
        let mut rig = Rig::start_with(&lab, &artefacts, setup)?;
        let shipped = Shipped::of(&artefacts, lab.dir())?;
        let host = Host::plug(&lab, 1, &disk)?;
        let agent = host.join(&lab, &shipped)?;
        let node = rig.wait_for_nodes(&mut [], 1, "new", WORK)?.remove(0);
        rig.cli(&["node", "approve", &node])?;
        Ok(Self { agent, host, rig, node, shipped, lab, peak_bytes: 0 })
    }

    /// Imports an image as `lab/debian`.
    ///
    /// # Errors
    /// When the controller refuses it.
    pub fn import(&self, directory: &Path) -> Result<()> {
        let directory = directory.to_str().context("the image's path is no text")?;
        self.rig.cli(&["image", "import", directory, "lab/debian"]).map(drop)
    }

    /// Orders a deployment that no system will report on.
    ///
    /// # Errors
    /// When the controller refuses it.
    pub fn deploy(&self, slot: u16) -> Result<u64> {
        self.deploy_image("lab/debian", slot)
    }

    /// The same with another image.
    ///
    /// # Errors
    /// When the controller refuses it.
    pub fn deploy_image(&self, image: &str, slot: u16) -> Result<u64> {
        let (slot, node) = (slot.to_string(), self.node.as_str());
        let order = ["deploy", image, "--slot", &slot, "--nodes", node, "--yes"];
        self.rig.order(&[&order[..], &["--report", "none"]].concat())
    }

    /// Orders that what these options name becomes a revision of an image.
    ///
    /// # Errors
    /// When the controller refuses it.
    pub fn capture(&self, options: &[&str], image: &str) -> Result<u64> {
        self.rig.order(&[&["capture", &self.node, image], options].concat())
    }

    /// Goes on with a new host, which has a blank disk and joins. The old one is given back with its disk.
    ///
    /// # Errors
    /// As [`Scene::new`].
    pub fn replace_host(&mut self, number: u8, disk_bytes: u64) -> Result<Host> {
        let disk = Host::blank_disk(&self.lab, &serial(number), disk_bytes)?;
        let host = Host::plug(&self.lab, number, &disk)?;
        self.agent = host.join(&self.lab, &self.shipped)?;
        self.node = self.rig.wait_for_nodes(&mut [], 1, "new", WORK)?.remove(0);
        self.rig.cli(&["node", "approve", &self.node])?;
        Ok(std::mem::replace(&mut self.host, host))
    }

    /// Waits until the job's task is as wanted.
    ///
    /// # Errors
    /// As [`Rig::wait_for_task`].
    pub fn wait(
        &mut self,
        job: u64,
        reason: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.rig.wait_for_task(job, &mut self.agent, WORK, reason, wanted)
    }

    /// Waits until a transfer or capture has come so far, in percent.
    ///
    /// # Errors
    /// As [`Rig::wait_for_task`].
    pub fn wait_for_percent(&mut self, job: u64, percent: u64) -> Result<Value> {
        self.wait(job, &format!("{percent} % are transferred"), |task| {
            let progress = &task["progress"];
            let (done, total) = (progress["done_bytes"].as_u64(), progress["total_bytes"].as_u64());
            (progress["step"] == "transfer" || progress["step"] == "capture")
                && done.zip(total).is_some_and(|(done, total)| done * 100 >= total * percent)
        })
    }

    /// The rest of a job: the agent ends, the machine asks for its script and is sent to its disk. The agent has kept
    /// within its memory, by its own word and by the kernel's.
    ///
    /// # Errors
    /// When the job does not end well.
    pub fn finish(&mut self, job: u64) -> Result<Value> {
        self.finish_as(job, "done (unconfirmed)", AGENT_MIB)
    }

    /// The same of a capture.
    ///
    /// # Errors
    /// As [`Scene::finish`].
    pub fn finish_capture(&mut self, job: u64) -> Result<Value> {
        self.finish_as(job, "done", CAPTURING_AGENT_MIB)
    }

    fn finish_as(&mut self, job: u64, state: &str, most_mib: u64) -> Result<Value> {
        let deadline = Instant::now() + WORK;
        self.watch_agent(deadline)?;
        let script = self.host.boot_script(&self.lab)?;
        ensure!(script.contains("sanboot"), "not sent to its disk: {script}");
        loop {
            let job = self.rig.ask(&["job", "show", &job.to_string()])?;
            let task = &job["tasks"][0];
            if task["state"] == state {
                let (said, seen) = (used_mib(task)?, self.peak_bytes >> 20);
                println!("the agent used at most {said} MiB by its own word, {seen} were seen");
                ensure!(said.max(seen) <= most_mib, "more than {most_mib} MiB");
                return Ok(task.clone());
            }
            ensure!(task["ended"] == false && Instant::now() < deadline, "{job:#}");
            pause()?;
        }
    }

    /// Waits for the agent's end.
    fn watch_agent(&mut self, deadline: Instant) -> Result<()> {
        let status = format!("/proc/{}/status", self.agent.pid());
        while self.agent.check_running().is_ok() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = peak.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            self.peak_bytes = self.peak_bytes.max(kib.unwrap_or(0) << 10);
            ensure!(Instant::now() < deadline, "the agent does not end: {}", self.agent.log_tail());
            pause()?;
        }
        let status = self.agent.wait(Duration::ZERO, "the agent has ended")?;
        ensure!(status.success(), "{}", self.agent.log_tail());
        Ok(())
    }

    /// Starts an agent anew, as after a restart of the machine.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_agent(&mut self) -> Result<()> {
        self.agent = self.host.join(&self.lab, &self.shipped)?;
        Ok(())
    }

    /// In what a slot and the first partition of the disk that the image was saved from differ, file by file, but for what fix-ups change.
    ///
    /// # Errors
    /// When the slot's filesystem is damaged, or one of both cannot be mounted.
    pub fn differences(&self, source: &Path, slot: u32) -> Result<Vec<String>> {
        self.host.disk().reread_partitions()?;
        let node = self.host.disk().partition(slot)?;
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(&node))?;
        let dirs = ["ours", "theirs"].map(|name| self.lab.dir().join(name));
        for dir in dirs.iter().filter(|dir| !dir.exists()) {
            std::fs::create_dir(dir).context("making a mount point")?;
        }
        // In a mount namespace of their own, which ends with the shell.
        let compare = "mount -o ro,noload \"$0\" ours; mount -o \"ro,noload,loop,offset=$2\" \"$1\" theirs\n\
             diff --recursive --brief --no-dereference theirs ours || test $? = 1\n\
             list() { (cd $1; find . ! -type d -printf '%P %y %m %U %G %n %s %l\\n' | sort; \
             find . -type b -o -type c | sort | xargs -r stat -c '%n is device %t:%T') >$1.list; }\n\
             list ours; list theirs; diff theirs.list ours.list || test $? = 1";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "slave", "sh", "-ec", compare])
            .arg(&node)
            .arg(source);
        command.arg(SOURCE_OFFSET.to_string()).current_dir(self.lab.dir());
        let lines = run(&mut command)?;
        let is_adapted = |line: &&str| ADAPTED.iter().any(|file| line.contains(file));
        // Others are diff's own: where it is in the lists.
        let is_told = |line: &&str| line.starts_with(['<', '>', 'F', 'O']);
        // diff cannot look into them; their numbers are in the lists.
        let is_device = |line: &&str| line.matches(" is a character special file").count() == 2;
        Ok(lines
            .lines()
            .filter(is_told)
            .filter(|line| !is_adapted(line) && !is_device(line))
            .map(str::to_owned)
            .collect())
    }
}

/// The serial number of a disk that no other test has: every agent on this machine sees every loop device.
pub fn serial(number: u8) -> String {
    format!("MC{}-{number}", std::process::id())
}

/// The notes of a step, joined.
pub fn notes(task: &Value, step: &str) -> String {
    let steps = task["steps"].as_array().into_iter().flatten();
    steps.filter(|found| found["step"] == step).map(|found| found["notes"].to_string()).collect()
}

/// Bytes that a hand-out has had over the network: as the note says when the transfer is done, as its progress does before.
pub fn wire_bytes(task: &Value) -> u64 {
    let notes = notes(task, "transfer");
    let noted = notes.split_once(" bytes fetched (").and_then(|(_, rest)| {
        let number = rest.split(' ').next()?;
        number.parse().ok()
    });
    noted.or_else(|| task["progress"]["wire_bytes"].as_u64()).unwrap_or(0)
}

/// The most memory that the agent had, as the note on its last step says, in MiB.
///
/// # Errors
/// When there is no such note.
pub fn used_mib(task: &Value) -> Result<u64> {
    let last = task["steps"].as_array().and_then(|steps| steps.last()).context("no steps")?;
    let notes = last["notes"].to_string();
    let (_, rest) = notes.split_once("the agent used at most ").context("no note of the memory")?;
    rest.split(' ').next().context("no number")?.parse().context("reading the note")
}
