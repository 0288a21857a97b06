//! Clones of a system that runs: a Debian from its own disk, its files written to meanwhile, is put on another machine in
//! one job, and nothing is left of it in the store. The shipped agent on both.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use metalcast_tests::host::Host;
use metalcast_tests::image;
use metalcast_tests::process::{Background, pause, run};
use metalcast_tests::scene::{Scene, WORK, notes, serial};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde_json::Value;

/// So that files are written to while they are read.
const CABLE_MBIT: u32 = 80;

/// The first partition of the golden machine's disk, in a mount namespace that ends with the shell: the system's own root,
/// with what a running one has mounted on it. One file grows, one is written to for as long as it runs.
const SYSTEM: &str = r#"
cd "$3"; mkdir -p golden; mount "$0" golden
mount -t proc proc golden/proc; mount -t sysfs sysfs golden/sys; mount --rbind /dev golden/dev
mount -t tmpfs tmpfs golden/run; cp "$1" golden/run/agent
head -c 30000000 /dev/urandom >golden/var/log/busy
echo passing >golden/tmp/passing
mkdir golden/mnt/nfs; echo covered >golden/mnt/nfs/covered; mount -t tmpfs tmpfs golden/mnt/nfs; echo over >golden/mnt/nfs/over
{ while kill -0 $$; do printf x | dd of=golden/var/log/busy bs=1 seek=5 conv=notrunc status=none; sleep 0.1; done; } 2>/dev/null &
echo up
exec chroot golden /run/agent golden "$2"
"#;

/// A machine that runs its own system and offers that.
struct Golden {
    agent: Background,
    host: Host,
    node: String,
    disk: PathBuf,
}

impl Golden {
    fn start(scene: &mut Scene, source: &Path) -> Result<Self> {
        let disk = scene.lab.dir().join(serial(2));
        run(Command::new("cp").arg("--sparse=always").arg(source).arg(&disk))?;
        let host = Host::plug(&scene.lab, 2, &disk)?;
        host.disk().reread_partitions()?;
        host.slow_down_sending(CABLE_MBIT)?;
        let mut command = host.command("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-ec", SYSTEM]);
        command.arg(host.disk().partition(1)?).arg(scene.shipped.agent());
        // Where it stands is another namespace's until it goes there itself.
        command.arg(format!("{}:80", scene.lab.address())).arg(scene.lab.dir());
        let agent = scene.lab.spawn("golden", &mut command)?;
        let node = scene.rig.wait_for_nodes(&mut [], 1, "new", WORK)?.remove(0);
        scene.rig.cli(&["node", "approve", &node])?;
        Ok(Self { agent, host, node, disk })
    }

    /// Waits until its system, which has ended, has let go of its disk; the disk's file.
    fn unmounted(self) -> Result<PathBuf> {
        let Self { agent, host, disk, .. } = self;
        drop(agent);
        let (node, deadline) = (host.disk().partition(1)?, Instant::now() + WORK);
        // A mounted device is not given out alone.
        while let Err(error) = open(&node, OFlag::O_RDONLY | OFlag::O_EXCL, Mode::empty()) {
            ensure!(Instant::now() < deadline, "{} stays in use: {error}", node.display());
            pause()?;
        }
        Ok(disk)
    }

    /// Orders that it is put on the scene's host.
    fn clone_to(&self, scene: &Scene) -> Result<u64> {
        let order = ["clone", "--from", &self.node, "--nodes", &scene.node, "--slot", "5"];
        scene.rig.order(&[&order[..], &["--yes", "--report", "none"]].concat())
    }
}

/// The job's tasks: the scene's host is first, the golden machine behind it.
fn tasks(scene: &Scene, job: u64) -> Result<[Value; 2]> {
    let job = scene.rig.ask(&["job", "show", &job.to_string()])?;
    Ok([job["tasks"][0].clone(), job["tasks"][1].clone()])
}

/// Waits until the golden machine's task is as wanted.
fn wait_for_source(scene: &Scene, job: u64, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + WORK;
    loop {
        let [_, source] = tasks(scene, job)?;
        if wanted(&source) {
            return Ok(source);
        }
        ensure!(Instant::now() < deadline && source["ended"] == false, "{source:#}");
        pause()?;
    }
}

