//! Partitions of an image in chosen ones of a disk, by the shipped agent: a disk of Windows' kind, with a GPT and with an
//! MBR with logical partitions. The agent dies in the middle; what was not named is as it was, to the byte.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use metalcast_tests::lab::Lab;
use metalcast_tests::loopdev::LoopDisk;
use metalcast_tests::process::{pause, run};
use metalcast_tests::rig::Setup;
use metalcast_tests::scene::{Scene, WORK, notes, serial};

const MIB: u64 = 1 << 20;

/// So that there is time to kill the agent.
const CABLE_MBIT: u32 = 160;

/// The disk that is saved: NTFS and ext4 with so much that does not compress.
const IMAGE_MIB: u64 = 170;
const NTFS_MIB: u64 = 40;
const EXT4_MIB: u64 = 30;
const IMAGE: &str =
    "label: dos\nstart=2048,size=131072,type=7,bootable\nstart=133120,size=204800,type=83\n";

const DISK_MIB: u64 = 400;
const GPT: &str = "label: gpt\nstart=2048,size=65536,type=U\n\
     start=67584,size=204800,type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n\
     start=272384,size=131072,type=L\nstart=403456,size=262144,type=L\n";
const MBR: &str = "label: dos\nstart=2048,size=204800,type=7\nstart=206848,size=65536,type=83\n\
     start=272384,size=544768,type=f\nstart=274432,size=131072,type=7\nstart=407552,size=262144,type=83\n";

/// One way to partition the disk.
struct Case {
    name: &'static str,
    subnet: u8,
    table: &'static str,
    /// Where the image's NTFS and ext4 go.
    targets: [u32; 2],
}

fn partitioned(file: &Path, mib: u64, table: &str) -> Result<()> {
    File::options().create(true).append(true).open(file)?.set_len(mib * MIB)?;
    let sfdisk = "printf '%s' \"$1\" | sfdisk -q --wipe never --wipe-partitions never \"$0\"";
    run(Command::new("sh").args(["-ec", sfdisk]).arg(file).arg(table)).map(drop)
}

fn noise(mib: u64, file: &Path) -> Result<()> {
    let dd = "head -c \"${1}M\" /dev/urandom > \"$0\"";
    run(Command::new("sh").args(["-ec", dd]).arg(file).arg(mib.to_string())).map(drop)
}

/// A disk with Windows' filesystem and Linux' own, both with files.
fn image(dir: &Path) -> Result<PathBuf> {
    let file = dir.join("image.raw");
    partitioned(&file, IMAGE_MIB, IMAGE)?;
    let disk = LoopDisk::attach(&file)?;
    disk.reread_partitions()?;
    let (content, files) = (dir.join("content"), dir.join("files"));
    std::fs::create_dir(&files)?;
    noise(NTFS_MIB, &content)?;
    noise(EXT4_MIB, &files.join("data"))?;
    let ntfs = disk.partition(1)?;
    run(Command::new("mkfs.ntfs").args(["-q", "-f"]).arg(&ntfs))?;
    run(Command::new("ntfscp").args(["-q"]).arg(&ntfs).arg(&content).arg("data"))?;
    let mut mke2fs = Command::new("mke2fs");
    run(mke2fs.args(["-q", "-t", "ext4", "-d"]).arg(&files).arg(disk.partition(2)?))?;
    Ok(file)
}

/// Hash of all of a disk but some partitions.
fn others(disk: &Path, targets: &[(u64, u64)]) -> Result<blake3::Hash> {
    let file = File::open(disk)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; MIB as usize];
    for at in (0..DISK_MIB * MIB).step_by(MIB as usize) {
        let is_target = targets.iter().any(|(start, bytes)| at >= *start && at < start + bytes);
        if !is_target {
            file.read_exact_at(&mut buffer, at)?;
            hasher.update(&buffer);
        }
    }
    Ok(hasher.finalize())
}

/// Where partitions are, by sfdisk; on this disk all begin and end at whole MiB.
fn places(dump: &str, numbers: [u32; 2]) -> Result<Vec<(u64, u64)>> {
    let place = |number: u32| {
        let row = dump.lines().find(|line| {
            let node = line.split_once(" : ").map_or("", |(node, _)| node.trim());
            !node.is_empty() && node.ends_with(&format!("disk{number}"))
        });
        let row = row.with_context(|| format!("no partition {number} in {dump}"))?;
        let value = |key: &str| {
            let (_, rest) = row.split_once(&format!("{key}=")).context("no such field")?;
            let text = rest.split(',').next().context("nothing in it")?;
            text.trim().parse::<u64>().context("reading a number")
        };
        Ok((value("start")? * 512, value("size")? * 512))
    };
    numbers.into_iter().map(place).collect()
}

