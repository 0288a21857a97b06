//! What may go wrong on the way.

use crate::{
    AGENT, capture,
    images::{Access, Image, sh},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// How long a capture may take to come to a certain point, in hundredths of a second.
const PATIENCE: u32 = 60_000;

fn begin(dir: &Path) -> Child {
    let arguments = ["capture", "--from", "image", "--to", "saved", "--name", "sda1"];
    let mut command = Command::new(AGENT);
    command.args(arguments).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..PATIENCE {
        if is_so() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("it did not come to that");
}

fn entries(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("saved"));
    names.sort();
    names
}

#[test]
fn an_interrupted_capture_leaves_nothing_and_a_killed_one_is_cleared_away() {
    // So much that it is not done before it is told to stop.
    let fill = "truncate -s 600M image; mke2fs -q -F -t ext4 image; mkdir -p d
                head -c 400M /dev/urandom > d/big; mke2fs -q -F -t ext4 -d d image";
    let image = Image::make(600, &format!("{{ {fill}; }}"), Access::Kernel);
    let dir = image.dir();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let agent = begin(dir);
        let file = dir.join("saved.unfinished/sda1.ext4-ptcl-img.zst");
        wait_until(|| fs::metadata(&file).is_ok_and(|file| file.len() > 0));
        kill(Pid::from_raw(agent.id().cast_signed()), signal).unwrap();
        let output = agent.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("cancelled: by SIG"), "{said}");
        assert_eq!(entries(dir), [""; 0], "{said}");
    }
    let mut agent = begin(dir);
    wait_until(|| dir.join("saved.unfinished/sda1.ext4-ptcl-img.zst").exists());
    // Another one meanwhile is refused, and does no harm to it.
    let said = capture(dir, "--from image --to saved --name sda1").unwrap_err();
    assert!(said.contains("another capture is writing"), "{said}");
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(entries(dir), ["saved.unfinished"]);
    capture(dir, "--from image --to saved --name sda1").unwrap();
    assert_eq!(entries(dir), ["saved"]);
    let said = capture(dir, "--from image --to saved --name sda1").unwrap_err();
    assert!(said.contains("saved exists"), "{said}");
}

#[test]
fn a_range_that_cannot_be_read_is_named_and_no_image_is_left() {
    // btrfs gives an I/O error for a block that is not what its checksum says: the source lies in one.
    let host = Image::make(300, "mkfs.btrfs -q image", Access::Kernel);
    let dir = host.dir();
    let offset = "grep -obUa -m1 unreadable-block";
    sh(
        dir,
        "mkdir d; head -c 8M /dev/urandom > d/a; yes unreadable-block | head -c 4096 > d/marked
         truncate -s 64M source; mke2fs -q -F -t ext4 -b 4096 -d d source",
    );
    host.inside("cp ../source source");
    let at = |file: &str| {
        let text = sh(dir, &format!("{offset} {file} | head -n 1 | cut -d: -f1"));
        text.trim().parse::<u64>().unwrap()
    };
    let (bad, in_host) = (at("source"), at("image"));
    sh(dir, &format!("printf X | dd of=image bs=1 seek={} conv=notrunc 2> dd.log", in_host + 99));
    let said =
        host.inside(&format!("! {AGENT} capture --from source --to ../saved --name sda1 2>&1"));
    let range = format!("no image is left: bytes {bad} to {} of sda1 cannot be read", bad + 4095);
    assert!(said.contains("the disk is failing"), "{said}");
    assert!(said.contains(&range) && said.contains("Input/output error"), "{range}: {said}");
    assert_eq!(entries(dir), [""; 0]);
}

#[test]
fn a_disk_that_ends_before_it_should_is_refused() {
    let image = Image::make(64, "mke2fs -q -F -t ext4 image", Access::Kernel);
    let dir = image.dir();
    let device = sh(dir, "losetup -f --show image");
    let device = device.trim();
    sh(dir, "truncate -s 30M image");
    let said = capture(dir, &format!("--from {device} --to saved --name sda1"));
    sh(dir, &format!("losetup -d {device}"));
    let said = said.unwrap_err();
    assert!(said.contains("at 66060288 of ") && said.contains("Input/output error"), "{said}");
    assert_eq!(entries(dir), [""; 0]);
}

#[test]
fn what_was_not_unmounted_is_refused_unless_forced() {
    let image = Image::aged(64, "mke2fs -q -F -t ext4 image", Access::Kernel);
    image.inside("echo new > new; sync -f .; cp --sparse=always ../image ../live");
    let dir = image.dir();
    let said = capture(dir, "--from live --to saved --name sda1").unwrap_err();
    assert!(said.contains("its journal was not replayed"), "{said}");
    assert!(said.contains("--force"), "{said}");
    assert_eq!(entries(dir), [""; 0]);
    let said = capture(dir, "--force --from live --to saved --name sda1").unwrap();
    assert!(said.contains("64 of 64 MiB"), "{said}");
    sh(
        dir,
        "truncate -s 64M copy; zstd -dc saved/sda1.ext4-ptcl-img.zst |
             partclone.restore -C -s - -O copy -L restore.log > pc.log 2>&1
         cmp copy live; e2fsck -fy copy > check.log || test $? = 1",
    );
}

#[test]
fn two_terabytes_take_less_memory_than_a_small_machine_has() {
    // XFS, whose map begins with every block used: the bitmap is in memory as a whole.
    let mkfs = "{ truncate -s 2T image; mkfs.xfs -q -l size=64m image; }";
    let image = Image::make(1, mkfs, Access::Kernel);
    image.inside("head -c 300M /dev/urandom > big");
    let mut agent = begin(image.dir());
    let status = format!("/proc/{}/status", agent.id());
    let mut peak_kib = 0;
    wait_until(|| {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak_kib = peak_kib.max(kib.unwrap_or(0));
        agent.try_wait().unwrap().is_some()
    });
    assert!(agent.wait().unwrap().success());
    println!("VmHWM {peak_kib} KiB");
    assert!((64 << 10..=96 << 10).contains(&peak_kib), "{peak_kib} KiB");
    crate::check_directory(&image.dir().join("saved"));
}