/// What there is of clones in the store, and what is being made there.
fn left(scene: &Scene) -> Result<Vec<String>> {
    let dir = scene.lab.dir().join("state/images");
    let mut names = Vec::new();
    for entry in dir.read_dir().context("listing the store")? {
        names.push(entry.context("listing the store")?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Waits until nothing of clones is in the store.
fn wait_for_nothing(scene: &Scene) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !left(scene)?.is_empty() {
        ensure!(Instant::now() < deadline, "{:?}", left(scene)?);
        pause()?;
    }
    Ok(())
}

#[test]
fn a_running_debian_is_put_on_another_machine_and_leaves_no_image() {
    let debian = image::debian().unwrap();
    let mut scene = Scene::new("clone", 51).unwrap();
    let mut golden = Golden::start(&mut scene, &debian.disk).unwrap();
    let shown = scene.rig.cli(&["node", "list"]).unwrap();
    assert!(shown.contains("connected (golden)"), "{shown}");
    let refused = scene.rig.cli(&["capture", &golden.node, "lab/no", "--slot", "5"]).unwrap_err();
    assert!(refused.to_string().contains("it does no other work"), "{refused:#}");
    let order =
        ["clone", "--from", &golden.node, "--nodes", &scene.node, "--slot", "5", "--dry-run"];
    let plan = scene.rig.cli(&order).unwrap();
    assert!(
        plan.contains("the running system of node2 (offers it), into a new ext4 in slot 5"),
        "{plan}"
    );

    let job = golden.clone_to(&scene).unwrap();
    let source = wait_for_source(&scene, job, |task| {
        task["progress"]["done_bytes"].as_u64() > Some(1 << 20)
    })
    .unwrap();
    let [target, _] = tasks(&scene, job).unwrap();
    assert_eq!(target["state"], "awaiting-source", "{source:#}");
    assert!(scene.rig.ask(&["image", "list"]).unwrap().as_array().unwrap().is_empty());
    let task = scene.finish(job).unwrap();
    println!("{}", notes(&task, "fix-up"));
    let [_, source] = tasks(&scene, job).unwrap();
    assert_eq!(source["state"], "done");
    let said = notes(&source, "capture");
    println!("{said}");
    for words in [
        "file changed while being read: /var/log/busy was changed",
        "3 names with 1 MiB in passing directories (",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(notes(&source, "survey").contains("/ (ext4 of /dev/loop"), "{source:#}");
    wait_for_nothing(&scene).unwrap();

    // It goes on as it was, until someone ends it.
    golden.agent.check_running().unwrap();
    golden.agent.stop();
    assert!(
        golden.agent.log_tail().contains("not offered any more"),
        "{}",
        golden.agent.log_tail()
    );
    let disk = golden.unmounted().unwrap();
    let differences = scene.differences(&disk, 5).unwrap();
    let passes = ["/busy", "passing", "/run", " run/"];
    let is_expected = |line: &&String| passes.iter().any(|part| line.contains(part));
    let wrong: Vec<&String> = differences.iter().filter(|line| !is_expected(line)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_source_that_ends_in_the_middle_fails_the_job_and_no_disk_is_written_to() {
    let debian = image::debian().unwrap();
    let mut scene = Scene::new("clone-ends", 52).unwrap();
    let mut golden = Golden::start(&mut scene, &debian.disk).unwrap();
    let job = golden.clone_to(&scene).unwrap();
    let begun = |task: &Value| task["progress"]["done_bytes"].as_u64() > Some(8 << 20);
    wait_for_source(&scene, job, begun).unwrap();
    golden.agent.stop();
    let [target, source] = scene
        .wait(job, "its source failed", |task| task["state"] == "failed")
        .and_then(|_| tasks(&scene, job))
        .unwrap();
    let cause = |task: &Value| task["cause"].as_str().unwrap_or_default().to_owned();
    let said = cause(&source);
    assert!(
        said.contains("ended on the machine itself") && said.contains("a second time alike"),
        "{said}"
    );
    assert_eq!(cause(&target), format!("the source failed: {said}"));
    wait_for_nothing(&scene).unwrap();
    let written =
        run(Command::new("du").arg("--block-size=1").arg(scene.lab.dir().join(serial(1))));
    assert!(written.unwrap().starts_with("0\t"), "something was written to the target");
}
