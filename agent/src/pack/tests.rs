//! A tree that changes while it is packed, at places that are known.

use super::{Live, Stream};
use crate::disk::Tree;
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{FileExt, symlink},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Larger than what is read before it changes.
const BYTES: usize = 1 << 20;

/// Behind the headers of the root and of one file: it is open, and its first bytes are read.
const BEGUN: usize = 64 << 10;

/// Within one tick of the kernel's clock two times of a file are the same.
const CLOCK_TICK: Duration = Duration::from_millis(30);

fn live(dir: &Path) -> Stream {
    let live = Live { swap_files: vec![b"home/swap".to_vec()] };
    Stream::live(vec![(Vec::new(), Tree::open(dir).unwrap())], live)
}

fn rest(stream: &mut Stream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let piece = stream.read(1 << 16).unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend(piece);
    }
}

/// What GNU tar makes of it; it has no complaint.
fn extract(archive: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar")
        .args(["-x", "-C"])
        .arg(dir.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin.take().unwrap().write_all(archive).unwrap();
    let output = tar.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    dir
}

/// Packs one file that is changed when a part of it has been read; what came of it, and what was said.
fn changed(change: impl Fn(&File)) -> (Vec<u8>, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, [7; BYTES]).unwrap();
    let mut stream = live(dir.path());
    let mut archive = stream.read(BEGUN).unwrap();
    std::thread::sleep(CLOCK_TICK);
    change(&OpenOptions::new().write(true).open(&path).unwrap());
    archive.extend(rest(&mut stream));
    let out = extract(&archive);
    (fs::read(out.path().join("log")).unwrap(), stream.unsteady().to_string())
}

#[test]
fn a_file_that_becomes_shorter_ends_in_zeros_and_is_named() {
    let (read, said) = changed(|file| file.set_len(300_000).unwrap());
    assert_eq!(read.len(), BYTES);
    assert!(read[..300_000].iter().all(|byte| *byte == 7));
    assert!(read[300_000..].iter().all(|byte| *byte == 0));
    let expected = "/log became shorter: it is zeros from byte 300000 on";
    assert_eq!(said, format!("1 file changed while being read: {expected}"));
    // Also if nobody could see that afterwards.
    let (read, said) = changed(|file| {
        file.set_len(300_000).unwrap();
        file.set_len(BYTES as u64 + 5).unwrap();
    });
    assert_eq!(read.len(), BYTES);
    assert!(said.ends_with("/log grew: it is cut at 1048576 bytes"), "{said}");
}

#[test]
fn a_file_that_grows_or_is_written_to_keeps_its_size_and_is_named() {
    let (read, said) = changed(|file| file.write_all_at(&[8; 10], BYTES as u64).unwrap());
    assert_eq!(read, [7; BYTES]);
    assert!(said.ends_with("/log grew: it is cut at 1048576 bytes"), "{said}");
    let (read, said) = changed(|file| file.write_all_at(&[8], BYTES as u64 - 1).unwrap());
    assert_eq!(read[BYTES - 1], 8);
    assert!(said.ends_with("/log was changed: parts may be old, others new"), "{said}");
    let (read, said) = changed(|_| {});
    assert_eq!((read, said), (vec![7; BYTES], String::new()));
}

#[test]
fn what_vanishes_is_left_out_and_named() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("in"), name).unwrap();
    }
    let mut stream = live(dir.path());
    // The root is listed, and nothing in it was looked at.
    let mut archive = stream.read(512).unwrap();
    fs::remove_dir_all(dir.path().join("a")).unwrap();
    fs::remove_dir_all(dir.path().join("b")).unwrap();
    symlink("c", dir.path().join("b")).unwrap();
    archive.extend(rest(&mut stream));
    let out = extract(&archive);
    assert!(!out.path().join("a").exists());
    assert!(out.path().join("b").is_symlink());
    assert_eq!(fs::read(out.path().join("c/in")).unwrap(), b"c");
    let said = stream.unsteady().to_string();
    assert_eq!(said, "1 file changed while being read: /a vanished: it is left out");
}