/// The kernel learns of the partitions, as a machine's does when it starts, and the node tells what is in them.
fn show_partitions(scene: &mut Scene) -> Result<()> {
    scene.host.disk().reread_partitions()?;
    scene.agent.kill();
    scene.restart_agent()?;
    let deadline = Instant::now() + WORK;
    loop {
        let node = scene.rig.ask(&["node", "show", &scene.node])?;
        let contents = node["inventory"]["disks"][0]["contents"].as_array();
        if contents.is_some_and(|all| all.iter().any(|one| one["partition"].is_u64())) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nothing is seen in the partitions: {node:#}");
        pause()?;
    }
}

fn check(case: &Case) -> Result<()> {
    let disk = |lab: &Lab| {
        let file = lab.dir().join(serial(1));
        noise(DISK_MIB, &file)?;
        partitioned(&file, DISK_MIB, case.table)?;
        // Something that is lost.
        let old = LoopDisk::attach(&file)?;
        old.reread_partitions()?;
        for number in case.targets {
            let mut mke2fs = Command::new("mke2fs");
            run(mke2fs.args(["-q", "-F", "-t", "ext2"]).arg(old.partition(number)?))?;
        }
        Ok(file)
    };
    let mut scene = Scene::with(case.name, case.subnet, &Setup::default(), disk)?;
    show_partitions(&mut scene)?;
    let image = image(scene.lab.dir())?;
    scene.rig.cli(&["image", "import", image.to_str().context("a path")?, "lab/win10"])?;
    scene.host.slow_down(&scene.lab, CABLE_MBIT)?;

    // A link, so that sfdisk names partitions by it.
    let file = scene.lab.dir().join("disk");
    std::os::unix::fs::symlink(scene.host.disk().path(), &file)?;
    let dump = || run(Command::new("sfdisk").arg("--dump").arg(&file));
    let table = dump()?;
    let targets = places(&table, case.targets)?;
    let before = others(&file, &targets)?;

    let [ntfs, ext4] = case.targets;
    let partitions = format!("sda1:{ntfs},sda2:{ext4}");
    let serial = serial(1);
    let order = ["deploy", "lab/win10", "--partitions", &partitions, "--disk", &serial, "--nodes"];
    let order = [&order[..], &[&scene.node, "--report", "none", "--grow", "--yes"]].concat();
    let plan = scene.rig.cli(&[&order[..], &["--dry-run"]].concat())?;
    println!("{plan}");
    ensure!(plan.contains(&format!("{ntfs} ntfs of sda1")) && plan.contains("LOST"), "{plan}");
    let job = scene.rig.order(&order)?;
    scene.wait_for_percent(job, 40)?;
    scene.agent.kill();
    let sectors = || targets.iter().map(|(start, _)| sector(&file, *start));
    let blank = sectors().collect::<Result<Vec<_>>>()?;
    ensure!(blank.iter().flatten().all(|byte| *byte == 0), "a boot sector is there already");
    scene.restart_agent()?;
    let task = scene.finish(job)?;
    ensure!(task["generation"] == 2, "{task:#}");
    let transfer = notes(&task, "transfer");
    println!("{transfer}\n{}\n{}", notes(&task, "grow"), notes(&task, "boot-code"));
    ensure!(!transfer.contains(" 0 were on the disk already"), "all came again: {transfer}");

    ensure!(dump()? == table, "another table: {}", dump()?);
    ensure!(others(&file, &targets)? == before, "something else was changed");
    scene.host.disk().reread_partitions()?;
    let node = |number| scene.host.disk().partition(number);
    run(Command::new("ntfsfix").arg("-n").arg(node(ntfs)?))?;
    run(Command::new("ntfsinfo").args(["-m", "-f"]).arg(node(ntfs)?))?;
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(node(ext4)?))?;
    let hidden = &sector(&file, targets[0].0)?[0x1c..0x20];
    ensure!(hidden == (targets[0].0 as u32 / 512).to_le_bytes(), "NTFS elsewhere: {hidden:?}");
    let shown = scene.rig.cli(&["node", "show", &scene.node])?;
    ensure!(shown.contains("sda1 of lab/win10@1"), "{shown}");
    contents(&scene, node(ntfs)?, node(ext4)?)
}

fn sector(disk: &Path, at: u64) -> Result<Vec<u8>> {
    run(Command::new("blockdev").arg("--flushbufs").arg(disk))?;
    let mut sector = vec![0; 512];
    File::open(disk)?.read_exact_at(&mut sector, at)?;
    Ok(sector)
}

/// The files are those that were saved.
fn contents(scene: &Scene, ntfs: PathBuf, ext4: PathBuf) -> Result<()> {
    let compare = "ntfscat -f -q \"$0\" data | cmp - content; debugfs -R 'dump /data dumped' \"$1\"; cmp dumped files/data";
    let mut command = Command::new("sh");
    run(command.args(["-ec", compare]).arg(ntfs).arg(ext4).current_dir(scene.lab.dir())).map(drop)
}

#[test]
fn partitions_of_a_gpt_are_filled_and_nothing_else_changes() {
    check(&Case { name: "parts-gpt", subnet: 62, table: GPT, targets: [2, 4] }).unwrap();
}

#[test]
fn primary_and_logical_partitions_are_filled_and_nothing_else_changes() {
    check(&Case { name: "parts-mbr", subnet: 63, table: MBR, targets: [1, 6] }).unwrap();
}
