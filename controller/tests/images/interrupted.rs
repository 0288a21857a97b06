//! Imports that are stopped from outside: killed, or out of space.
//!
//! Both happen to a process of its own, which is this test program again, told by a variable what to do.

use crate::{
    Store,
    disks::Disk,
    name, revision, sign,
    source::{Source, sh},
    with_causes,
};
use metalcast_controller::images::{DiskOptions, Images, Progress};
use std::{
    cell::Cell,
    env, fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Where the process under test finds the source and the store: two paths and a colon.
const PLACES: &str = "METALCAST_TEST_IMPORT";

/// At how many per cent the process that is to be killed stops.
const STOP_AT: &str = "METALCAST_TEST_STOP_AT";

/// What it prints then.
const STOPPED: &str = "the import stands still";

const MIB: u64 = 1 << 20;

/// Blocks of a tmpfs.
const PAGE_BYTES: u64 = 4096;

/// What the process under test was told, if this is it.
fn places() -> Option<(PathBuf, PathBuf)> {
    let places = env::var(PLACES).ok()?;
    let (source, store) = places.split_once(':').expect("two paths");
    Some((source.into(), store.into()))
}

/// One test of this program in a process of its own. What it mounts goes when it does, however that
/// is: unshare becomes the program, in a mount namespace that nobody else is in.
fn this_test(test: &str, source: &Source, store: &Path) -> Command {
    this_test_at(test, &source.image(), store)
}

fn this_test_at(test: &str, source: &Path, store: &Path) -> Command {
    let program = env::current_exe().expect("the program knows where it is");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave"]).arg(program);
    command.args(["--exact", test, "--nocapture"]);
    command.env(PLACES, format!("{}:{}", source.display(), store.display()));
    command
}

/// A process that is killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Imports and, at the given point, stands still until killed (or until nobody is left to do so).
fn import_and_stop(source: &Path, store: &Path) {
    let percent: u64 = env::var(STOP_AT).unwrap().parse().unwrap();
    let images = Images::open(store, sign()).unwrap();
    let progress = |at: Progress| {
        if at.done_bytes * 100 >= at.total_bytes * percent {
            println!("{STOPPED}");
            let _ = std::io::stdin().read(&mut [0]);
            panic!("nobody killed the import");
        }
    };
    images.import(source, &name(), &progress).unwrap();
}

#[test]
fn an_import_killed_anywhere_leaves_nothing_that_the_next_start_does_not_remove() {
    if let Some((source, store)) = places() {
        return import_and_stop(&source, &store);
    }
    let test =
        "interrupted::an_import_killed_anywhere_leaves_nothing_that_the_next_start_does_not_remove";
    let source = Source::new("-a1", "gzip -1c", "gz", "-b 4MB");
    let store = Store::new();
    for percent in [0, 50, 100] {
        let mut command = this_test(test, &source, store.dir.path());
        command.env(STOP_AT, percent.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Killed(command.spawn().unwrap());
        let said = BufReader::new(process.0.stdout.take().unwrap());
        assert!(said.lines().any(|line| line.unwrap().ends_with(STOPPED)), "at {percent} %");

        // A controller that is started meanwhile leaves it alone.
        let reopen = || Images::open(store.dir.path(), sign()).unwrap();
        assert_eq!(reopen().list().unwrap(), []);
        let begun = store.entries();
        assert!(begun.iter().any(|entry| entry.ends_with("/sda5.ext4-ptcl-img.zst")), "{begun:?}");

        drop(process);
        assert_eq!(store.entries(), begun, "at {percent} %");
        assert_eq!(store.images.list().unwrap(), []);
        assert_eq!(store.images.latest(&name()).unwrap(), None);
        assert_eq!(reopen().list().unwrap(), []);
        assert_eq!(store.entries(), [""; 0], "at {percent} %");
    }
    assert_eq!(store.import(&source.image()).unwrap(), revision(1));
}

/// Imports a disk, from its file or as a stream of it, and stands still when it has told of its progress
/// so often.
fn import_disk_and_stop(source: &Path, store: &Path) {
    let left = Cell::new(env::var(STOP_AT).unwrap().parse::<u64>().unwrap());
    let images = Images::open(store, sign()).unwrap();
    let progress = |_: Progress| {
        left.set(left.get() - 1);
        if left.get() == 0 {
            println!("{STOPPED}");
            let _ = std::io::stdin().read(&mut [0]);
            panic!("nobody killed the import");
        }
    };
    let options = DiskOptions::default();
    if source.ends_with("image") {
        images.import_file(source, &options, &name(), &progress).unwrap();
    } else {
        let mut stream = fs::File::open(source).unwrap();
        images.import_stream(&mut stream, &options, &name(), &progress).unwrap();
    }
}

#[test]
fn a_killed_import_of_a_disk_leaves_nothing_that_the_next_start_does_not_remove() {
    if let Some((source, store)) = places() {
        return import_disk_and_stop(&source, &store);
    }
    let test =
        "interrupted::a_killed_import_of_a_disk_leaves_nothing_that_the_next_start_does_not_remove";
    let (disk, store) = (Disk::new(), Store::new());
    sh(disk.dir(), "qemu-img convert -c -f raw -O qcow2 disk image");
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    // Of the stream there are 160 pieces, then 30 chunks and more; of unpacking is told at least once.
    for (file, stop_at) in [
        ("image", 1),
        ("image", 2 + seed % 25),
        ("disk", 1 + seed % 160),
        ("disk", 162 + seed % 25),
    ] {
        let mut command = this_test_at(test, &disk.dir().join(file), store.dir.path());
        command.env(STOP_AT, stop_at.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Killed(command.spawn().unwrap());
        let said = BufReader::new(process.0.stdout.take().unwrap());
        assert!(said.lines().any(|line| line.unwrap().ends_with(STOPPED)), "{file} {stop_at}");
        let reopen = || Images::open(store.dir.path(), sign()).unwrap();
        reopen();
        let begun = store.entries();
        assert!(begun.iter().any(|entry| entry.starts_with("./.import-")), "{begun:?}");

        drop(process);
        wait_until_nobody_names(store.dir.path());
        assert_eq!(reopen().list().unwrap(), []);
        assert_eq!(store.entries(), [""; 0], "{file} {stop_at}");
    }
    let imported = store.import_disk(&disk.dir().join("image"), &DiskOptions::default());
    assert_eq!(imported.unwrap(), revision(1));
}

/// Until no program has a path below `dir` among its arguments.
fn wait_until_nobody_names(dir: &Path) {
    let path = format!("{}/", dir.display());
    for _ in 0..500 {
        let arguments = sh(dir, "cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' ' ' || true");
        if !arguments.contains(&path) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("qemu-img goes on without the program that started it");
}

#[test]
fn a_disk_for_whose_temporary_file_there_is_no_room_is_refused_with_figures() {
    if let Some((source, mounts)) = places() {
        return import_disk_without_room(&source, &mounts);
    }
    let test =
        "interrupted::a_disk_for_whose_temporary_file_there_is_no_room_is_refused_with_figures";
    let (disk, mounts) = (Disk::new(), tempfile::tempdir().unwrap());
    sh(disk.dir(), "qemu-img convert -c -f raw -O qcow2 disk image");
    let status = this_test_at(test, disk.dir(), mounts.path()).status().unwrap();
    assert!(status.success(), "{status}; why is above");
}

fn import_disk_without_room(source: &Path, mounts: &Path) {
    sh(mounts, "mkdir tmpfs; mount -t tmpfs -o size=90M none tmpfs");
    let dir = mounts.join("tmpfs");
    let images = Images::open(&dir.join("images"), sign()).unwrap();
    let options = DiskOptions::default();
    let nothing_is_left = || assert_eq!(sh(&dir, "find images -mindepth 1"), "");

    let image = images.import_file(&source.join("image"), &options, &name(), &|_| {});
    let error = with_causes(&image.unwrap_err());
    assert!(error.contains("MiB in ") && error.contains("but only 90 MiB are free"), "{error}");
    nothing_is_left();
    let mut stream = fs::File::open(source.join("disk")).unwrap();
    let streamed = images.import_stream(&mut stream, &options, &name(), &|_| {});
    let error = with_causes(&streamed.unwrap_err());
    assert!(error.contains("MiB of standard input fill the disk of "), "{error}");
    nothing_is_left();

    // Something else takes the space while it is unpacked.
    sh(&dir, "mount -o remount,size=400M .");
    let fill = |_: Progress| {
        if !dir.join("other").exists() {
            sh(&dir, "fallocate -l 340M other");
        }
    };
    let image = images.import_file(&source.join("image"), &options, &name(), &fill);
    let error = with_causes(&image.unwrap_err());
    assert!(error.contains("MiB are free") || error.contains("No space left"), "{error}");
    nothing_is_left();
}

#[test]
fn a_disk_that_fills_up_is_named_with_what_is_needed_and_nothing_is_left() {
    if let Some((source, store)) = places() {
        return import_where_disks_fill_up(&source, &store);
    }
    let test = "interrupted::a_disk_that_fills_up_is_named_with_what_is_needed_and_nothing_is_left";
    let source = Source::new("-a0", "zstd -qc", "zst", "");
    let mounts = tempfile::tempdir().unwrap();
    let status = this_test(test, &source, mounts.path()).status().unwrap();
    assert!(status.success(), "{status}; why is above");
    assert_eq!(sh(mounts.path(), "ls tmpfs ext4"), "ext4:\n\ntmpfs:\n");
}

fn import_where_disks_fill_up(source: &Path, mounts: &Path) {
    sh(
        mounts,
        "mkdir tmpfs ext4; mount -t tmpfs -o size=160M none tmpfs
         truncate -s 160M disk; mke2fs -q -t ext4 -m 0 disk; mount -o loop disk ext4; rmdir ext4/*
         rm disk",
    );
    let disk = FullDisk { source, dir: mounts.join("tmpfs") };
    // What is written last needs the last blocks.
    let needed = disk.used_by_import();
    for (missing, file) in [
        (PAGE_BYTES, "metalcast.manifest"),
        (2 * PAGE_BYTES, "B2SUMS"),
        (3 * PAGE_BYTES, "metalcast.pages"),
        (4 * PAGE_BYTES, "sda5.ext4-ptcl-img.zst"),
        (needed, "sda5.ext4-ptcl-img.zst"),
    ] {
        disk.fill_during_import(needed - missing, file);
    }
    assert_eq!(disk.used_by_import(), needed, "enough is enough");
    let disk = FullDisk { source, dir: mounts.join("ext4") };
    disk.fill_during_import(needed / 2, "sda5.ext4-ptcl-img.zst");

    // Hopeless from the start.
    disk.leave(20 * MIB + MIB / 2);
    let images = Images::open(&disk.dir.join("images"), sign()).unwrap();
    let error = with_causes(&images.import(source, &name(), &|_| panic!("begun")).unwrap_err());
    let place = format!("MiB in {}/images, but only 20 MiB are free", disk.dir.display());
    assert!(error.contains(&place), "{error}");
    assert_eq!(sh(&disk.dir, "find images -mindepth 1"), "");
}

/// A small filesystem with a store in it.
struct FullDisk<'t> {
    source: &'t Path,
    dir: PathBuf,
}

impl FullDisk<'_> {
    fn used_bytes(&self) -> u64 {
        sh(&self.dir, "df -B1 --output=used . | tail -1").trim().parse().unwrap()
    }

    /// What an import that works occupies.
    fn used_by_import(&self) -> u64 {
        let before = self.used_bytes();
        let images = Images::open(&self.dir.join("images"), sign()).unwrap();
        images.import(self.source, &name(), &|_| {}).unwrap();
        let used = self.used_bytes() - before;
        sh(&self.dir, "rm -r images");
        used
    }

    /// Has something else take all space but `left_bytes`.
    fn leave(&self, left_bytes: u64) {
        let free = "$(df -B1 --output=avail . | tail -1)";
        sh(&self.dir, &format!("fallocate -l $(({free} - {left_bytes})) other"));
    }

    /// Imports while something else takes all space but `left_bytes` for the whole of the import.
    fn fill_during_import(&self, left_bytes: u64, failing_file: &str) {
        let before = self.used_bytes();
        let images = Images::open(&self.dir.join("images"), sign()).unwrap();
        // Once, when the import has begun: it would refuse to do so on a full disk.
        let fill = |_: Progress| {
            if !self.dir.join("other").exists() {
                self.leave(left_bytes.saturating_sub(self.used_bytes() - before));
            }
        };
        let error = images.import(self.source, &name(), &fill).expect_err(failing_file);
        let error = with_causes(&error);
        for part in [
            &format!("/{failing_file} cannot be written at byte "),
            ": the whole import needs about ",
            " bytes; remove images",
            "No space left on device",
        ] {
            assert!(error.contains(part), "{failing_file}: {part:?} is not in {error}");
        }
        assert_eq!(images.list().unwrap(), []);
        assert_eq!(sh(&self.dir, "find images -mindepth 1; rm other"), "", "{failing_file}");
        fs::remove_dir(self.dir.join("images")).unwrap();
    }
}
