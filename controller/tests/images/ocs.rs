//! The real Clonezilla in batch, on loop disks: it saves a disk and single partitions, the store
//! imports that, and it restores what the store made of it.

use crate::{Store, name, source::sh, with_causes};
use metalcast_controller::images::DiskOptions;
use metalcast_formats::whole_disk;
use metalcast_shared::id::Revision;
use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

/// Programs that stand before the real ones in PATH: kernels without a reader of partition tables
/// learn the partitions from partx.
const BLOCKDEV: &str = r#"#!/bin/sh
if [ "$1" = --rereadpt ]; then partx -d "$2" 2>/dev/null; partx -a "$2"; exec /srv/look; fi
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
/srv/look
exit $status
"#;
const PARTPROBE: &str = r#"#!/bin/sh
/sbin/partprobe "$@"; status=$?
/srv/look
exit $status
"#;

/// Shows Clonezilla the disks whose files lie in the test's directory: it asks each one that the kernel
/// lists a dozen times, and other tests' come and go. The kernel's own list is in /media.
const LOOK: &str = r#"#!/bin/sh
ours=$(losetup -n -l -O NAME,BACK-FILE | awk -v dir="$(cat /srv/dir)/" 'index($2, dir) == 1 {
    sub("/dev/", "", $1); print $1 }' | paste -sd '|')
grep -E "^major|^$| ($ours)(p[0-9]+)?$" /media/partitions > /srv/partitions
"#;

/// Options for the compressions that nothing else here uses.
const XZ: &str = "-z5";
const LZ4: &str = "-z8";
const LZO: &str = "-z3";

/// A disk file as a loop device with partitions; detached when dropped.
pub struct LoopDisk(pub String);

