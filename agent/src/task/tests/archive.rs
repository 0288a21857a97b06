//! tar archives in slots: every member is what GNU tar had of it, in filesystems of several kinds.

use super::rig::{Rig, TestImage, TestSource, blkid, ordinary_tree, tool};
use metalcast_shared::{
    event::{Step, TaskEvent},
    fresh::{Fresh, FreshKind},
    to_agent::{Deploy, Overwrite},
};
use metalcast_sys::mount::{Mount, MsFlags};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// The least that mkfs.xfs makes.
const NEEDED_MIB: u64 = 330;

/// What a tree is made of, one line each: only what fix-ups change is left out.
pub(super) const LIST: &str = r#"
import hashlib, os, stat, sys
lines = []
root = os.fsencode(sys.argv[1])
skip = {b'etc/fstab', b'etc/hostname', b'etc/hosts', b'etc/machine-id', b'etc/metalcast', b'lost+found',
        b'boot/grub/grub.cfg', b'etc/ssh/ssh_host_rsa_key', b'etc/systemd', b'etc/ssh', b'etc', b'boot/grub', b'boot'}
def tell(path):
    full = os.path.join(root, path)
    s = os.lstat(full)
    kind = stat.S_IFMT(s.st_mode)
    xattrs = {n: os.getxattr(full, n, follow_symlinks=False).hex() for n in os.listxattr(full, follow_symlinks=False) if 'SGI_ACL' not in n}
    line = [path, oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns, sorted(xattrs.items())]
    if not stat.S_ISDIR(s.st_mode): line += [s.st_nlink]
    if kind == stat.S_IFREG:
        line += [s.st_size, hashlib.sha256(open(full, 'rb').read()).hexdigest()]
        if b'sparse' in path: line += ['holes' if s.st_blocks * 512 < s.st_size // 2 else 'full']
    if kind == stat.S_IFLNK: line += [os.readlink(full)]
    if kind in (stat.S_IFCHR, stat.S_IFBLK): line += [s.st_rdev]
    lines.append(str(line))
for here, dirs, files in os.walk(root):
    dirs.sort()
    for name in sorted(dirs + files) + [b'.'] * (here == root):
        path = os.path.relpath(os.path.join(here, name), root)
        if path not in skip and not path.startswith((b'etc/metalcast', b'etc/systemd', b'etc/ssh', b'.metalcast')): tell(path)
print('\n'.join(sorted(lines)))
"#;

/// What GNU tar can save, beyond what every system has.
const SPECIAL: &str = r#"
import os, struct, sys
os.chdir(sys.argv[1])
os.mkdir('x'); os.chmod('x', 0o1777)
for name, mode in (('suid', 0o4755), ('sgid', 0o2750), ('none', 0)):
    open('x/' + name, 'w').write(name); os.chown('x/' + name, 1234, 70000); os.chmod('x/' + name, mode)
os.link('x/none', 'x/0-hard'); os.link('x/none', 'zz-hard')
os.symlink('../../outside', 'x/link'); os.lchown('x/link', 5, 6)
os.mkfifo('x/fifo', 0o640)
os.mknod('x/null', 0o20666, os.makedev(1, 3)); os.mknod('x/disk', 0o60660, os.makedev(259, 70000))
os.setxattr('x/none', 'user.colour', b'red\0\n='); os.setxattr('x', 'trusted.t', b'dir')
open('x/ping', 'w').write('ping')
os.setxattr('x/ping', 'security.capability', struct.pack('<IIIII', 0x02000001, 1 << 13, 0, 0, 0))
acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in
    ((1, 7, 0xffffffff), (2, 5, 54321), (4, 5, 0xffffffff), (16, 7, 0xffffffff), (32, 0, 0xffffffff)))
open('x/acl', 'w').write('a'); os.setxattr('x/acl', 'system.posix_acl_access', acl)
os.mkdir('x/acls'); os.setxattr('x/acls', 'system.posix_acl_default', acl)
with open('x/sparse', 'wb') as f:
    for at in range(0, 300 << 20, 7 << 20): f.seek(at); f.write(os.urandom(100000))
    f.truncate(333333333)
