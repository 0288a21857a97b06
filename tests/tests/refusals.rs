//! What cannot work is refused or fails, with its reason at the command line; nothing wrong is called done.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use metalcast_tests::host::Host;
use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::process::{Background, run, run_for_code};
use metalcast_tests::rig::Setup;
use metalcast_tests::scene::{DISK_BYTES, Scene, WORK, serial};

/// A layout with slots that are smaller than the image's partition, and one that is larger than the disk.
const LAYOUTS: &str = "
[nodes]
default_layout = \"usual\"
[[layouts]]
name = \"usual\"
boot_mib = 512
swap_mib = 1024
reserve_mib = 0
slots = 4
slot_mib = 20000
[[layouts]]
name = \"small\"
boot_mib = 512
swap_mib = 1024
reserve_mib = 0
slots = 4
slot_mib = 512
[[layouts]]
name = \"large\"
boot_mib = 512
swap_mib = 1024
reserve_mib = 0
slots = 30
slot_mib = 20000
";

/// Orders that cannot be carried out, each with the part of the answer that says why.
const IMPOSSIBLE: [(&[&str], &str); 5] = [
    (&["--slot", "5", "--disk", "NOSUCH"], "NOSUCH"),
    (&["--slot", "99"], "not 99"),
    (&["--slot", "5", "--layout", "nosuch"], "nosuch"),
    (&["--slot", "5", "--layout", "small"], "a slot of layout small has 536870912"),
    (&["--slot", "5", "--layout", "large"], "no disk is large enough for layout large"),
];

