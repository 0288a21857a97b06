//! The real Clonezilla in batch, on loop disks: it saves a disk and single partitions, the store
//! imports that, and it restores what the store made of it.

use crate::{Store, name, source::sh, with_causes};
use metalcast_shared::id::Revision;
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

/// Options for the compressions that nothing else here uses.
const XZ: &str = "-z5";
const LZ4: &str = "-z8";

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
         unshare --mount --propagation slave ocs-sr -nogui -batch -p true {arguments} < /dev/null > ocs.log 2>&1 ||
             {{ tail -n 30 ocs.log >&2; exit 1; }}",
        bin.display()
    );
    sh(dir, &script);
}

/// Names, types, modes, sizes and contents of all files of a filesystem.
fn files(dir: &Path, device: &str) -> String {
    let script = format!(
        "mkdir -p mnt; unshare --mount --propagation slave sh -ec 'mount -o ro {device} mnt; cd mnt;
         find . -printf \"%p %y %m %s %l\\n\" | sort;
         find . -type f -print0 | sort -z | xargs -0 sha256sum'"
    );
    sh(dir, &script)
}

/// A disk with a FAT, an ext4 and swap in slots of an MBR table; `fat` holds the FAT's content.
fn saved_disk(dir: &Path) -> LoopDisk {
    sh(
        dir,
        "truncate -s 200M first; mkdir repository content
         printf 'label: dos\\nstart=2048,size=16M,type=b\\ntype=5,start=36864\\n' > table
         printf 'start=40960,size=64M,type=83\\nstart=174080,size=16M,type=82\\n' >> table
         sfdisk -q first < table
         cp -r /usr/share/perl5/Debconf content/tree; head -c 12M /dev/urandom > content/random",
    );
    let disk = LoopDisk::attach(&dir.join("first"));
    sh(
        dir,
        &format!(
            "partx -d {0} 2>/dev/null || true; partx -a {0}
             mkfs.vfat -F 16 {0}p1; mke2fs -q -t ext4 -d content {0}p5; mkswap -L exchange {0}p6
             cp {0}p1 fat",
            disk.0
        ),
    );
    disk
}

/// Has Clonezilla save into `repository` with this compression, and imports that.
fn save_and_import(dir: &Path, store: &Store, compression: &str, what: &str) -> Revision {
    let repository = dir.join("repository");
    let save = format!("-q2 -j2 {compression} -i 4 -gm -gb");
    ocs_sr(dir, &format!("-or {} {save} {what}", repository.display()));
    store
        .import(&repository.join("saved"))
        .unwrap_or_else(|error| panic!("{}", with_causes(&error)))
}

/// Has Clonezilla restore from the store, after its own check of our checksums; its log.
fn restore(dir: &Path, store: &Store, options_and_what: &str) -> String {
    let image_dir = store.dir.path().join(format!("{}/{}", name().project(), name().name()));
    let options = "-cb -j2 -t -iui -irhr -ius";
    ocs_sr(dir, &format!("-or {} {options} {options_and_what}", image_dir.display()));
    let log = fs::read_to_string(dir.join("ocs.log")).unwrap();
    assert!(log.contains("Checking B2SUMS for image"), "the checksums were not checked: {log}");
    log
}

#[test]
fn clonezilla_saves_a_disk_we_import_it_and_clonezilla_restores_it() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let first = saved_disk(dir);
    sh(dir, "truncate -s 200M second");
    let second = LoopDisk::attach(&dir.join("second"));
    let copy = format!("{}p5", second.0);
    let saved = files(dir, &format!("{}p5", first.0));
    assert!(saved.contains("./random"));

    let store = Store::new();
    let disk = save_and_import(dir, &store, LZ4, &format!("savedisk saved {}", first.short()));
    let (manifest, _) = store.images.manifest(&disk).unwrap();
    let partitions: Vec<_> =
        manifest.partitions.iter().map(|one| one.filesystem.as_str()).collect();
    assert_eq!(partitions, ["vfat", "ext4"]);
    assert!(manifest.provenance.contains(", saved 2"), "{}", manifest.provenance);
    let left_out = format!("; left out: {0}p2 (extended), {0}p6 (swap)", first.short());
    assert!(manifest.provenance.ends_with(&left_out), "{}", manifest.provenance);
    let stored = store.path(&disk);
    for file in ["mbr", "hidden-data-after-mbr", "chs.sf", "pt.sf", "pt.parted"] {
        assert!(stored.join(format!("{}-{file}", first.short())).exists(), "{file} is not copied");
    }

    // Onto a disk of another name.
    let log = restore(dir, &store, &format!("-k0 restoredisk {} {}", disk.number, second.short()));
    assert_eq!(files(dir, &copy), saved, "{log}");
    // Not every kernel mounts vfat, and on this one there is nothing but what partclone restores.
    sh(dir, &format!("cmp fat {}p1", second.0));
    let label = sh(dir, &format!("blkid -p -o value -s LABEL {}p6", second.0));
    assert_eq!(label.trim(), "exchange");

    // One partition of the disk's image, onto a partition of another name.
    wipe(dir, &copy);
    let one =
        format!("-k -f {0}p5 restoreparts {1} {2}p5", first.short(), disk.number, second.short());
    let log = restore(dir, &store, &one);
    assert_eq!(files(dir, &copy), saved, "{log}");
}

#[test]
fn clonezilla_saves_partitions_we_import_them_and_clonezilla_restores_them() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let disk = saved_disk(dir);
    let (fat, data) = (format!("{}p1", disk.0), format!("{}p5", disk.0));
    let saved = files(dir, &data);
    let both = format!("{0}p1 {0}p5", disk.short());

    let store = Store::new();
    let parts = save_and_import(dir, &store, XZ, &format!("saveparts saved '{both}'"));
    assert!(!store.path(&parts).join("disk").exists(), "saveparts names a disk");
    let (manifest, _) = store.images.manifest(&parts).unwrap();
    let names: Vec<_> = manifest.partitions.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names.join(" "), both);

    wipe(dir, &fat);
    wipe(dir, &data);
    let log = restore(dir, &store, &format!("-k restoreparts {} '{both}'", parts.number));
    assert_eq!(files(dir, &data), saved, "{log}");
    sh(dir, &format!("cmp fat {fat}"));
}

/// Overwrites a partition with zeros.
fn wipe(dir: &Path, partition: &str) {
    let kind = format!("blkid -p -o value -s TYPE {partition}");
    sh(dir, &format!("blkdiscard -f -z {partition}; test -z \"$({kind})\""));
}