with open('x/sparse-empty', 'wb') as f: f.truncate(50 << 20)
open('x/' + 'n' * 200, 'w').write('long'); open(b'x/\xff\n', 'w').write('odd')
for d in ('d1', 'd1/d2', 'd1/d2/d3'): os.mkdir('x/' + d)
os.chmod('x/d1/d2', 0o500)
for n, path in enumerate(('x/suid', 'x/link', 'x/fifo', 'x/d1/d2/d3', 'x/d1/d2', 'x/d1', 'x', '.')):
    os.utime(path, ns=(10**18 + n, 1234567890123456789 - n), follow_symlinks=False)
"#;

pub(super) fn python(script: &str, dir: &Path) -> String {
    tool(Command::new("python3").args(["-c", script]).arg(dir))
}

/// A system, and an archive of it.
pub(super) fn system(options: &[&str]) -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    ordinary_tree(dir.path());
    std::fs::rename(dir.path().join("boot/vmlinuz"), dir.path().join("boot/vmlinuz-6.1.0-9"))
        .unwrap();
    std::fs::write(dir.path().join("boot/initrd.img-6.1.0-9"), "initrd").unwrap();
    python(SPECIAL, dir.path());
    let archive = tar(dir.path(), options);
    (dir, archive)
}

fn tar(dir: &Path, options: &[&str]) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.args(["-c", "--numeric-owner"]).args(options).arg("-C").arg(dir).arg(".");
    let done = tar.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

pub(super) fn rig(archive: &[u8]) -> Rig {
    Rig::new(Arc::new(TestImage::archive(archive, NEEDED_MIB)))
}

pub(super) fn order(rig: &Rig, kind: FreshKind) -> Deploy {
    let label = Some("fresh".parse().unwrap());
    Deploy { fresh: Some(Fresh { kind, label }), ..rig.order(5, Overwrite::BlankOnly) }
}

pub(super) fn with_slot<T>(rig: &Rig, driver: &str, look: impl FnOnce(&Path) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let flags = MsFlags::MS_RDONLY;
    let mount = Mount::new(&rig.node(5), dir.path(), driver, flags, None).unwrap();
    let found = look(dir.path());
    mount.close().unwrap();
    found
}

pub(super) fn file(root: &Path, name: &str) -> String {
    std::fs::read_to_string(root.join(name)).unwrap()
}

pub(super) fn check_same(rig: &Rig, driver: &str, source: &Path) {
    let list = PathBuf::from(source);
    let (ours, theirs) = (with_slot(rig, driver, |root| python(LIST, root)), python(LIST, &list));
    let differ: Vec<_> = theirs.lines().zip(ours.lines()).filter(|(a, b)| a != b).collect();
    assert!(
        differ.is_empty() && theirs.lines().count() == ours.lines().count(),
        "{differ:#?}\n{ours}"
    );
    assert!(theirs.lines().count() > 30, "{theirs}");
}

pub(super) const FULL: [&str; 5] =
    ["--format=pax", "--xattrs", "--xattrs-include=*", "--acls", "--sparse"];