#[test]
fn what_cannot_work_says_why() {
    let debian = image::debian().unwrap();
    // A disk that takes this much and then fails: its file lies on a filesystem that is full by then.
    let disk = |lab: &Lab| {
        let dir = lab.dir().join("small");
        std::fs::create_dir(&dir)?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=200m", "mc-small"]).arg(&dir))?;
        let path = dir.join(serial(1));
        File::create(&path)?.set_len(DISK_BYTES)?;
        Ok(path)
    };
    let setup = Setup { tables: LAYOUTS.to_owned(), ..Setup::default() };
    let mut scene = Scene::with("reasons", 42, &setup, disk).unwrap();
    let small = Unmount(scene.lab.dir().join("small"));
    scene.import(&debian.zstd).unwrap();
    for (arguments, part) in IMPOSSIBLE {
        let order = ["deploy", "lab/debian", "--nodes", &scene.node, "--yes"];
        let mut command = scene.rig.command(&[&order[..], arguments].concat());
        let (code, told) = run_for_code(&mut command).unwrap();
        assert!(code != 0 && told.contains(part), "{arguments:?}: {code}\n{told}");
    }

    // The disk fails in the middle.
    let job = scene.deploy(5).unwrap();
    let task = scene.wait(job, "the disk fails", |task| task["state"] == "failed").unwrap();
    let cause = task["cause"].as_str().unwrap_or_default().to_owned();
    // The kernel's reason, when it is written or when it is flushed.
    let told = ["No space left on device", "I/O error"].iter().any(|why| cause.contains(why));
    assert!(cause.contains("transfer: ") && told, "{task:#}");
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

/// Where what was fetched for one boot is given out again, as often as anyone asks.
const REPLAY_PORT: u16 = 8080;

/// How long an agent's certificate lives, and how old the controller makes its own: by the clock of the agent, which
/// nobody changes, that is good. (An agent in the RAM image sets its clock.)
const AHEAD: Duration = Duration::from_secs(24 * 3600);

#[test]
fn who_is_not_who_it_says_gets_nothing() {
    let debian = image::debian().unwrap();
    let mut scene = Scene::new("strangers", 43).unwrap();
    scene.import(&debian.zstd).unwrap();
    let dir = scene.lab.dir().join("replay");
    let other_disk = Host::blank_disk(&scene.lab, &serial(2), DISK_BYTES).unwrap();
    let other = Host::plug(&scene.lab, 2, &other_disk).unwrap();
    record(&scene, &dir, &[&scene.host, &other]).unwrap();
    let mut server = scene.lab.command("busybox");
    server.args(["httpd", "-f", "-p", &format!("{}:{REPLAY_PORT}", scene.lab.address()), "-h"]);
    let _server = scene.lab.spawn("replay", server.arg(&dir)).unwrap();
    answers(&scene).unwrap();
    let replay =
        |scene: &Scene, host: &Host| host.join_at(&scene.lab, &scene.shipped, REPLAY_PORT).unwrap();

    // The token of a boot of node1 on another machine.
    let mut stranger = replay(&scene, &other);
    let reason = "which this machine does not have";
    refused(&mut stranger, &scene, reason, reason).unwrap();
    assert_eq!(scene.rig.ask(&["node", "list"]).unwrap().as_array().unwrap().len(), 1);

    // On node1 itself it is good, once.
    scene.agent.kill();
    scene.agent = replay(&scene, &scene.host);
    enrolled(&mut scene).unwrap();
    let mut second = replay(&scene, &scene.host);
    refused(&mut second, &scene, "another key", "a second key").unwrap();
    scene.agent.check_running().unwrap();

    // A day later the agent's certificate has ended, and so has the token.
    scene.rig.kill_and_start_ahead(&scene.lab, AHEAD).unwrap();
    let status = scene.agent.wait(WORK, "the agent is refused").unwrap();
    assert!(!status.success());
    assert!(scene.agent.log_tail().contains("refuses this machine"), "{}", scene.agent.log_tail());
    assert_alarm(&scene, "certificate").unwrap();
    let mut late = replay(&scene, &scene.host);
    refused(&mut late, &scene, "token ended", "token ended").unwrap();

    // What helps is what the reason says: a new netboot. The order has waited for it.
    let job = scene.deploy(5).unwrap();
    let shown = scene.rig.cli(&["job", "show", &job.to_string()]).unwrap();
    assert!(shown.contains("to netboot into the agent"), "{shown}");
    scene.restart_agent().unwrap();
    let task = scene.finish(job).unwrap();
    let timeline = task["timeline"].to_string();
    assert!(timeline.contains("work-done"), "{timeline}");
    assert_eq!(scene.differences(&debian.disk, 5).unwrap(), Vec::<String>::new());
}

/// Fetches what the first host boots with, and puts it where each of them would look.
fn record(scene: &Scene, dir: &Path, hosts: &[&Host]) -> Result<()> {
    let script = scene.host.boot_script(&scene.lab)?;
    let url = script.split_whitespace().find(|word| word.ends_with("/segment.cpio"));
    let url = url.with_context(|| format!("no segment in {script}"))?;
    let path = url.splitn(4, '/').last().context("an address without a path")?;
    let segment = dir.join(path);
    std::fs::create_dir_all(segment.parent().context("a path without a directory")?)?;
    run(scene
        .host
        .command("curl")
        .args(["-sSf", "--max-time", "20", "-o"])
        .arg(&segment)
        .arg(url))?;
    for host in hosts {
        let name = format!("boot/{}.ipxe", host.mac()?.replace(':', "-"));
        std::fs::write(dir.join(name), &script).context("writing a boot script")?;
    }
    Ok(())
}

/// Waits until the server of what was fetched answers, with whatever it has.
fn answers(scene: &Scene) -> Result<()> {
    let url = format!("http://{}:{REPLAY_PORT}/", scene.lab.address());
    let deadline = std::time::Instant::now() + WORK;
    loop {
        let mut curl = scene.host.command("curl");
        match run(curl.args(["-sS", "--max-time", "20", "-o", "/dev/null", &url])) {
            Ok(_) => return Ok(()),
            Err(error) => ensure!(std::time::Instant::now() < deadline, "{error:#}"),
        }
        metalcast_tests::process::pause()?;
    }
}

/// An agent ends because the controller refuses it; it says why, and the node's alarm does.
fn refused(agent: &mut Background, scene: &Scene, said: &str, shown: &str) -> Result<()> {
    let status = agent.wait(WORK, "the agent is refused")?;
    let log = agent.log_tail();
    ensure!(!status.success() && log.contains(said), "{status}: {log}");
    assert_alarm(scene, shown)
}

fn assert_alarm(scene: &Scene, part: &str) -> Result<()> {
    let shown = scene.rig.cli(&["node", "show", &scene.node])?;
    let alarm = shown.lines().find(|line| line.contains("ALARM: ")).unwrap_or_default();
    ensure!(alarm.contains(part), "no {part:?} in {shown}");
    Ok(())
}

/// Waits until the scene's agent has a session.
fn enrolled(scene: &mut Scene) -> Result<()> {
    let deadline = std::time::Instant::now() + WORK;
    while !scene.agent.log_tail().contains("waiting for work") {
        scene.agent.check_running()?;
        ensure!(std::time::Instant::now() < deadline, "{}", scene.agent.log_tail());
        metalcast_tests::process::pause()?;
    }
    Ok(())
}
