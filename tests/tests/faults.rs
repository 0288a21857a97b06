//! What goes wrong in the field, in the middle of a transfer and before it: a cable that comes loose, an agent or a
//! controller that is killed, an image that is damaged in the store, a disk that fails. The shipped agent on loop disks,
//! the real command line; nothing is emulated.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use metalcast_tests::host::{Host, Shipped};
use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::process::{Background, pause, run, run_for_code};
use metalcast_tests::rig::{Artefacts, Rig};
use serde_json::Value;

/// Ten times what an idle machine needs.
const WORK: Duration = Duration::from_secs(300);

/// Room for the default layout; the file is sparse.
const DISK_BYTES: u64 = 500_000_000_000;

/// What may come over the network a second time after a fault.
const AGAIN_BYTES: u64 = 64 << 20;

/// So that a transfer of 100 MB takes long enough for something to happen in it.
const CABLE_MBIT: u32 = 160;

/// How long the cable is out: as long as the agent's connection lives without an answer.
const CABLE_OUT: Duration = Duration::from_secs(20);

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

struct Scene {
    lab: Lab,
    rig: Rig,
    host: Host,
    shipped: Shipped,
    agent: Background,
    node: String,
}

impl Scene {
    fn new(name: &str, subnet: u8, disk: impl FnOnce(&Lab) -> Result<PathBuf>) -> Result<Self> {
        let artefacts = Artefacts::given_or_built()?;
        let lab = Lab::new(name, subnet)?;
        let mut rig = Rig::start(&lab, &artefacts)?;
        let shipped = Shipped::of(&artefacts, lab.dir())?;
        let host = Host::plug(&lab, 1, &disk(&lab)?)?;
        let agent = host.join(&lab, &shipped)?;
        let node = rig.wait_for_nodes(&mut [], 1, "new", WORK)?.remove(0);
        rig.cli(&["node", "approve", &node])?;
        Ok(Self { lab, rig, host, shipped, agent, node })
    }

    fn import(&self, directory: &Path) -> Result<()> {
        let directory = directory.to_str().context("the image's path is no text")?;
        self.rig.cli(&["image", "import", directory, "lab/debian"]).map(drop)
    }

    /// Orders a deployment that no system will report on.
    fn deploy(&self, slot: u8) -> Result<u64> {
        let (slot, node) = (slot.to_string(), self.node.as_str());
        let order = ["deploy", "lab/debian", "--slot", &slot, "--nodes", node, "--yes"];
        self.rig.order(&[&order[..], &["--report", "none"]].concat())
    }

    fn wait(&mut self, job: u64, reason: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.rig.wait_for_task(job, &mut self.agent, WORK, reason, wanted)
    }

    /// Waits until the transfer has come so far, in percent.
    fn wait_for_percent(&mut self, job: u64, percent: u64) -> Result<Value> {
        self.wait(job, &format!("{percent} % are transferred"), |task| {
            let progress = &task["progress"];
            let (done, total) = (progress["done_bytes"].as_u64(), progress["total_bytes"].as_u64());
            progress["step"] == "transfer"
                && done.zip(total).is_some_and(|(done, total)| done * 100 >= total * percent)
        })
    }

    /// The rest of a job: the agent ends, the machine asks for its script and is sent to its disk.
    fn finish(&mut self, job: u64) -> Result<Value> {
        let status = self.agent.wait(WORK, "the agent ends for the restart")?;
        ensure!(status.success(), "{}", self.agent.log_tail());
        let script = self.host.boot_script(&self.lab)?;
        ensure!(script.contains("sanboot"), "not sent to its disk: {script}");
        let deadline = Instant::now() + WORK;
        loop {
            let job = self.rig.ask(&["job", "show", &job.to_string()])?;
            let task = &job["tasks"][0];
            if task["state"] == "done (unconfirmed)" {
                return Ok(task.clone());
            }
            ensure!(task["ended"] == false && Instant::now() < deadline, "{job:#}");
            pause()?;
        }
    }

    fn restart_agent(&mut self) -> Result<()> {
        self.agent = self.host.join(&self.lab, &self.shipped)?;
        Ok(())
    }
}