#[test]
fn every_member_is_what_it_was_and_the_slot_starts_by_a_menu_of_ours() {
    let (dir, _) = system(&[]);
    std::fs::remove_file(dir.path().join("boot/grub/grub.cfg")).unwrap();
    let rig = rig(&tar(dir.path(), &FULL));
    let mut wrong = order(&rig, FreshKind::Ext4);
    wrong.fresh = None;
    let source = TestSource::new(rig.image.clone());
    let outcome = rig.run(&wrong, &source, |_| {});
    assert!(outcome.cause().contains("goes into a new filesystem"), "{}", outcome.cause());

    let cleared = |(event, _): (&TaskEvent, &crate::task::Cancel)| {
        if matches!(
            event,
            TaskEvent::StepDone { step: Step::Transfer | Step::Verify | Step::FixUp, .. }
        ) {
            assert!(!rig.is_startable(5), "no boot sector yet");
        }
    };
    let outcome = rig.run(&order(&rig, FreshKind::Ext4), &source, cleared).expect();
    assert!(rig.is_startable(5));
    assert_eq!(blkid(&rig.node(5), "LABEL"), "fresh");
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
    check_same(&rig, "ext4", dir.path());
    let uuid = blkid(&rig.node(5), "UUID");
    with_slot(&rig, "ext4", |root| {
        let menu = file(root, "boot/grub/grub.cfg");
        let line = format!("linux /boot/vmlinuz-6.1.0-9 root=UUID={uuid} rw resume=");
        assert!(menu.contains(&line) && menu.contains("initrd /boot/initrd.img-6.1.0-9"), "{menu}");
        assert_eq!(file(root, "etc/hostname"), "node5\n");
        assert!(
            file(root, "etc/fstab").starts_with(&format!("UUID={uuid} / ext4 errors=remount-ro"))
        );
        assert!(!root.join(".metalcast-unpacking").exists());
    });
    let notes = outcome.notes().join("\n");
    assert!(notes.contains("one was made for vmlinuz-6.1.0-9"), "{notes}");
    assert!(notes.contains("read back as they were sent"), "{notes}");
}

#[test]
fn other_filesystems_and_formats_hold_the_same() {
    for (kind, driver, options) in [
        (
            FreshKind::Xfs,
            "xfs",
            &[
                "--format=pax",
                "--xattrs",
                "--xattrs-include=*",
                "--acls",
                "--sparse",
                "--sparse-version=0.1",
            ][..],
        ),
        (FreshKind::Btrfs, "btrfs", &FULL),
    ] {
        let (dir, archive) = system(options);
        let rig = rig(&archive);
        rig.run(&order(&rig, kind), &TestSource::new(rig.image.clone()), |_| {}).expect();
        check_same(&rig, driver, dir.path());
        with_slot(&rig, driver, |root| {
            let fstab = file(root, "etc/fstab");
            assert!(fstab.contains(&format!(" / {driver} defaults 0 1")), "{fstab}");
            let menu = file(root, "boot/grub/grub.cfg");
            assert!(menu.contains("root=PARTUUID="), "the archive's own menu was adapted: {menu}");
        });
    }
}

#[test]
fn without_a_kernel_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    let rig = rig(&tar(dir.path(), &[]));
    let before = rig.whole_hash();
    let outcome =
        rig.run(&order(&rig, FreshKind::Ext4), &TestSource::new(rig.image.clone()), |_| {});
    assert!(outcome.cause().contains("neither a menu of GRUB nor a kernel"), "{}", outcome.cause());
    assert_eq!(rig.whole_hash(), before);
}

#[test]
fn a_task_that_was_stopped_makes_the_filesystem_anew() {
    let (dir, archive) = system(&["--format=gnu", "--sparse"]);
    let rig = rig(&archive);
    let source = TestSource::new(rig.image.clone());
    let stop = |(event, cancel): (&TaskEvent, &crate::task::Cancel)| {
        if matches!(event, TaskEvent::StepStarted { step: Step::Verify }) {
            cancel.cancel("the test wants to look");
        }
    };
    assert!(rig.run(&order(&rig, FreshKind::Ext2), &source, stop).cause().contains("cancelled"));
    assert!(!rig.is_startable(5));
    let again = Deploy { overwrite: Overwrite::OwnSlot, ..order(&rig, FreshKind::Ext3) };
    rig.run(&again, &source, |_| {}).expect();
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
    assert_eq!(blkid(&rig.node(5), "TYPE"), "ext3");
    with_slot(&rig, "ext4", |root| {
        assert_eq!(file(root, "x/suid"), file(dir.path(), "x/suid"));
    });
}