#[test]
fn the_first_are_named_and_all_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..50 {
        fs::write(dir.path().join(format!("{number}")), "x").unwrap();
    }
    let mut stream = live(dir.path());
    let mut archive = stream.read(512).unwrap();
    for number in 0..50 {
        fs::remove_file(dir.path().join(format!("{number}"))).unwrap();
    }
    archive.extend(rest(&mut stream));
    extract(&archive);
    assert_eq!(stream.unsteady().first.len(), 20);
    let said = stream.unsteady().to_string();
    assert!(said.starts_with("50 files changed") && said.ends_with("; and 30 more"), "{said}");
}

#[test]
fn without_a_running_system_a_change_ends_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log"), [7; BYTES]).unwrap();
    let mut stream = Stream::open(dir.path()).unwrap();
    stream.read(BEGUN).unwrap();
    let file = OpenOptions::new().write(true).open(dir.path().join("log")).unwrap();
    file.set_len(10).unwrap();
    let error = format!("{:#}", stream.read(BYTES).unwrap_err());
    assert_eq!(error, "/log: it became shorter while it was read");
}

#[test]
fn filesystems_become_one_tree_and_what_passes_is_counted() {
    let (root, boot) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |path: &str| root.path().join(path);
    for dir in ["boot", "tmp/deep", "var/tmp", "run", "home", "lost+found", "etc/lost+found"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    for file in ["boot/covered", "tmp/deep/a", "var/tmp/b", "run/c", "lost+found/d"] {
        fs::write(at(file), "0123456789").unwrap();
    }
    fs::write(at("etc/lost+found/kept"), "k").unwrap();
    fs::write(boot.path().join("vmlinuz"), "kernel").unwrap();
    let mut swap = vec![0; 4086];
    swap.extend_from_slice(b"SWAPSPACE2");
    swap.resize(200_000, b's');
    fs::write(at("home/swap"), &swap).unwrap();
    let trees = [(&b""[..], root.path()), (b"boot", boot.path())];
    let trees = trees.map(|(path, dir)| (path.to_vec(), Tree::open(dir).unwrap()));
    let swap_files = vec![b"home/swap".to_vec()];
    let mut stream = Stream::live(trees.into(), Live { swap_files });
    let archive = rest(&mut stream);
    let out = extract(&archive);
    assert_eq!(fs::read(out.path().join("boot/vmlinuz")).unwrap(), b"kernel");
    for gone in ["boot/covered", "tmp/deep", "var/tmp/b", "run/c", "lost+found/d"] {
        assert!(!out.path().join(gone).exists(), "{gone}");
    }
    assert!(out.path().join("tmp").is_dir() && out.path().join("etc/lost+found/kept").exists());
    let mut read = Vec::new();
    File::open(out.path().join("home/swap")).unwrap().read_to_end(&mut read).unwrap();
    assert!(read.len() == swap.len() && read[..65536] == swap[..65536]);
    assert!(read[65536..].iter().all(|byte| *byte == 0));
    let left = stream.left_out();
    assert_eq!((left.passing.count, left.passing_bytes), (5, 40), "{left}");
    assert!(left.to_string().contains("5 names with 1 MiB in passing directories"), "{left}");
}

/// A writer that never rests: whatever it does, the archive is one, and nothing is missing from it.
#[test]
fn a_racing_writer_never_breaks_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..40 {
        fs::write(dir.path().join(format!("steady{number}")), vec![number; 9000]).unwrap();
    }
    let stop = AtomicBool::new(false);
    let race = || {
        for round in 0..100_000_u64 {
            let path = dir.path().join(format!("racing{}", round % 16));
            match round % 4 {
                0 => drop(fs::write(&path, vec![1; (round * 7919 % 300_000) as usize])),
                1 => drop(fs::remove_file(&path)),
                2 => drop(File::create(&path).and_then(|file| file.set_len(round * 31 % 90_000))),
                _ => {
                    drop(fs::rename(&path, dir.path().join(format!("racing{}", (round + 5) % 16))));
                }
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(race);
        for _ in 0..20 {
            let mut stream = live(dir.path());
            let out = extract(&rest(&mut stream));
            for number in 0..40 {
                let read = fs::read(out.path().join(format!("steady{number}"))).unwrap();
                assert_eq!(read, vec![number; 9000]);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