/// Bytes on the wire, as the transfer's note says.
fn wire_bytes(task: &Value) -> Result<u64> {
    let notes = notes(task, "transfer");
    let (_, rest) = notes.split_once(" bytes fetched (").context("no note of the transfer")?;
    rest.split(' ').next().context("no number")?.parse().context("reading the note")
}

fn notes(task: &Value, step: &str) -> String {
    let steps = task["steps"].as_array().into_iter().flatten();
    steps.filter(|found| found["step"] == step).map(|found| found["notes"].to_string()).collect()
}

/// What the image holds, restored by partclone, and what a slot holds, file by file; differences but for fix-ups.
fn differences(scene: &Scene, image: &Path, slot: u32) -> Result<Vec<String>> {
    let dir = scene.lab.dir();
    let (raw, ours, theirs) = (dir.join("restored"), dir.join("ours"), dir.join("theirs"));
    if !raw.exists() {
        // As large as a slot: partclone itself ends the file at the last used block.
        let restore = "truncate -s 20G \"$1\"; cat \"$0\"/sda1.*-ptcl-img.zst* | zstd -dcq | \
                       timeout 120 partclone.restore -C -L restore.log -s - -O \"$1\" 2>&1";
        run(Command::new("sh").args(["-ec", restore]).arg(image).arg(&raw).current_dir(dir))?;
        std::fs::create_dir(&ours)?;
        std::fs::create_dir(&theirs)?;
    }
    scene.host.disk().reread_partitions()?;
    let node = scene.host.disk().partition(slot)?;
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&node))?;
    // In a mount namespace of their own, which ends with the shell.
    let compare = "mount -o ro,noload \"$0\" ours; mount -o ro,noload,loop restored theirs; \
                   diff --recursive --brief --no-dereference theirs ours || test $? = 1";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", compare]).arg(&node).current_dir(dir);
    let lines = run(&mut command)?;
    let is_adapted = |line: &&str| ADAPTED.iter().any(|file| line.contains(file));
    Ok(lines.lines().filter(|line| !is_adapted(line)).map(str::to_owned).collect())
}

/// Cable, agent and controller, each at its own point of a transfer; the job ends right and little comes twice.
#[test]
fn faults_in_the_middle_of_a_transfer_cost_little() {
    let debian = image::debian().unwrap();
    let disk = |lab: &Lab| Host::blank_disk(lab, "MCFAULT1", DISK_BYTES);
    let mut scene = Scene::new("faults", 41, disk).unwrap();
    scene.import(&debian.zstd).unwrap();
    scene.host.slow_down(&scene.lab, CABLE_MBIT).unwrap();

    // Undisturbed, to know what a transfer costs.
    let job = scene.deploy(5).unwrap();
    let whole = wire_bytes(&scene.finish(job).unwrap()).unwrap();
    assert!(whole > AGAIN_BYTES, "the image is too small to tell: {whole}");
    assert_eq!(differences(&scene, &debian.zstd, 5).unwrap(), Vec::<String>::new());

    // The cable is out; meanwhile a new revision arrives, which is none of this job's business.
    let job = scene.deploy(6).unwrap();
    scene.restart_agent().unwrap();
    scene.wait_for_percent(job, 25).unwrap();
    scene.host.unplug(&scene.lab).unwrap();
    let pulled = Instant::now();
    scene.import(&debian.gzip_split).unwrap();
    std::thread::sleep(CABLE_OUT.saturating_sub(pulled.elapsed()));
    scene.host.plug_in_again(&scene.lab).unwrap();
    let task = scene.finish(job).unwrap();
    assert_eq!(task["generation"], 1, "the agent went on");
    let wire = wire_bytes(&task).unwrap();
    assert!(wire <= whole + AGAIN_BYTES, "{wire} of {whole} after the cable was out");
    let shown = scene.rig.cli(&["job", "show", &job.to_string()]).unwrap();
    assert!(shown.contains("lab/debian@1"), "{shown}");
    assert_eq!(differences(&scene, &debian.zstd, 6).unwrap(), Vec::<String>::new());

    // The agent dies, as in a reset; what it wrote is found on the disk.
    let job = scene.deploy(7).unwrap();
    scene.restart_agent().unwrap();
    let before = scene.wait_for_percent(job, 60).unwrap();
    scene.agent.kill();
    let before = before["progress"]["wire_bytes"].as_u64().unwrap();
    scene.restart_agent().unwrap();
    let task = scene.finish(job).unwrap();
    assert_eq!(task["generation"], 2);
    let wire = before + wire_bytes(&task).unwrap();
    assert!(wire <= whole + AGAIN_BYTES, "{wire} of {whole} after the agent died at {before}");
    assert_eq!(differences(&scene, &debian.zstd, 7).unwrap(), Vec::<String>::new());

    // The controller dies.
    let job = scene.deploy(8).unwrap();
    scene.restart_agent().unwrap();
    scene.wait_for_percent(job, 45).unwrap();
    scene.rig.kill_and_start(&scene.lab).unwrap();
    let task = scene.finish(job).unwrap();
    assert_eq!(task["generation"], 1, "the agent went on");
    let wire = wire_bytes(&task).unwrap();
    assert!(wire <= whole + AGAIN_BYTES, "{wire} of {whole} after the controller died");
    assert_eq!(differences(&scene, &debian.zstd, 8).unwrap(), Vec::<String>::new());
}

