//! The real Clonezilla in batch, on loop disks: it saves a disk, the store imports that, and it
//! restores what the store made of it onto another disk.

use crate::{Store, name, source::sh, with_causes};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// Programs that stand before the real ones in PATH: kernels without a reader of partition tables
/// learn the partitions from partx.
const BLOCKDEV: &str = r#"#!/bin/sh
if [ "$1" = --rereadpt ]; then partx -d "$2" 2>/dev/null; exec partx -a "$2"; fi
exec /sbin/blockdev "$@"
"#;
const SFDISK: &str = r#"#!/bin/sh
/sbin/sfdisk "$@"; status=$?
for word in "$@"; do
    case $word in
        -d|--dump|-l|--list|-s|-g|-v|-V|--verify|--version) exit $status;;
    esac
done
for word in "$@"; do
    case $word in /dev/loop*) partx -d "$word"; partx -a "$word";; esac
done 2>/dev/null
exit $status
"#;

/// A disk file as a loop device with partitions; detached when dropped.
struct LoopDisk(String);

impl LoopDisk {
    fn attach(file: &Path) -> Self {
        let parent = file.parent().expect("the file is in a directory");
        let device = sh(parent, &format!("losetup -P -f --show {}", file.display()));
        Self(device.trim().to_owned())
    }

    fn short(&self) -> &str {
        self.0.trim_start_matches("/dev/")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let script = format!("partx -d {0} || true; losetup -d {0}", self.0);
        let done = std::process::Command::new("sh").args(["-c", &script]).status();
        assert!(std::thread::panicking() || done.is_ok_and(|status| status.success()));
    }
}

/// Runs ocs-sr in a mount namespace of its own, where it may mount what it likes.
fn ocs_sr(dir: &Path, arguments: &str) {
    let bin = dir.join("bin");
    if !bin.exists() {
        fs::create_dir(&bin).unwrap();
        for (program, text) in [("blockdev", BLOCKDEV), ("sfdisk", SFDISK)] {
            fs::write(bin.join(program), text).unwrap();
            fs::set_permissions(bin.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let script = format!(
        "export PATH={}:/usr/sbin:/sbin:$PATH TERM=linux DEBIAN_FRONTEND=noninteractive
         unshare -m ocs-sr -nogui -batch -p true {arguments} < /dev/null > ocs.log 2>&1 ||
             {{ tail -n 30 ocs.log >&2; exit 1; }}",
        bin.display()
    );
    sh(dir, &script);
}

/// Names, types, modes, sizes and contents of all files of a filesystem.
fn files(dir: &Path, device: &str) -> String {
    let script = format!(
        "mkdir -p mnt; unshare -m sh -ec 'mount -o ro {device} mnt; cd mnt;
         find . -printf \"%p %y %m %s %l\\n\" | sort;
         find . -type f -print0 | sort -z | xargs -0 sha256sum'"
    );
    sh(dir, &script)
}

#[test]
fn clonezilla_saves_we_import_and_clonezilla_restores() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    sh(
        dir,
        "truncate -s 200M first; truncate -s 200M second; mkdir repository content
         printf 'label: dos\\nstart=2048,size=16M,type=b\\ntype=5,start=36864\\n' > table
         printf 'start=40960,size=64M,type=83\\nstart=174080,size=16M,type=82\\n' >> table
         sfdisk -q first < table
         cp -r /usr/share/perl5/Debconf content/tree; head -c 12M /dev/urandom > content/random",
    );
    let (first, second) =
        (LoopDisk::attach(&dir.join("first")), LoopDisk::attach(&dir.join("second")));
    sh(
        dir,
        &format!(
            "partx -d {0} 2>/dev/null || true; partx -a {0}
             mkfs.vfat -F 16 {0}p1; mke2fs -q -t ext4 -d content {0}p5; mkswap -L exchange {0}p6",
            first.0
        ),
    );
    let repository = dir.join("repository");
    let save = "-q2 -j2 -z1p -i 4 -gm -gb";
    ocs_sr(dir, &format!("-or {} {save} savedisk saved {}", repository.display(), first.short()));

    let store = Store::new();
    let revision = store
        .import(&repository.join("saved"))
        .unwrap_or_else(|error| panic!("{}", with_causes(&error)));
    let (manifest, _) = store.images.manifest(&revision).unwrap();
    let partitions: Vec<_> =
        manifest.partitions.iter().map(|one| one.filesystem.as_str()).collect();
    assert_eq!(partitions, ["vfat", "ext4"]);
    assert!(manifest.provenance.contains(", saved 2"), "{}", manifest.provenance);
    let stored = store.path(&revision);
    for file in ["mbr", "hidden-data-after-mbr", "chs.sf", "pt.sf", "pt.parted"] {
        assert!(stored.join(format!("{}-{file}", first.short())).exists(), "{file} is not copied");
    }

    // Its own check of our checksums, then the restore, onto a disk of another name.
    let image_dir = store.dir.path().join(format!("{}/{}", name().project(), name().name()));
    ocs_sr(
        dir,
        &format!(
            "-or {} -cb -k0 -j2 -t -iui -irhr -ius restoredisk {} {}",
            image_dir.display(),
            revision.number,
            second.short()
        ),
    );
    let log = fs::read_to_string(dir.join("ocs.log")).unwrap();
    assert!(log.contains("Checking B2SUMS for image"), "the checksums were not checked: {log}");
    assert_eq!(
        files(dir, &format!("{}p5", first.0)),
        files(dir, &format!("{}p5", second.0)),
        "{log}"
    );
    // Not every kernel mounts vfat, and on this one there is nothing but what partclone restores.
    sh(dir, &format!("cmp {}p1 {}p1", first.0, second.0));
    assert!(files(dir, &format!("{}p5", second.0)).contains("./random"));
    let label = sh(dir, &format!("blkid -p -o value -s LABEL {}p6", second.0));
    assert_eq!(label.trim(), "exchange");
}