impl LoopDisk {
    pub fn attach(file: &Path) -> Self {
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

/// Runs ocs-sr on a repository in a mount namespace of its own, where it may mount what it likes.
fn ocs_sr(dir: &Path, repository: &Path, arguments: &str) {
    let bin = dir.join("bin");
    if !bin.exists() {
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("dir"), dir.to_str().unwrap()).unwrap();
        for (program, text) in
            [("blockdev", BLOCKDEV), ("sfdisk", SFDISK), ("partprobe", PARTPROBE), ("look", LOOK)]
        {
            fs::write(bin.join(program), text).unwrap();
            fs::set_permissions(bin.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    // It keeps caches and renamed images under fixed names in /tmp, which the repository is under too.
    let script = format!(
        "export PATH=/srv:/usr/sbin:/sbin:$PATH TERM=linux DEBIAN_FRONTEND=noninteractive
         unshare --mount --propagation slave sh -ec 'mount --bind {} /mnt; mount --bind {} /srv; mount -t tmpfs none /tmp
             mount -t proc none /media; /srv/look; mount --bind /srv/partitions /proc/partitions
             exec ocs-sr -nogui -batch -p true -or /mnt {arguments}' < /dev/null > ocs.log 2>&1 ||
             {{ tail -n 30 ocs.log >&2; exit 1; }}",
        repository.display(),
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
    ocs_sr(dir, &repository, &format!("{save} {what}"));
    store
        .import(&repository.join("saved"))
        .unwrap_or_else(|error| panic!("{}", with_causes(&error)))
}

/// Has Clonezilla restore from the store, after its own check of our checksums; its log.
fn restore(dir: &Path, store: &Store, options_and_what: &str) -> String {
    let image_dir = store.dir.path().join(format!("{}/{}", name().project(), name().name()));
    let options = "-cb -j2 -t -iui -irhr -ius";
    ocs_sr(dir, &image_dir, &format!("{options} {options_and_what}"));
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
    assert_eq!(stored_identities(dir, &store, &disk), identities(dir, &first));
    let image = store.images.whole_disk(&disk).unwrap();
    let numbers: Vec<u16> = image.partitions.iter().map(|placed| placed.number).collect();
    assert_eq!(numbers, [1, 5]);
    assert_eq!(image.whole.boot.gap, None, "there is nothing but zeros");
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

    // The same, as an sfdisk of before 2015 would have dumped the table.
    let saved_in = dir.join("repository/saved");
    sh(
        &saved_in,
        &format!(
            "rm *SUMS; printf '# partition table of /dev/{0}\\nunit: sectors\\n\\n' > old
             sed -n '/^.dev/{{s/, bootable//; s/type=\\(.\\)$/Id= \\1/; s/type=/Id=/; p}}' {0}-pt.sf >> old
             sed '/{0}p2/q' old > {0}-pt.sf
             printf '/dev/{0}p3 : start= 0, size= 0, Id= 0\\n/dev/{0}p4 : start= 0, size= 0, Id= 0\\n' \
                 >> {0}-pt.sf
             sed '1,/{0}p2/d' old >> {0}-pt.sf; rm old",
            first.short()
        ),
    );
    let old = store.import(&saved_in).unwrap_or_else(|error| panic!("{}", with_causes(&error)));
    sh(dir, &format!("partx -d {0}; wipefs -qa {0}; blkdiscard -f -z {0}", second.0));
    let log = restore(dir, &store, &format!("-k0 restoredisk {} {}", old.number, second.short()));
    assert_eq!(files(dir, &copy), saved, "{log}");
    assert_eq!(sh(dir, &format!("blkid -p -o value -s LABEL {}p6", second.0)).trim(), "exchange");

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
    let parts = save_and_import(dir, &store, XZ, &format!("saveparts saved \"{both}\""));
    assert!(!store.path(&parts).join("disk").exists(), "saveparts names a disk");
    let (manifest, _) = store.images.manifest(&parts).unwrap();
    let names: Vec<_> = manifest.partitions.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names.join(" "), both);

    wipe(dir, &fat);
    wipe(dir, &data);
    let log = restore(dir, &store, &format!("-k restoreparts {} \"{both}\"", parts.number));
    assert_eq!(files(dir, &data), saved, "{log}");
    sh(dir, &format!("cmp fat {fat}"));
}

/// A disk with a raw partition, an ext4, an NTFS and swap in a GPT; `raw` holds the first's content.
fn saved_gpt_disk(dir: &Path) -> LoopDisk {
    sh(
        dir,
        "truncate -s 200M first; mkdir repository content
         printf 'label: gpt\\nsize=2M,type=21686148-6449-6E6F-744E-656564454649,name=boot\\n' > table
         printf 'size=64M,type=L\\nsize=40M,type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\\n' >> table
         printf 'size=16M,type=S\\n' >> table
         sfdisk -q first < table; head -c 2M /dev/urandom > raw; seq 1 90000 > text
         cp -r /usr/share/perl5/Debconf content/tree; head -c 12M /dev/urandom > content/random",
    );
    let disk = LoopDisk::attach(&dir.join("first"));
    sh(
        dir,
        &format!(
            "partx -d {0} 2>/dev/null || true; partx -a {0}
             cp raw {0}p1; mke2fs -q -t ext4 -d content {0}p2; mkswap -L exchange {0}p4
             mkfs.ntfs -q -f {0}p3 2> /dev/null; ntfscp -q {0}p3 text text",
            disk.0
        ),
    );
    disk
}

/// The identities of a disk's partitions.
fn identities(dir: &Path, disk: &LoopDisk) -> String {
    sh(dir, &format!("sfdisk -d {0} | sed -n '/start/s|{0}||p' | tr -d ' '", disk.0))
}

/// The identities of a disk that gets the table which the store has of a revision.
fn stored_identities(dir: &Path, store: &Store, revision: &Revision) -> String {
    sh(dir, "rm -f third; truncate -s 200M third");
    let third = LoopDisk::attach(&dir.join("third"));
    let image = store.images.whole_disk(revision).unwrap_or_else(|e| panic!("{}", with_causes(&e)));
    let swap = &image.whole.swaps[..];
    assert!(swap.iter().all(|swap| swap.uuid.is_some() && swap.label == "exchange"), "{swap:?}");
    assert_eq!(swap.len(), 1);
    let file = fs::File::options().write(true).open(dir.join("third")).unwrap();
    for write in whole_disk::plan(&image.whole, 200 << 20, 512).unwrap().writes {
        file.write_all_at(&write.bytes, write.byte_offset).unwrap();
    }
    identities(dir, &third)
}

#[test]
fn clonezilla_saves_a_gpt_disk_we_import_it_and_clonezilla_restores_it_also_as_of_old() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let first = saved_gpt_disk(dir);
    let (saved, table) = (files(dir, &format!("{}p2", first.0)), identities(dir, &first));
    let store = Store::new();
    let new = save_and_import(dir, &store, LZO, &format!("savedisk saved {}", first.short()));
    let (manifest, _) = store.images.manifest(&new).unwrap();
    let partitions: Vec<_> =
        manifest.partitions.iter().map(|one| one.filesystem.as_str()).collect();
    assert_eq!(partitions, ["dd", "ext4", "ntfs"]);
    let left_out = format!("; left out: {}p4 (swap)", first.short());
    assert!(manifest.provenance.ends_with(&left_out), "{}", manifest.provenance);

    // What a Clonezilla of 2010 would have made of the same disk: no GPT from sfdisk, images of
    // ntfsclone and dd whose names do not say how they are compressed.
    let saved_in = dir.join("repository/saved");
    sh(
        &saved_in,
        &format!(
            "rm *SUMS {0}p1.dd-ptcl* {0}p3.ntfs-ptcl* {0}-gpt.sgdisk
             printf '# partition table of /dev/{0}\\nunit: sectors\\n\\n' > {0}-pt.sf
             printf '/dev/{0}p1 : start=        1, size=  409599, Id=ee\\n' >> {0}-pt.sf
             gzip -c /dev/{0}p1 > {0}p1.dd-img.aa
             ntfsclone -s -o - /dev/{0}p3 2> /dev/null | lzop -c > {0}p3.ntfs-img.aa",
            first.short()
        ),
    );
    let old = store.import(&saved_in).unwrap_or_else(|error| panic!("{}", with_causes(&error)));
    let stored = store.path(&old);
    assert_eq!(sh(&stored, "ls *.aa *.lzo 2> /dev/null || true"), "");

    for revision in [new, old] {
        assert_eq!(stored_identities(dir, &store, &revision), table);
        sh(dir, "rm -f second; truncate -s 200M second");
        let second = LoopDisk::attach(&dir.join("second"));
        let what = format!("-k0 restoredisk {} {}", revision.number, second.short());
        let log = restore(dir, &store, &what);
        assert_eq!(identities(dir, &second), table, "{log}");
        assert_eq!(files(dir, &format!("{}p2", second.0)), saved, "{log}");
        sh(dir, &format!("cmp raw {0}p1; ntfscat {0}p3 text | cmp - text", second.0));
        let label = sh(dir, &format!("blkid -p -o value -s LABEL {}p4", second.0));
        assert_eq!(label.trim(), "exchange", "{log}");
    }
}

#[test]
fn clonezilla_restores_what_we_made_of_raw_disks() {
    let (scratch, store) = (tempfile::tempdir().unwrap(), Store::new());
    let (mbr, gpt) = (scratch.path().join("mbr"), scratch.path().join("gpt"));
    let attached = |dir: &Path| {
        sh(dir, "truncate -s 200M second");
        LoopDisk::attach(&dir.join("second"))
    };
    let import = |dir: &Path| {
        let imported = store.import_disk(&dir.join("first"), &DiskOptions::default());
        imported.unwrap_or_else(|error| panic!("{}", with_causes(&error))).number
    };

    fs::create_dir(&mbr).unwrap();
    let first = saved_disk(&mbr);
    let saved = files(&mbr, &format!("{}p5", first.0));
    drop(first);
    let (number, second) = (import(&mbr), attached(&mbr));
    let log = restore(&mbr, &store, &format!("-k0 restoredisk {number} {}", second.short()));
    assert_eq!(files(&mbr, &format!("{}p5", second.0)), saved, "{log}");
    sh(&mbr, &format!("cmp fat {}p1", second.0));
    let label = |disk: &LoopDisk, number: u32| {
        let script = format!("blkid -p -o value -s LABEL {}p{number}", disk.0);
        sh(scratch.path(), &script).trim().to_owned()
    };
    assert_eq!(label(&second, 6), "exchange", "{log}");
    wipe(&mbr, &format!("{}p5", second.0));
    let one = format!("-k -f sda5 restoreparts {number} {}p5", second.short());
    let log = restore(&mbr, &store, &one);
    assert_eq!(files(&mbr, &format!("{}p5", second.0)), saved, "{log}");

    fs::create_dir(&gpt).unwrap();
    let first = saved_gpt_disk(&gpt);
    let (saved, table) = (files(&gpt, &format!("{}p2", first.0)), identities(&gpt, &first));
    drop(first);
    let (number, second) = (import(&gpt), attached(&gpt));
    let log = restore(&gpt, &store, &format!("-k0 restoredisk {number} {}", second.short()));
    assert_eq!(identities(&gpt, &second), table, "{log}");
    assert_eq!(files(&gpt, &format!("{}p2", second.0)), saved, "{log}");
    sh(&gpt, &format!("cmp raw {0}p1; ntfscat {0}p3 text | cmp - text", second.0));
    assert_eq!(label(&second, 4), "exchange", "{log}");
}

/// Overwrites a partition with zeros.
fn wipe(dir: &Path, partition: &str) {
    let kind = format!("blkid -p -o value -s TYPE {partition}");
    sh(dir, &format!("blkdiscard -f -z {partition}; test -z \"$({kind})\""));
}