/// What cannot work is refused or fails, with its reason at the command line; nothing wrong is called done.
#[test]
fn what_cannot_work_says_why() {
    let debian = image::debian().unwrap();
    // A disk that takes this much and then fails: its file lies on a filesystem that is full by then.
    let disk = |lab: &Lab| {
        let dir = lab.dir().join("small");
        std::fs::create_dir(&dir)?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=200m", "mc-small"]).arg(&dir))?;
        let path = dir.join("MCFAULT2");
        File::create(&path)?.set_len(DISK_BYTES)?;
        Ok(path)
    };
    let mut scene = Scene::new("reasons", 42, disk).unwrap();
    let small = Unmount(scene.lab.dir().join("small"));
    scene.import(&debian.zstd).unwrap();
    let node = scene.node.clone();
    let refused = |scene: &Scene, arguments: &[&str], part: &str| {
        let order = ["deploy", "lab/debian", "--nodes", &node, "--yes"];
        let mut command = scene.rig.command(&[&order[..], arguments].concat());
        let (code, told) = run_for_code(&mut command).unwrap();
        assert!(code != 0 && told.contains(part), "{arguments:?}: {code}\n{told}");
    };
    refused(&scene, &["--slot", "5", "--disk", "NOSUCH"], "NOSUCH");
    refused(&scene, &["--slot", "99"], "not 99");
    refused(&scene, &["--slot", "5", "--layout", "nosuch"], "nosuch");

    // The disk fails in the middle.
    let job = scene.deploy(5).unwrap();
    let task = scene.wait(job, "the disk fails", |task| task["state"] == "failed").unwrap();
    let cause = task["cause"].as_str().unwrap_or_default().to_owned();
    assert!(cause.contains("transfer: ") && cause.contains("I/O error"), "{task:#}");
    let mut show = scene.rig.command(&["job", "watch", &job.to_string()]);
    let (code, told) = run_for_code(&mut show).unwrap();
    assert!(code != 0 && told.contains(&cause), "{code}\n{told}");

    // A larger disk, but a byte of the image has changed in the store.
    run(Command::new("mount").args(["-o", "remount,size=2g"]).arg(&small.0)).unwrap();
    damage(&scene.lab.dir().join("state")).unwrap();
    // Another slot: what the first one holds already would not be fetched.
    let job = scene.deploy(6).unwrap();
    let task = scene.wait(job, "the damage is noticed", |task| task["state"] == "failed").unwrap();
    let cause = task["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("chunk") && cause.contains("sda1"), "{task:#}");
    drop(scene);
}

/// Flips a bit in the middle of the image's largest file.
fn damage(state: &Path) -> Result<()> {
    let find =
        "find \"$0\" -name '*-ptcl-img.zst*' -size +1M -printf '%s %p\\n' | sort -n | tail -1";
    let found = run(Command::new("sh").args(["-ec", find]).arg(state))?;
    let (bytes, path) = found.trim().split_once(' ').context("no image in the store")?;
    let file = File::options().read(true).write(true).open(path)?;
    let at = bytes.parse::<u64>()? / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    Ok(())
}

/// A mount that ends with the test.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        // Lazily: the loop device lets go of its file a little later.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}
