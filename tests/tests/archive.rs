//! A tar archive: a real Debian's files, packed by GNU tar, become the system of a slot with a fresh filesystem, and it
//! starts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use metalcast_tests::image;
use metalcast_tests::loopdev::LoopDisk;
use metalcast_tests::process::run;
use metalcast_tests::qemu::{BootOrder, Disk, Machine, Spec};
use metalcast_tests::scene::{Scene, notes, serial};

/// Ten times what an idle machine needs.
const LOGIN: Duration = Duration::from_secs(300);

/// Packs the first partition of a disk, in a mount namespace that ends with the shell.
fn pack(disk: &Path, dir: &Path) -> Result<PathBuf> {
    let disk = LoopDisk::attach(disk)?;
    disk.reread_partitions()?;
    let archive = dir.join("debian.tar.zst");
    let script = "mkdir root; mount -o ro,noload \"$0\" root; \
                  tar -C root --xattrs --acls --sparse --numeric-owner -c . | zstd -q -1 -T0 >\"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "bash", "-eo", "pipefail", "-c", script]);
    run(command.arg(disk.partition(1)?).arg(&archive).current_dir(dir))?;
    Ok(archive)
}

#[test]
fn a_tar_archive_becomes_a_system_that_starts() {
    let debian = image::debian().unwrap();
    let mut scene = Scene::new("archive", 50).unwrap();
    let archive = pack(&debian.disk, scene.lab.dir()).unwrap();
    scene.rig.cli(&["image", "import", archive.to_str().unwrap(), "lab/tar"]).unwrap();
    scene.rig.cli(&["image", "check", "lab/tar"]).unwrap();

    let node = scene.node.clone();
    let deploy =
        ["deploy", "lab/tar", "--slot", "5", "--nodes", &node, "--yes", "--report", "none"];
    let order = [&deploy[..], &["--fs", "ext4", "--label", "fresh"]].concat();
    let job = scene.rig.order(&order).unwrap();
    // The agent, and its memory, are seen to its end in there.
    let task = scene.finish(job).unwrap();
    println!("{}", notes(&task, "fix-up"));
    assert_eq!(scene.differences(&debian.disk, 5).unwrap(), Vec::<String>::new());
    let slot = scene.host.disk().partition(5).unwrap();
    let label = run(Command::new("blkid").args(["-p", "-s", "LABEL", "-o", "value"]).arg(slot));
    assert_eq!(label.unwrap().trim(), "fresh");

    let Scene { host, mut lab, rig, .. } = scene;
    drop((host, rig));
    let disk = Disk { file: lab.dir().join(serial(1)), serial: "MCDISK1".to_owned() };
    let spec = Spec::node(1).disk(disk).boot(BootOrder::DiskFirst);
    let mut machine = Machine::start(&mut lab, &spec).unwrap();
    let prompt = format!("{node} login:");
    machine.wait_for(&prompt, machine.started(), LOGIN, "the system's console").unwrap();
    let lines = machine.serial().lines(0);
    let started = lines.iter().any(|line| line.text.contains("starting slot 5"));
    assert!(started, "not from slot 5: {}", machine.serial().last_lines(50));
}
