//! A slot's files as a tar archive: GNU tar and we restore what was there.

use super::{
    archive::{self, FULL, LIST, check_same, python, with_slot},
    capture::{TestStore, capture, facts, order},
    rig::{Rig, TestImage, TestSource, tool},
};
use crate::task::Fault;
use metalcast_formats::chunk;
use metalcast_shared::{fresh::FreshKind, to_agent::Capture};
use std::{path::Path, process::Command, sync::Arc};

/// Room for what mkfs.xfs makes at least.
const NEEDED_MIB: u64 = 330;

/// What a system has that no archive made by GNU tar brought into it.
const MORE: &str = r#"
import os, socket, struct, sys
os.chdir(sys.argv[1])
socket.socket(socket.AF_UNIX).bind('x/socket')
deep = 'x/' + '/'.join(['d' * 100] * 3)
os.makedirs(deep); open(deep + '/' + 'f' * 255, 'w').write('deep')
os.symlink('t' * 300, 'x/long-target'); os.link(deep + '/' + 'f' * 255, 'x/long-hard')
open('x/percent', 'w').write('p'); os.setxattr('x/percent', 'user.a%3D=b', b'odd'); os.setxattr('x/percent', 'trusted.big', b'b' * 300)
os.utime('x/percent', ns=(0, -1500000000)); os.chown('x/percent', 4000000000, 3000000)
with open('x/sparse-many', 'wb') as f:
    for at in range(0, 9000): f.seek(at * 8192); f.write(b'x')
    f.truncate(9000 * 16384)
with open('swapfile', 'wb') as f:
    f.write(b'\0' * 4086 + b'SWAPSPACE2' + b's' * (1 << 20))
os.chmod('swapfile', 0o600)
"#;

/// A slot with a system of all kinds of files in it.
fn filled(kind: FreshKind, driver: &str) -> Rig {
    let (_, archive) = archive::system(&FULL);
    let rig = archive::rig(&archive);
    rig.run(&archive::order(&rig, kind), &TestSource::new(rig.image.clone()), |_| {}).expect();
    let dir = tempfile::tempdir().unwrap();
    tool(Command::new("mount").args(["-t", driver]).arg(rig.node(5)).arg(dir.path()));
    python(MORE, dir.path());
    tool(Command::new("umount").arg(dir.path()));
    rig
}

fn tar_order(rig: &Rig) -> Capture {
    Capture { tar: true, name: "system".into(), ..order(rig, 5) }
}

/// The archive that came, all of it and once.
fn received(store: &TestStore) -> Vec<u8> {
    let state = store.state();
    let [surveyed] = &state.survey.partitions[..] else { panic!("{:?}", state.survey) };
    let partition = facts(surveyed);
    let open = |(chunk, frame): &(_, Vec<u8>)| chunk::open(frame, chunk, &partition).unwrap();
    let numbers = state.chunks.iter().map(|(chunk, _)| chunk.index);
    assert!(numbers.eq(0..state.chunks.len() as u32));
    state.chunks.iter().flat_map(open).collect()
}

fn extract(archive: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("archive.tar");
    std::fs::write(&file, archive).unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-f"]);
    tool(tar.arg(&file).arg("-C").arg(&root));
    dir
}

fn list(root: &Path) -> Vec<String> {
    // Whether XFS keeps what it had preallocated is its own business.
    let line = |line: &str| line.replace(", 'full']", "]").replace(", 'holes']", "]");
    python(LIST, root).lines().map(line).collect()
}

fn check(kind: FreshKind, driver: &str) {
    let rig = filled(kind, driver);
    let store = TestStore { breaks_after: Some(40), ..TestStore::default() };
    let outcome = capture(&rig, &tar_order(&rig), &store).expect();
    assert!(store.state().begun > 1, "the connection never broke");
    let archive = received(&store);

    // By GNU tar.
    with_slot(&rig, driver, |root| {
        let extracted = extract(&archive);
        let (ours, theirs) = (list(root), list(&extracted.path().join("root")));
        let wrong: Vec<_> = ours
            .iter()
            .filter(|line| !theirs.contains(line))
            .filter(|line| !line.contains("socket") && !line.contains("swapfile"))
            .collect();
        assert!(wrong.is_empty() && theirs.len() + 1 == ours.len(), "{wrong:#?}");
        let swap = std::fs::read(extracted.path().join("root/swapfile")).unwrap();
        let held = std::fs::read(root.join("swapfile")).unwrap();
        assert!(swap[..65536] == held[..65536] && swap.len() == held.len());
        assert!(swap[65536..].iter().all(|byte| *byte == 0));
    });
    let notes = outcome.notes().join("\n");
    assert!(notes.contains("left out: 1 sockets (/x/socket ...)"), "{notes}");
    assert!(notes.contains("capture: saved as lab/saved@3: a tar archive of "), "{notes}");

    // By ourselves.
    let extracted = extract(&archive);
    let again = Rig::new(Arc::new(TestImage::archive(&archive, NEEDED_MIB)));
    let source = TestSource::new(again.image.clone());
    again.run(&archive::order(&again, FreshKind::Ext4), &source, |_| {}).expect();
    check_same(&again, "ext4", &extracted.path().join("root"));
}

#[test]
fn files_of_ext4_become_an_archive_that_gnu_tar_and_we_restore() {
    check(FreshKind::Ext4, "ext4");
}

#[test]
fn files_of_xfs_become_an_archive_that_gnu_tar_and_we_restore() {
    check(FreshKind::Xfs, "xfs");
}

#[test]
fn files_of_btrfs_become_an_archive_that_gnu_tar_and_we_restore() {
    check(FreshKind::Btrfs, "btrfs");
}

#[test]
fn what_was_not_unmounted_properly_is_saved_only_if_forced_and_is_not_changed() {
    let rig = filled(FreshKind::Ext4, "ext4");
    tool(Command::new("debugfs").args(["-w", "-R", "ssv state 0"]).arg(rig.node(5)));
    tool(Command::new("blockdev").arg("--flushbufs").arg(rig.node(5)));
    let store = TestStore::default();
    let cause = capture(&rig, &tar_order(&rig), &store).cause();
    assert!(cause.starts_with("survey: sda5: ") || cause.contains("--force"), "{cause}");
    assert_eq!(store.state().begun, 0);
    let forced = Capture { force: true, ..tar_order(&rig) };
    let outcome = capture(&rig, &forced, &store).expect();
    let notes = outcome.notes().join("\n");
    assert!(notes.contains("as they can be found without its journal"), "{notes}");
    assert!(!received(&store).is_empty());
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_nothing_is_saved() {
    let rig = filled(FreshKind::Ext4, "ext4");
    // A directory entry whose inode is nothing.
    tool(Command::new("debugfs").args(["-w", "-R", "clri x/ping"]).arg(rig.node(5)));
    tool(Command::new("blockdev").arg("--flushbufs").arg(rig.node(5)));
    let outcome = capture(&rig, &tar_order(&rig), &TestStore::default());
    assert!(outcome.cause().contains("/x/ping"), "{}", outcome.cause());
    let fault = Fault::Refused { reason: "the disk is full".into(), may_retry: false };
    let store = TestStore { refuses: Some((2, fault)), ..TestStore::default() };
    let cause = capture(&filled(FreshKind::Ext4, "ext4"), &tar_order(&rig), &store).cause();
    assert!(cause.ends_with("the disk is full"), "{cause}");
}
